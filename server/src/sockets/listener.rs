//! Makes a listener that is a member of its address's SO_REUSEPORT group.

use std::{fs, io, os::fd::OwnedFd};

use socket2::{Domain, Socket, Type};
use thiserror::Error;

use super::{
    address::{ListenAddress, Protocol},
    holder::{self, Holder},
    inherited::Inherited,
};

/// Why there is no listener.
#[derive(Debug, Error)]
pub enum ListenerError {
    /// Somebody else's socket is in the way.
    #[error("cannot listen on {address}: {}", describe(.holder.as_deref()))]
    AddressInUse {
        /// The address that was wanted.
        address: ListenAddress,
        /// The owner that the listener was to have.
        uid: u32,
        /// The socket in the way, where it could be found.
        holder: Option<Box<Holder>>,
    },
    /// The port is a privileged one.
    #[error(
        "cannot listen on {address}: ports below {first_free} need CAP_NET_BIND_SERVICE, which this process lacks"
    )]
    PermissionDenied {
        /// The address that was wanted.
        address: ListenAddress,
        /// The first port that needs no privilege.
        first_free: u16,
    },
    /// No interface has the address.
    #[error("cannot listen on {address}: no interface of this host has the address {}", address.address.ip())]
    AddressNotAvailable {
        /// The address that was wanted.
        address: ListenAddress,
    },
    /// The socket could not be given to its owner.
    #[error("cannot give the listener for {address} to user {uid}")]
    Owner {
        /// The address that was wanted.
        address: ListenAddress,
        /// The owner it was to have.
        uid: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot {operation} for {address}")]
    Other {
        /// What failed, as in "make a socket".
        operation: &'static str,
        /// The address that was wanted.
        address: ListenAddress,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

fn describe(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!("the address is in use by {holder}"),
        None => "the address is in use".to_owned(),
    }
}

impl ListenerError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AddressInUse { uid, holder, .. } => Some(match holder.as_deref() {
                Some(holder) if holder.shares == Some(false) => format!(
                    "it does not set SO_REUSEPORT, so nothing can listen beside it: stop {} or choose another address",
                    holder.who()
                ),
                Some(holder) if holder.uid != *uid => format!(
                    "sockets share an address only under one owner, and root is no exception: run the group as user {} \
                     instead of {uid}, stop {}, or choose another address",
                    holder.uid,
                    holder.who()
                ),
                Some(holder) => format!("stop {} or choose another address", holder.who()),
                None => "`ss -anp` names what is bound there; stop it or choose another address".to_owned(),
            }),
            Self::PermissionDenied { .. } => Some(
                "give the process CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=), choose a higher port, or \
                 lower net.ipv4.ip_unprivileged_port_start"
                    .to_owned(),
            ),
            Self::AddressNotAvailable { .. } => {
                Some("`ip address` lists the addresses there are; 0.0.0.0 and [::] take them all".to_owned())
            }
            Self::Owner { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
                Some("giving a socket to another user needs CAP_CHOWN".to_owned())
            }
            Self::Other { source, .. } if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                Some("the kernel has IPv6 turned off".to_owned())
            }
            Self::Owner { .. } | Self::Other { .. } => None,
        }
    }
}

/// Makes a socket that listens (TCP) or is bound (UDP) with SO_REUSEPORT, closed on exec and blocking.
///
/// `owner_uid` is who the socket shall belong to: the kernel lets only sockets of one owner into a group, by the
/// uid of the socket's inode, and root is no exception. It is set before the bind, where the kernel compares.
/// Giving it to another user needs CAP_CHOWN. `backlog` counts for TCP only, up to `net.core.somaxconn`.
///
/// TCP sockets also get SO_REUSEADDR: accepted connections of a listener with another owner would else be in the
/// way. UDP ones do not: there it would let in sockets without SO_REUSEPORT. IPV6_V6ONLY stays what the system
/// says (`net.ipv6.bindv6only`): a program that binds `[::]` itself mostly does so too, and two that differ in it
/// are in two groups.
///
/// The socket is in the group from here on: without a program that selects, the kernel sends connections to it.
pub fn make_listener(
    address: ListenAddress,
    owner_uid: Option<u32>,
    backlog: i32,
) -> Result<OwnedFd, ListenerError> {
    make_listener_like(address, owner_uid, backlog, None)
}

/// The same, with what connections are to have of another's listener, whose IPV6_V6ONLY it has as well.
pub fn make_listener_like(
    address: ListenAddress,
    owner_uid: Option<u32>,
    backlog: i32,
    inherited: Option<&Inherited>,
) -> Result<OwnedFd, ListenerError> {
    let other = |operation| move |source| ListenerError::Other { operation, address, source };
    let kind = match address.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    // The protocol is never left to the default, which a program can turn into MPTCP.
    let protocol = match address.protocol {
        Protocol::Tcp => socket2::Protocol::TCP,
        Protocol::Udp => socket2::Protocol::UDP,
    };
    let domain = Domain::for_address(address.address);
    let socket = Socket::new(domain, kind, Some(protocol)).map_err(other("make a socket"))?;
    socket.set_reuse_port(true).map_err(other("set SO_REUSEPORT"))?;
    if address.protocol == Protocol::Tcp {
        socket.set_reuse_address(true).map_err(other("set SO_REUSEADDR"))?;
    }
    if let Some(inherited) = inherited {
        let given = inherited.give(&socket, address.address.is_ipv6());
        given.map_err(other("set the options of the listener in whose place it is"))?;
    }
    if let Some(uid) = owner_uid {
        rustix::fs::fchown(&socket, Some(rustix::fs::Uid::from_raw(uid)), None)
            .map_err(|errno| ListenerError::Owner { address, uid, source: errno.into() })?;
    }
    let uid = owner_uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    socket.bind(&address.address.into()).map_err(|source| refusal(address, uid, "bind", source))?;
    if address.protocol == Protocol::Tcp {
        // The port can be taken between the two: `listen` asks for it again.
        socket.listen(backlog).map_err(|source| refusal(address, uid, "listen", source))?;
    }
    Ok(socket.into())
}

