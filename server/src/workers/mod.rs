//! Workers' processes: starting, watching and stopping them, and finding the listeners that they make.

pub mod cgroup;
pub mod command;
pub mod discover;
pub mod limits;
pub mod notify;
pub mod output;
pub(crate) mod placeholders;
pub mod process;
pub mod sample;
pub mod spawn;
pub mod user;
