//! What can go wrong with a look.

use std::{io, sync::Arc};

use aya::{BtfError as AyaBtfError, EbpfError, maps::MapError, programs::ProgramError, sys::SyscallError};
use thiserror::Error;

use super::btf::BtfError;

/// A look that cannot be had. None is fatal: sock_diag finds the same, with handshakes that are an estimate.
#[derive(Debug, Error)]
pub enum LooksError {
    /// The running kernel's types could not be read, or lack what is looked at.
    #[error("cannot find the fields of the kernel's sockets")]
    Btf(#[from] BtfError),
    /// What the kernel calls its iterators could not be passed on.
    #[error("cannot name the kernel's iterators")]
    Iterators(#[source] AyaBtfError),
    /// The object could not be loaded: its maps could not be made.
    #[error("cannot create the maps of the programs that look")]
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
    /// What a socket is could not be asked.
    #[error("cannot ask what socket it is that is to be watched")]
    Socket(#[source] io::Error),
    /// The kernel keeps the queue of such a socket where the program cannot look.
    #[error("{what} cannot be looked at")]
    Unwatchable {
        /// The kind of socket.
        what: &'static str,
    },
    /// As many listeners are watched as can be.
    #[error("{max} listeners are watched, and more cannot be")]
    Full {
        /// How many that is.
        max: u32,
    },
    /// This kernel does not look at the connections of one process.
    #[error("this kernel cannot list the connections of one process")]
    NoConnections(#[source] Arc<LooksError>),
}

impl LooksError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Btf(BtfError::Read { .. }) => {
                "Linux with CONFIG_DEBUG_INFO_BTF=y, which distributions have since 2020; handshakes are estimated without it"
            }
            Self::NoConnections(_) => {
                "Linux 6.1 or later; /proc and sock_diag tell the same, at a higher cost"
            }
            Self::Full { .. } | Self::Unwatchable { .. } => {
                "sock_diag tells of it, with handshakes that are an estimate"
            }
            _ if self.errno() == Some(libc::EPERM) => {
                "it needs CAP_BPF and CAP_PERFMON: run as root, or give the process these capabilities; before Linux 5.11 maps are \
                 locked memory too: raise LimitMEMLOCK= or `ulimit -l`"
            }
            _ => "Linux 5.10 or later with CONFIG_DEBUG_INFO_BTF=y; handshakes are estimated without it",
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