fn refusal(address: ListenAddress, uid: u32, operation: &'static str, source: io::Error) -> ListenerError {
    match source.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            ListenerError::AddressInUse { address, uid, holder: holder::find(address, uid).map(Box::new) }
        }
        Some(libc::EADDRNOTAVAIL) => ListenerError::AddressNotAvailable { address },
        Some(libc::EACCES) if address.address.port() < first_unprivileged_port() => {
            ListenerError::PermissionDenied { address, first_free: first_unprivileged_port() }
        }
        _ => ListenerError::Other { operation, address, source },
    }
}

/// The first port that any process may bind, 1024 unless the administrator chose another.
fn first_unprivileged_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::sockets::{diag::Diag, options};

    fn address(text: &str) -> ListenAddress {
        text.parse().unwrap()
    }

    fn with_port(text: &str, port: u16) -> ListenAddress {
        let mut address = address(text);
        address.address.set_port(port);
        address
    }

    #[test]
    fn listeners_of_one_owner_share_an_address() {
        let uid = rustix::process::geteuid().as_raw();
        for text in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0", "udp://127.0.0.1:0", "udp://[::]:0"] {
            let first = make_listener(address(text), Some(uid), 16).unwrap();
            let bound: SocketAddr = options::local_address(&first).unwrap();
            let second = make_listener(with_port(text, bound.port()), None, 16).unwrap();
            assert!(options::has_reuseport(&first).unwrap());
            let tcp = address(text).protocol == Protocol::Tcp;
            assert_eq!(options::listens(&second).unwrap(), tcp, "{text}");
            let found = Diag::open().unwrap().listeners(with_port(text, bound.port())).unwrap();
            let mut cookies: Vec<u64> = found.iter().map(|listener| listener.cookie).collect();
            cookies.sort_unstable();
            let mut expected = [&first, &second].map(|fd| options::socket_cookie(fd).unwrap());
            expected.sort_unstable();
            assert_eq!(cookies, expected, "{text}");
            assert!(found.iter().all(|listener| listener.uid == uid));
        }
    }

    #[test]
    fn a_plain_socket_in_the_way_is_named() {
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = plain.local_addr().unwrap().port();
        for text in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let error = make_listener(with_port(text, port), None, 16).unwrap_err();
            let ListenerError::AddressInUse { holder: Some(holder), .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(holder.local, plain.local_addr().unwrap());
            assert_eq!(holder.uid, rustix::process::geteuid().as_raw());
            assert_eq!(holder.shares, Some(false));
            assert!(holder.processes.iter().any(|(pid, _)| *pid == std::process::id()));
            let pid = format!("pid {}", std::process::id());
            assert!(error.to_string().contains(&pid), "{error}");
            assert!(error.hint().unwrap().contains("SO_REUSEPORT"), "{error}");
        }
    }

    #[test]
    fn a_plain_datagram_socket_in_the_way_is_named() {
        let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wanted = with_port("udp://127.0.0.1:0", plain.local_addr().unwrap().port());
        let error = make_listener(wanted, None, 16).unwrap_err();
        assert!(matches!(error, ListenerError::AddressInUse { holder: Some(_), .. }), "{error:?}");
    }

    #[test]
    fn connections_of_a_former_listener_are_not_in_the_way() {
        let former = make_listener(address("127.0.0.1:0"), None, 16).unwrap();
        let bound = options::local_address(&former).unwrap();
        let former = TcpListener::from(former);
        let _client = TcpStream::connect(bound).unwrap();
        let _accepted = former.accept().unwrap();
        drop(former);
        make_listener(with_port("127.0.0.1:0", bound.port()), None, 16).unwrap();
    }

    #[test]
    fn an_address_of_another_host_is_refused() {
        // TEST-NET-3, which no host has.
        let error = make_listener(address("203.0.113.7:0"), None, 16).unwrap_err();
        assert!(matches!(error, ListenerError::AddressNotAvailable { .. }), "{error:?}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_privileged_port_names_the_capability() {
        let error = refusal(address("127.0.0.1:0"), 0, "bind", io::Error::from_raw_os_error(libc::EACCES));
        let first_free = first_unprivileged_port();
        if first_free == 0 {
            assert!(matches!(error, ListenerError::Other { .. }), "every port is free here: {error:?}");
        } else {
            assert!(error.to_string().contains("CAP_NET_BIND_SERVICE"), "{error}");
            assert!(error.hint().unwrap().contains("CAP_NET_BIND_SERVICE"));
        }
    }
}
