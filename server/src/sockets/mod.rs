//! Listeners: making them, and reading what the kernel says of them.

pub mod address;
pub mod netns;
