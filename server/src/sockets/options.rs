//! What one socket says of itself, and the two ways to shut a listener down.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::{io::Errno, net::RecvFlags};
use socket2::SockRef;
use thiserror::Error;

/// The state of a listener, from net/tcp_states.h.
const TCP_LISTEN: u8 = 10;

/// A socket that could not be asked or changed. The object is always the descriptor that was passed.
#[derive(Debug, Error)]
#[error("cannot {operation}")]
pub struct SocketError {
    /// What was tried, as in "read the cookie of the socket".
    pub operation: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl SocketError {
    /// Whether a listener was to be shut down that did not listen.
    pub fn is_not_listening(&self) -> bool {
        self.source.raw_os_error() == Some(libc::ENOTCONN)
    }
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError { operation, source }
}

/// The address that the socket is bound to; the port that the kernel chose where 0 was asked for.
///
/// Fails on a descriptor that is no IP socket.
pub fn local_address(socket: impl AsFd) -> Result<SocketAddr, SocketError> {
    let operation = "read the local address of the socket";
    let address = SockRef::from(&socket).local_addr().map_err(failed(operation))?;
    address
        .as_socket()
        .ok_or_else(|| failed(operation)(io::Error::new(io::ErrorKind::InvalidInput, "it is no IP socket")))
}

/// The socket cookie (SO_COOKIE, Linux 4.12): unique for as long as the kernel runs, the same in sock_diag and
/// in a sockarray's values.
pub fn socket_cookie(socket: impl AsFd) -> Result<u64, SocketError> {
    SockRef::from(&socket).cookie().map_err(failed("read the cookie of the socket"))
}

/// Whether the socket is an MPTCP one (SO_PROTOCOL is 262). A sockarray refuses these with -524.
pub fn is_mptcp(socket: impl AsFd) -> Result<bool, SocketError> {
    let protocol = rustix::net::sockopt::socket_protocol(&socket)
        .map_err(|errno| failed("read the protocol of the socket")(errno.into()))?;
    Ok(protocol == Some(rustix::net::ipproto::MPTCP))
}

/// Whether SO_REUSEPORT is set: without it a socket is in no group.
pub fn has_reuseport(socket: impl AsFd) -> Result<bool, SocketError> {
    SockRef::from(&socket).reuse_port().map_err(failed("read SO_REUSEPORT of the socket"))
}

/// Lets other sockets share the socket's address (SO_REUSEPORT), also of one that is bound already.
pub fn share(socket: impl AsFd) -> Result<(), SocketError> {
    SockRef::from(&socket).set_reuse_port(true).map_err(failed("set SO_REUSEPORT of the socket"))
}

/// The interface that the socket is bound to (SO_BINDTODEVICE), where it is: then it is in a group apart.
pub fn bound_device(socket: impl AsFd) -> Result<Option<String>, SocketError> {
    let name = SockRef::from(&socket).device().map_err(failed("read SO_BINDTODEVICE of the socket"))?;
    Ok(name.map(|name| String::from_utf8_lossy(&name).into_owned()))
}

/// Whether the socket listens now (SO_ACCEPTCONN): false before `listen` and after [`shut_listener`].
pub fn listens(socket: impl AsFd) -> Result<bool, SocketError> {
    SockRef::from(&socket).is_listener().map_err(failed("read SO_ACCEPTCONN of the socket"))
}

/// What a listener says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Whether it listens: false before `listen` and after [`shut_listener`].
    pub listens: bool,
    /// Connections that wait to be accepted.
    pub unaccepted: u32,
}

impl Listening {
    /// Two listeners' taken together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            listens: self.listens && other.listens,
            unaccepted: self.unaccepted.saturating_add(other.unaccepted),
        }
    }
}

