//! What a daemon leaves for the next, beside what stands in the kernel: one small file for each group.
//!
//! Program, maps, tables, counters and listeners are in the kernel, and processes are in `/proc`; the file says whose is which.
//! It is written before anything is done that it speaks of, so it may say more than has been done, and never less.

mod file;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod saved;

pub use self::file::StateError;
#[cfg(any(test, fuzzing))]
pub use self::fuzzing::check;
pub(crate) use self::{
    file::{StateFile, directory_beside},
    saved::{FORMAT, MAPS, PassedOver, Saved, SavedAddress, SavedProcess},
};
