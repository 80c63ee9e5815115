//! What stands in the kernel: the program, its maps, and the changes made to them.
//!
//! One [`KernelGroup`](kernel_group::KernelGroup) for each listen address, because the kernel's SO_REUSEPORT groups
//! are by address; nothing is shared between them, so no limit is either.

pub mod bind_hook;
pub mod cells;
pub mod error;
pub mod flow_table;
pub mod kernel_group;
mod loading;
pub mod looks;
pub mod object;
pub mod pins;
pub mod publisher;
mod routing;
mod shape;
pub(crate) mod shared_array;
mod syscall;
