//! Errors of looks.

use std::{io, sync::Arc};

use aya::{BtfError as AyaBtfError, EbpfError, maps::MapError, programs::ProgramError, sys::SyscallError};
use thiserror::Error;

use super::btf::BtfError;

/// A failed look. Never fatal for the daemon: sock_diag tells the same, with an estimate of half-open handshakes.
#[derive(Debug, Error)]
pub enum LooksError {
    /// The kernel's BTF could not be read, or lacks a field.
    #[error("cannot find the fields of the kernel's socket structures")]
    Btf(#[from] BtfError),
    /// The attach targets could not be passed to aya.
    #[error("cannot prepare the attach targets of the iterators")]
    Iterators(#[source] AyaBtfError),
    /// The object could not be loaded: its maps could not be made.
    #[error("cannot create the maps of the look programs")]
    Load(#[source] EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused the program `{program}`")]
    Program {
        /// The program's name.
        program: &'static str,
        /// The verifier's or the kernel's reason.
        #[source]
        source: ProgramError,
    },
    /// The embedded object lacks a map or program.
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
    /// An iterator could not be linked, opened or read.
    #[error("cannot {operation} the iterator `{program}`")]
    Iterator {
        /// What was tried.
        operation: &'static str,
        /// The program's name.
        program: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The family or protocol of a socket could not be read.
    #[error("cannot read the protocol of the socket to watch")]
    Socket(#[source] io::Error),
    /// The program cannot read the queues of such a socket.
    #[error("cannot watch {what}")]
    Unwatchable {
        /// The kind of socket.
        what: &'static str,
    },
    /// The limit of watched listeners is reached.
    #[error("cannot watch more than {max} listeners")]
    Full {
        /// The limit.
        max: u32,
    },
    /// The kernel cannot list the connections of one process.
    #[error("this kernel cannot list the connections of one process")]
    NoConnections(#[source] Arc<LooksError>),
    /// The kernel cannot list the processes, or lists them by other numbers than this process knows them by.
    #[error("a look cannot list the processes here")]
    NoProcesses(#[source] Arc<LooksError>),
}

impl LooksError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Btf(BtfError::Read { .. }) => {
                "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions build it; without it half-open handshakes \
                 are estimated"
            }
            Self::NoConnections(_) => {
                "use Linux 6.1 or later; /proc and sock_diag tell the same at a higher cost"
            }
            Self::NoProcesses(_) => "/proc tells the same at a higher cost",
            Self::Full { .. } | Self::Unwatchable { .. } => {
                "sock_diag tells its queues, with an estimate of half-open handshakes"
            }
            _ if self.errno() == Some(libc::EPERM) => {
                "it needs CAP_BPF and CAP_PERFMON: run as root, or give the process these capabilities; before Linux \
                 5.11 maps are locked memory too: raise LimitMEMLOCK= or `ulimit -l`"
            }
            _ => {
                "use Linux 5.10 or later with CONFIG_DEBUG_INFO_BTF=y; without it half-open handshakes are estimated"
            }
        }
    }

    /// The kernel's error number, where one is at the root of it.
    pub fn errno(&self) -> Option<i32> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.raw_os_error();
            }
            // They speak for the error inside, which is no source of theirs.
            if let Some(MapError::IoError(io) | MapError::SyscallError(SyscallError { io_error: io, .. })) =
                error.downcast_ref::<MapError>()
            {
                return io.raw_os_error();
            }
            cause = error.source();
        }
        None
    }
}