/// What a TCP listener says of itself (TCP_INFO): some 0.3 us, where sock_diag walks all listeners of the host to find one.
pub fn listening(listener: BorrowedFd<'_>) -> Result<Listening, SocketError> {
    // SAFETY: integers; all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than the length that it is told.
    let result = unsafe {
        libc::getsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(failed("read TCP_INFO of the listener")(io::Error::last_os_error()));
    }
    let listens = info.tcpi_state == TCP_LISTEN;
    // `tcp_get_info` puts the queue's length there for a listener, and something else for other sockets.
    Ok(Listening { listens, unaccepted: if listens { info.tcpi_unacked } else { 0 } })
}

/// The same of a UDP socket, which is always bound: of its unread datagrams it tells whether there are any.
pub fn receiving(socket: BorrowedFd<'_>) -> Result<Listening, SocketError> {
    let next = rustix::io::ioctl_fionread(socket)
        .map_err(|errno| failed("read the length of the socket's next datagram")(errno.into()))?;
    Ok(Listening { listens: true, unaccepted: u32::from(next > 0) })
}

/// The socket's inode, as in `/proc/PID/fd` and in sock_diag.
pub fn inode(socket: impl AsFd) -> Result<u64, SocketError> {
    let stat =
        rustix::fs::fstat(socket).map_err(|errno| failed("read the inode of the socket")(errno.into()))?;
    Ok(stat.st_ino)
}

/// Whether an IPv6 socket takes no IPv4 traffic; always false for an IPv4 socket.
///
/// The kernel puts two `[::]` sockets that differ in it into two groups (`inet_reuseport_add_sock`).
pub fn is_v6_only(socket: impl AsFd) -> Result<bool, SocketError> {
    if local_address(&socket)?.is_ipv4() {
        return Ok(false);
    }
    SockRef::from(&socket).only_v6().map_err(failed("read IPV6_V6ONLY of the socket"))
}

/// Stops a listener at once, whatever duplicates of it exist in this process or another: `shutdown(SHUT_RD)`.
///
/// With a select-or-migrate program (5.14) the kernel moves its half-open and unaccepted connections to the
/// listener that the program selects; without one it resets the unaccepted. The socket stays bound and can
/// `listen` again. A blocked or later `accept` on it fails with EINVAL. On a socket that does not listen this
/// fails with ENOTCONN.
pub fn shut_listener(listener: impl AsFd) -> Result<(), SocketError> {
    SockRef::from(&listener).shutdown(Shutdown::Read).map_err(failed("shut the listener down"))
}

/// Wakes everything that polls a listener or blocks in `accept` on it, and changes nothing else:
/// `shutdown(SHUT_WR)`.
///
/// `inet_shutdown` leaves a socket in LISTEN alone unless RCV_SHUTDOWN is asked for, but ends in
/// `sk_state_change`, which wakes. Needed after a migration on kernels from 5.14 to those that fix
/// CVE-2026-46015, where a connection that was moved wakes nobody; harmless on the others. A listener that has been closed or shut down
/// meanwhile has nobody to wake.
pub fn wake_receivers(listener: impl AsFd) -> Result<(), SocketError> {
    match SockRef::from(&listener).shutdown(Shutdown::Write) {
        Err(error) if error.kind() == std::io::ErrorKind::NotConnected => Ok(()),
        woken => woken.map_err(failed("wake the receivers of the listener")),
    }
}

