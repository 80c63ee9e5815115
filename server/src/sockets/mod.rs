//! Listeners: making them, and reading what the kernel says of them.

pub mod address;
pub mod cgroups;
pub mod containers;
pub mod destroyed;
pub mod diag;
pub mod holder;
pub mod inherited;
pub mod listener;
pub mod netns;
pub mod options;
pub mod passed;
pub mod pidfd;
pub mod pollers;
pub mod processes;
pub mod procfs;
