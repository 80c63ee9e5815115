//! `steer`: an eBPF-steered load balancer for SO_REUSEPORT groups.
//!
//! The engine decides and the daemon does. [`engine`] is a synchronous function of state, time and event to
//! effects; [`dataplane`] carries effects into the kernel; [`workers`] starts, watches and stops processes;
//! [`sockets`] makes listeners and reads what the kernel says of them; [`host`] tries what it can do; [`control`] is how clients ask, and
//! [`cli`] how people do; [`config`] reads what an operator has written down; [`log`] is
//! what all of them say on stderr; [`units`] is what systemd knows of servers that it starts.

// It panics where stderr cannot be written, and waits where nobody reads it: see [`log`].
#![warn(clippy::print_stderr)]

pub mod block;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod demo;
pub mod engine;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod group;
pub mod host;
pub mod keeper;
pub mod load;
pub mod log;
pub mod metrics;
pub mod names;
pub mod policy;
pub mod sockets;
pub mod threads;
pub mod units;
pub mod values;
pub mod workers;
