//! What can go wrong between the daemon and the kernel's maps and programs.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, pin::PinError, programs::ProgramError, sys::SyscallError};
use thiserror::Error;

use super::pins::PinsError;

/// A failed operation on the data plane.
#[derive(Debug, Error)]
pub enum DataplaneError {
    /// The object could not be loaded: its maps could not be made.
    #[error("cannot create the maps of the steering program")]
    Load(#[source] EbpfError),
    /// The kernel refused the program.
    #[error("the kernel refused the program `{program}`")]
    Program {
        /// The program's name.
        program: &'static str,
        /// The verifier's or the kernel's reason.
        #[source]
        source: ProgramError,
    },
    /// The object lacks something that it was built with.
    #[error("the embedded object has no {kind} `{name}`")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// An operation on a map failed.
    #[error("cannot {operation} the map `{map}`")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// The map's name.
        map: &'static str,
        /// The kernel's reason.
        #[source]
        source: MapError,
    },
    /// Program and maps could not be pinned.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// What an earlier daemon had pinned is not there any more.
    #[error("the pin of the {kind} `{name}` is gone from {}", directory.display())]
    Unpinned {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
        /// Where it was.
        directory: PathBuf,
    },
    /// A pin could not be made.
    #[error("cannot pin `{name}`")]
    Pin {
        /// What was to be pinned.
        name: &'static str,
        /// The kernel's reason.
        #[source]
        source: PinError,
    },
    /// The kernel did not take a listener into a slot.
    #[error("cannot put the listener into slot {slot}")]
    Put {
        /// The slot.
        slot: u16,
        /// The kernel's reason: EINVAL for a socket that does not listen or is in no group, EBUSY for one that
        /// is in another sockarray, ENOTSUPP (524) for MPTCP.
        #[source]
        source: io::Error,
    },
}

impl DataplaneError {
    /// The way out, for a `hint:` line, where the kernel's reason tells one.
    pub fn hint(&self) -> Option<&'static str> {
        if let Self::Pins(error) = self {
            return Some(error.hint());
        }
        if let Self::Unpinned { .. } = self {
            return Some(
                "the group serves on under its last table, and cannot be managed any more: end its workers, remove its file \
                 from the directory of states beside the control socket, and start the daemon again",
            );
        }
        let errno = self.errno()?;
        match (self, errno) {
            // EACCES is the verifier's answer, and is not about privilege.
            (Self::Load(_) | Self::Program { .. }, libc::EPERM) => Some(
                "loading the program needs CAP_BPF: run as root, or give the process that capability; before Linux 5.11 \
                     its maps are locked memory too: raise LimitMEMLOCK= or `ulimit -l`",
            ),
            (Self::Put { .. }, 524) => Some(
                "the listener is an MPTCP socket, which the kernel cannot steer; for Go programs set GODEBUG=multipathtcp=0",
            ),
            (Self::Put { .. }, libc::EBUSY) => {
                Some("the listener is already steered by another program's sockarray")
            }
            _ => None,
        }
    }

    /// The kernel's error number, where one is at the root of it.
    pub fn errno(&self) -> Option<i32> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.raw_os_error();
            }
            // It speaks for the error inside, which is no source of it.
            if let Some(MapError::IoError(io)) = error.downcast_ref::<MapError>() {
                return io.raw_os_error();
            }
            cause = error.source();
        }
        None
    }
}

/// What the kernel has answered to a call about a map.
pub(super) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(SyscallError { io_error, .. }) => io_error,
        other => io::Error::other(other),
    }
}
