//! The handle of a watched listener.

use std::{
    os::fd::BorrowedFd,
    sync::{Arc, Mutex},
};

use rustix::net::{AddressFamily, ipproto, sockopt};
use server_common::looks::CellKey;

use super::{error::LooksError, indices::Indices, locked};

/// The transport protocol of a watched socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// A watched listener. It holds no descriptor. Dropping the last handle frees the cell without a system call; the
/// iterator goes on visiting the socket, to no effect, until it is closed.
#[derive(Debug)]
pub struct Watched {
    key: CellKey,
    transport: Transport,
    /// The number of the last look before.
    since: u64,
    indices: Arc<Mutex<Indices>>,
}

impl Watched {
    /// Owns one handle of the key, which the caller has counted.
    pub(super) fn new(key: CellKey, transport: Transport, since: u64, indices: Arc<Mutex<Indices>>) -> Self {
        Self { key, transport, since, indices }
    }

    pub(super) fn key(&self) -> CellKey {
        self.key
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    pub(super) fn since(&self) -> u64 {
        self.since
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        locked(&self.indices).give_back(self.key);
    }
}

/// The transport protocol of a socket, if the program can read its queues.
pub(super) fn transport(socket: BorrowedFd<'_>, reads_memory: bool) -> Result<Transport, LooksError> {
    let error = |errno: rustix::io::Errno| LooksError::Socket(errno.into());
    let domain = sockopt::socket_domain(socket).map_err(error)?;
    if domain != AddressFamily::INET && domain != AddressFamily::INET6 {
        return Err(LooksError::Unwatchable { what: "a socket that is neither TCP nor UDP" });
    }
    match sockopt::socket_protocol(socket).map_err(error)? {
        Some(ipproto::TCP) => Ok(Transport::Tcp),
        Some(ipproto::UDP) if domain == AddressFamily::INET && !reads_memory => {
            Err(LooksError::Unwatchable { what: "an IPv4 UDP socket under lockdown=confidentiality" })
        }
        Some(ipproto::UDP) => Ok(Transport::Udp),
        // An MPTCP listener keeps its requests in an inner TCP socket, and reads as empty.
        Some(ipproto::MPTCP) => Err(LooksError::Unwatchable { what: "an MPTCP listener" }),
        _ => Err(LooksError::Unwatchable { what: "a socket that is neither TCP nor UDP" }),
    }
}