/// Has the kernel choose, by chance, among the sockets that were in a socket's SO_REUSEPORT group before it: the first so many. It and what
/// joins later get nothing. A program of its own in classic BPF, until another is attached or it is detached.
///
/// What goes by chance is each new connection, and each datagram: for a moment.
pub fn pass_over(socket: impl AsFd, others: u32) -> Result<(), SocketError> {
    /// `SO_ATTACH_REUSEPORT_CBPF` of asm-generic/socket.h (Linux 4.5).
    const ATTACH: libc::c_int = 51;
    let instruction = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [
        instruction(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32,
        ),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, others.max(1)),
        instruction(libc::BPF_RET | BPF_A, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which is there until the call returns.
    let failure = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            ATTACH,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if failure == 0 {
        return Ok(());
    }
    Err(failed("have the kernel pass over the socket")(std::io::Error::last_os_error()))
}

/// The accumulator, as what a program of classic BPF returns (`BPF_A` of linux/bpf_common.h).
const BPF_A: u32 = 0x10;

/// Takes a UDP socket out of its group and out of reach of any datagram, for good: it may then be closed, and cannot send any more.
///
/// Closing one as it is that lookups meet first loses datagrams of others, as the daemon's anchor says. A lookup passes over a socket
/// that is bound to another interface before it looks at its group; what is lost now is what came while it was between the two, less than a
/// hundredth of the rest (`tests/tests/datagrams_closing.rs`). There is no interface of this number, and the kernel does not ask
/// (`SO_BINDTOIFINDEX`, since 5.1).
pub fn leave_group(socket: impl AsFd) -> Result<(), SocketError> {
    let no_interface = libc::c_int::MAX;
    // SAFETY: the option's value is an integer, which is there until the call returns.
    let failure = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            (&raw const no_interface).cast(),
            size_of_val(&no_interface) as libc::socklen_t,
        )
    };
    if failure == 0 {
        return Ok(());
    }
    Err(failed("take the socket out of its group")(io::Error::last_os_error()))
}

/// Takes a UDP socket that others hold, and nobody reads, out of reach of any datagram, for good.
///
/// The kernel's own hash chooses among all members of a group that are not connected: so it is connected, to where nobody sends from, and
/// [leaves its group](leave_group).
pub fn retire(socket: impl AsFd) -> Result<(), SocketError> {
    // RFC 863's.
    const DISCARD: u16 = 9;
    let mut nobody = local_address(&socket)?;
    nobody.set_port(DISCARD);
    match nobody.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => nobody.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => nobody.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    SockRef::from(&socket).connect(&nobody.into()).map_err(failed("connect the socket to nobody"))?;
    leave_group(socket)
}

/// Has the next peek at a unix socket's queue begin behind this many bytes (SO_PEEK_OFF, Linux 3.4).
pub fn set_peek_offset(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    let offset = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the option's value is an integer, which is there until the call returns.
    let failure = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const offset).cast(),
            size_of_val(&offset) as libc::socklen_t,
        )
    };
    if failure == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Accepts and resets every connection that waits at a listener; how many there were. The listener is made non-blocking for it, so that
/// nobody else is to accept from it any more.
pub fn reset_unaccepted(listener: impl AsFd) -> Result<u64, SocketError> {
    let listener = SockRef::from(&listener);
    listener.set_nonblocking(true).map_err(failed("make the listener non-blocking"))?;
    let mut count = 0;
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                count += 1;
                reset_at_close(&connection)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
            Err(source) => return Err(failed("accept from the listener")(source)),
        }
    }
}

/// Has a connection end with a reset when it is closed, at once and without a wait: SO_LINGER of no time.
pub fn reset_at_close(connection: impl AsFd) -> Result<(), SocketError> {
    let linger = Some(std::time::Duration::ZERO);
    SockRef::from(&connection).set_linger(linger).map_err(failed("set SO_LINGER of the connection"))
}

