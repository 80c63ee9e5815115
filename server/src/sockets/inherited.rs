//! What connections have from the listener that accepts them: so that those that another listener accepts in its place have it, too.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd as _},
};

use serde::{Deserialize, Serialize};

use super::options::{self, SocketError};

/// The options, as `sk_clone_lock` copies them to each connection. Sizes of buffers are apart: the kernel doubles what it is told, and
/// whether somebody has told it counts, too.
const OPTIONS: [(i32, i32); 12] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
];

/// Sizes of buffers. Read, they are twice what was set.
const BUFFERS: [(i32, i32); 2] = [(libc::SOL_SOCKET, libc::SO_RCVBUF), (libc::SOL_SOCKET, libc::SO_SNDBUF)];

/// What a listener has that differs from a new one, and whether it takes IPv4 traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    /// Whether an IPv6 listener takes no IPv4 traffic; of no meaning for IPv4.
    pub v6_only: bool,
    /// Level, name and value of each option that differs.
    options: Vec<(i32, i32, i32)>,
}

impl Inherited {
    /// What a new listener has, of an address family with traffic of its own only, or of both.
    pub fn of_new(v6_only: bool) -> Self {
        Self { v6_only, options: Vec::new() }
    }

    /// Reads them from a listener. `like` is a new socket of the same family, to tell what somebody has set.
    pub fn read(listener: impl AsFd, like: impl AsFd) -> Result<Self, SocketError> {
        let differs = |&(level, name): &(i32, i32)| {
            // What the family does not have is not copied.
            let value = get(&listener, level, name)?;
            (get(&like, level, name)? != value).then_some((level, name, value))
        };
        let plain = OPTIONS.iter().filter_map(differs);
        let buffers = BUFFERS.iter().filter_map(differs).map(|(level, name, value)| (level, name, value / 2));
        Ok(Self { v6_only: options::is_v6_only(&listener)?, options: plain.chain(buffers).collect() })
    }

    /// Gives them to a socket that is not bound yet. What it cannot have is left out: it takes nothing from who waits.
    pub fn give(&self, socket: impl AsFd, is_ipv6: bool) -> io::Result<()> {
        if is_ipv6 {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(self.v6_only))?;
        }
        for &(level, name, value) in &self.options {
            if let Err(error) = set(&socket, level, name, value) {
                tracing::debug!("a holding listener is without option {level}/{name}: {error}");
            }
        }
        Ok(())
    }
}

fn get(socket: &impl AsFd, level: i32, name: i32) -> Option<i32> {
    let (mut value, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes no more than the length that it is told.
    let result =
        unsafe { libc::getsockopt(descriptor, level, name, (&raw mut value).cast(), &raw mut length) };
    (result == 0).then_some(value)
}

fn set(socket: &impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option's value is of this length.
    let result = unsafe { libc::setsockopt(descriptor, level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    fn socket(domain: Domain) -> Socket {
        Socket::new(domain, Type::STREAM, None).unwrap()
    }

    #[test]
    fn what_differs_is_given_and_nothing_else() {
        for domain in [Domain::IPV4, Domain::IPV6] {
            let (like, theirs, ours) = (socket(domain), socket(domain), socket(domain));
            assert_eq!(Inherited::read(&theirs, &like).unwrap().options, []);
            theirs.set_keepalive(true).unwrap();
            theirs.set_tcp_nodelay(true).unwrap();
            theirs.set_recv_buffer_size(50_000).unwrap();
            let inherited = Inherited::read(&theirs, &like).unwrap();
            assert_eq!(inherited.options.len(), 3, "{inherited:?}");
            inherited.give(&ours, domain == Domain::IPV6).unwrap();
            assert!(ours.keepalive().unwrap() && ours.tcp_nodelay().unwrap());
            assert_eq!(ours.recv_buffer_size().unwrap(), theirs.recv_buffer_size().unwrap());
        }
        let v6_only = socket(Domain::IPV6);
        v6_only.set_only_v6(true).unwrap();
        v6_only.bind(&"[::]:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        let inherited = Inherited::read(&v6_only, socket(Domain::IPV6)).unwrap();
        let other = socket(Domain::IPV6);
        inherited.give(&other, true).unwrap();
        assert!(inherited.v6_only && other.only_v6().unwrap());
    }
}
