//! Proves a hook above all programs: a socket that knows nothing of SO_REUSEPORT is given it by its `bind`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustix::fs::{Uid, fchown};
use socket2::{Domain, Socket, Type};
use thiserror::Error;

use super::Scope;
use crate::sockets::{
    address::{ListenAddress, Protocol},
    netns::Cookie,
};

/// What the proof has shown.
#[derive(Debug, Error)]
pub enum ProofError {
    /// It could not be tried.
    #[error("cannot try a bind to {address}: cannot {operation}")]
    NotTried {
        /// The address.
        address: ListenAddress,
        /// What failed.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The calling thread is in another network namespace than the hook is for.
    #[error("the thread is in network namespace {found}, and the bind hook is for {wanted}")]
    OtherNamespace {
        /// The cookie of the thread's.
        found: u64,
        /// That of the hook's.
        wanted: u64,
    },
    /// The hook has not set the option: it did not run.
    #[error("a bind to {address} was given no SO_REUSEPORT")]
    NotShared {
        /// The address.
        address: ListenAddress,
    },
    /// The hook has set the option, and yet the kernel has refused the bind.
    #[error("a bind to {address} was refused, though it had SO_REUSEPORT")]
    Refused {
        /// The address.
        address: ListenAddress,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl ProofError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotTried { .. } | Self::OtherNamespace { .. } => "report it, with the kernel's version",
            Self::NotShared { .. } => {
                "steer's own cgroup has to be one of those below the hook: `bpftool cgroup tree` shows where that is attached"
            }
            Self::Refused { source, .. } if source.raw_os_error() == Some(libc::EADDRINUSE) => {
                "the address has a socket of another user, or one without SO_REUSEPORT: `ss -lntupe` shows it"
            }
            Self::Refused { .. } => "see `steer check`",
        }
    }
}

/// Binds a socket of this owner to each address of the scope, in the calling thread, which has to be in the scope's network namespace. The
/// sockets never listen, and are closed at once.
///
/// A TCP bind has to succeed beside the sockets that are there, which is what a server's next start needs; that the option was set tells
/// it from a bind beside nobody. A UDP socket is never bound there, since datagrams would come to it from then on: it has an address
/// already, so that the kernel runs the hook and then refuses the second one.
pub(super) fn prove(scope: &Scope, owner: Option<u32>) -> Result<(), ProofError> {
    scope.addresses.iter().try_for_each(|&address| prove_one(address, scope.netns, owner))
}

fn prove_one(address: ListenAddress, netns: Option<Cookie>, owner: Option<u32>) -> Result<(), ProofError> {
    let failed = |operation| move |source| ProofError::NotTried { address, operation, source };
    let kind = match address.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket =
        Socket::new(Domain::for_address(address.address), kind, None).map_err(failed("make a socket"))?;
    if let Some(wanted) = netns {
        let found = Cookie::of_socket(&socket).map_err(failed("tell its network namespace"))?;
        if found != wanted {
            return Err(ProofError::OtherNamespace { found: found.get(), wanted: wanted.get() });
        }
    }
    if let Some(owner) = owner {
        fchown(&socket, Some(Uid::from_raw(owner)), None)
            .map_err(|errno| failed("give it to its owner")(errno.into()))?;
    }
    match address.protocol {
        // Connections that were accepted before their listener was made to share are in the way of a bind else.
        Protocol::Tcp => socket.set_reuse_address(true).map_err(failed("set SO_REUSEADDR"))?,
        // A `connect` takes a port without a `bind`, and of UDP sends nothing.
        Protocol::Udp => socket.connect(&somewhere(address).into()).map_err(failed("connect it"))?,
    }
    let bound = socket.bind(&address.address.into());
    if !socket.reuse_port().map_err(failed("read SO_REUSEPORT"))? {
        return Err(ProofError::NotShared { address });
    }
    match (address.protocol, bound) {
        (Protocol::Udp, Err(error)) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        (_, Err(source)) => Err(ProofError::Refused { address, source }),
        (_, Ok(())) => Ok(()),
    }
}

/// A port of loopback; nothing is sent to it.
fn somewhere(address: ListenAddress) -> SocketAddr {
    const DISCARD: u16 = 9;
    let ip: IpAddr = match address.address {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, DISCARD)
}
