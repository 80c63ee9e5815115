//! A listener that is watched.

use std::{
    os::fd::BorrowedFd,
    sync::{Arc, Mutex},
};

use rustix::net::{AddressFamily, ipproto, sockopt};
use server_common::looks::CellKey;

use super::{error::LooksError, indices::Indices, locked};

/// What a watched socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// A handle of a watched listener. Nothing of the socket has to be open for it. Dropping it frees the index, takes no time and makes no
/// call; a socket that is still open is visited in vain until it is closed.
#[derive(Debug)]
pub struct Watched {
    key: CellKey,
    transport: Transport,
    /// The number of the last look before it was watched.
    since: u64,
    indices: Arc<Mutex<Indices>>,
}

impl Watched {
    /// Takes over one handle of the key.
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

/// What a socket speaks, if the program can look at it.
pub(super) fn transport(socket: BorrowedFd<'_>, reads_memory: bool) -> Result<Transport, LooksError> {
    let error = |errno: rustix::io::Errno| LooksError::Socket(errno.into());
    let domain = sockopt::socket_domain(socket).map_err(error)?;
    if domain != AddressFamily::INET && domain != AddressFamily::INET6 {
        return Err(LooksError::Unwatchable { what: "a socket that is neither TCP nor UDP" });
    }
    match sockopt::socket_protocol(socket).map_err(error)? {
        Some(ipproto::TCP) => Ok(Transport::Tcp),
        Some(ipproto::UDP) if domain == AddressFamily::INET && !reads_memory => {
            Err(LooksError::Unwatchable { what: "under lockdown, the queue of a UDP socket of IPv4" })
        }
        Some(ipproto::UDP) => Ok(Transport::Udp),
        // Its requests are those of a TCP socket inside it.
        Some(ipproto::MPTCP) => Err(LooksError::Unwatchable { what: "an MPTCP listener" }),
        _ => Err(LooksError::Unwatchable { what: "a socket that is neither TCP nor UDP" }),
    }
}