/// Takes every datagram out of a socket's queue, and says how many there were. Nobody else is to read from it any more.
pub fn discard_datagrams(socket: impl AsFd) -> Result<u64, SocketError> {
    let mut count = 0;
    loop {
        match rustix::net::recv(&socket, &mut [0; 0], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok(_) => count += 1,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(count),
            Err(errno) => return Err(failed("read the queue of the socket")(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::fs::MetadataExt,
    };

    use super::{super::listener::make_listener, *};

    #[test]
    fn a_socket_that_is_passed_over_gets_nothing() {
        let listen = |port: u16| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
            socket.listen(128).unwrap();
            socket.set_nonblocking(true).unwrap();
            TcpListener::from(socket)
        };
        let first = listen(0);
        let address = first.local_addr().unwrap();
        let (second, last) = (listen(address.port()), listen(address.port()));
        pass_over(&last, 2).unwrap();
        let clients: Vec<_> = (0..60).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).count();
        let found = [&first, &second, &last].map(accepted);
        assert_eq!((found[0] + found[1], found[2]), (clients.len(), 0), "{found:?}");
        assert!(found[0] > 0 && found[1] > 0, "{found:?}");
    }

    #[test]
    fn a_plain_listener_is_described() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(local_address(&listener).unwrap(), listener.local_addr().unwrap());
        assert!(listens(&listener).unwrap());
        assert!(!has_reuseport(&listener).unwrap());
        assert!(!is_mptcp(&listener).unwrap());
        assert!(!is_v6_only(&listener).unwrap());
        let cookie = socket_cookie(&listener).unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(
            cookie,
            socket_cookie(listener.try_clone().unwrap()).unwrap(),
            "a duplicate is the same socket"
        );
    }

    #[test]
    fn a_socket_that_has_left_its_group_gets_no_datagram() {
        let make = |address: &str| {
            std::net::UdpSocket::from(make_listener(address.parse().unwrap(), None, 0).unwrap())
        };
        for any in ["udp://127.0.0.1:0", "udp://[::1]:0"] {
            let stays = make(any);
            let target = stays.local_addr().unwrap();
            let leaves = make(&format!("udp://{target}"));
            // By the kernel's hash of their ports, some of so many would go to either.
            let clients: Vec<_> =
                (0..64).map(|_| std::net::UdpSocket::bind((target.ip(), 0)).unwrap()).collect();
            let send = || {
                for client in &clients {
                    client.send_to(b"x", target).unwrap();
                }
            };
            send();
            let before = discard_datagrams(&leaves).unwrap();
            assert!((1..64).contains(&before), "{before}");
            assert_eq!(discard_datagrams(&stays).unwrap(), 64 - before);
            leave_group(&leaves).unwrap();
            send();
            assert_eq!((discard_datagrams(&leaves).unwrap(), discard_datagrams(&stays).unwrap()), (0, 64));
        }
    }

    #[test]
    fn what_is_no_ip_socket_has_no_address() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(local_address(&socket).is_err());
    }

    #[test]
    fn a_listener_tells_its_queue_until_it_is_shut_down() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listening(listener.as_fd()).unwrap(), Listening { listens: true, unaccepted: 0 });
        let _clients = [(); 3].map(|()| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        assert_eq!(listening(listener.as_fd()).unwrap(), Listening { listens: true, unaccepted: 3 });
        let path = format!("/proc/self/fd/{}", listener.as_raw_fd());
        assert_eq!(inode(&listener).unwrap(), std::fs::metadata(path).unwrap().ino());
        shut_listener(&listener).unwrap();
        assert_eq!(listening(listener.as_fd()).unwrap(), Listening { listens: false, unaccepted: 0 });
    }

    #[test]
    fn shutting_acts_on_duplicates_and_can_be_undone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let duplicate = listener.try_clone().unwrap();
        shut_listener(&listener).unwrap();
        assert!(!listens(&duplicate).unwrap());
        assert_eq!(duplicate.accept().unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(shut_listener(&listener).unwrap_err().source.raw_os_error(), Some(libc::ENOTCONN));
        SockRef::from(&listener).listen(8).unwrap();
        assert!(listens(&duplicate).unwrap());
    }

    /// A level-less poller that has had its event gets it again: that is the wake-up.
    #[test]
    fn waking_changes_nothing_and_wakes_an_edge_triggered_poller() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: plain system calls on descriptors that outlive them; the event is a local.
        let (epoll, ready) = unsafe {
            let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            assert!(epoll >= 0);
            let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 7 };
            assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, listener.as_raw_fd(), &mut event), 0);
            let ready = move |timeout| {
                let mut event = libc::epoll_event { events: 0, u64: 0 };
                libc::epoll_wait(epoll, &mut event, 1, timeout)
            };
            (epoll, ready)
        };
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(ready(5000), 1);
        assert_eq!(ready(0), 0, "the edge has been seen");
        wake_receivers(&listener).unwrap();
        assert_eq!(ready(5000), 1, "woken again");
        assert!(listens(&listener).unwrap());
        listener.accept().unwrap();
        // SAFETY: the descriptor is ours and is used no more.
        unsafe { libc::close(epoll) };
    }
}
