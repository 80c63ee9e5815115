//! Listeners that have gone, told by the kernel as it happens: sock_diag's multicast groups.
//!
//! A socket is told of once it is destroyed: closed by its last holder, 0.03 to 0.2 ms before. One that was shut down and is still held by
//! somebody is not told of, nor is one that a duplicate keeps.
//!
//! No privilege is needed. [`Notifications`] are of the network namespace that they were opened in, by the thread that opened them.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{SockDiagMessage, inet::InetResponseHeader};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockFilter, SockRef, Type};
use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    address::{ListenAddress, Protocol},
    diag::{self, Diag},
    options::{self, SocketError},
};

/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY` of linux/sock_diag.h (Linux 4.2).
const GROUPS: [u32; 2] = [1, 3];

/// How many ports the kernel tells apart: a filter has at most 4096 instructions (`BPF_MAXINSNS`).
const PORTS_MAX: usize = 2000;

/// Room for a notification, in bytes: 380 on Linux 6.18.
const NOTIFICATION_MAX: usize = 8 * 1024;

/// How long [`try_it`] waits for what takes the kernel a fraction of a millisecond.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(1);

/// The kernel could not be asked to tell, or does not.
#[derive(Debug, Error)]
pub enum DestroyedError {
    /// No socket that the kernel tells.
    #[error("cannot subscribe to the kernel's notifications of destroyed sockets")]
    Subscribe(#[source] io::Error),
    /// The filter was refused.
    #[error("cannot filter the kernel's notifications of destroyed sockets")]
    Filter(#[source] io::Error),
    /// A notification could not be received.
    #[error("cannot receive the kernel's notifications of destroyed sockets")]
    Receive(#[source] io::Error),
    /// There is no socket to try it with.
    #[error("cannot make a socket to be told of")]
    Trial(#[source] io::Error),
    /// The same.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A socket was destroyed and the kernel did not say so.
    #[error("the kernel does not tell of destroyed sockets")]
    Silent,
}

impl DestroyedError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Silent => Some("load the kernel's module: modprobe tcp_diag"),
            Self::Subscribe(source) if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                Some("netlink sockets must be allowed: RestrictAddressFamilies= needs AF_NETLINK")
            }
            _ => None,
        }
    }
}

/// A socket that is no more.
///
/// The kernel does not say whether it listened: every TCP socket is in CLOSE by then. A bound socket that never listened looks the same, and
/// so does every connection that waited at a listener and was reset with it. The cookie tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destroyed {
    /// Its cookie, as in SO_COOKIE and in [`ListenerInfo`](diag::ListenerInfo).
    pub cookie: u64,
    /// The address that it was bound to.
    pub local: SocketAddr,
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A socket is no more.
    Destroyed(Destroyed),
    /// Some notifications may have been missed: a dump tells what is left.
    Missed,
}

/// The kernel's notifications of TCP sockets without a remote address that are destroyed at some ports.
///
/// While they are open, every TCP socket of the network namespace that is destroyed costs the kernel a notification, made and then filtered in
/// a worker thread of its own: 5 to 10 us of a processor, whatever the ports. This process is not woken for those of other ports and for
/// connections that were accepted.
#[derive(Debug)]
pub struct Notifications {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl Notifications {
    /// Opens them, for the network namespace of the calling thread, which has to be in a tokio runtime.
    pub fn open(ports: &BTreeSet<u16>) -> Result<Self, DestroyedError> {
        let socket = subscribe(ports)?;
        // SAFETY: the descriptor is the socket's own, and stays open for as long as it lives.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = registered.map_err(|refused| DestroyedError::Subscribe(refused.into()))?;
        Ok(Self { socket, buffer: Vec::with_capacity(NOTIFICATION_MAX) })
    }

    /// Hears of these ports from now on, in one step. What was heard of others is in the queue still.
    pub fn set_ports(&self, ports: &BTreeSet<u16>) -> Result<(), DestroyedError> {
        set_filter(self.socket.get_ref(), ports)
    }

    /// Waits for the next. Nothing is lost where the wait is given up.
    pub async fn next(&mut self) -> Result<Heard, DestroyedError> {
        loop {
            let mut ready = self.socket.readable().await.map_err(DestroyedError::Receive)?;
            let Ok(received) = ready.try_io(|socket| receive(socket.get_ref(), &mut self.buffer)) else {
                continue;
            };
            if let Some(heard) = received.map_err(DestroyedError::Receive)? {
                return Ok(heard);
            }
        }
    }
}

/// Proves that the kernel tells: destroys a socket of its own and waits until that is heard of, a second at most. Blocks.
///
/// The kernel is silent where its `tcp_diag` module is not loaded. A dump loads it, where that is allowed, so one is asked for then.
pub fn try_it() -> Result<(), DestroyedError> {
    match try_once() {
        Err(DestroyedError::Silent) => {}
        result => return result,
    }
    let nowhere = ListenAddress { protocol: Protocol::Tcp, address: (Ipv4Addr::UNSPECIFIED, 0).into() };
    let _ = Diag::open().and_then(|mut diag| diag.listeners(nowhere));
    try_once()
}

fn try_once() -> Result<(), DestroyedError> {
    // Bound, it is told of as a listener is, and nobody can connect to it. The wildcard is there also where `lo` is down.
    let trial = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).map_err(DestroyedError::Trial)?;
    let any_port = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    trial.bind(&any_port.into()).map_err(DestroyedError::Trial)?;
    let expected =
        Destroyed { cookie: options::socket_cookie(&trial)?, local: options::local_address(&trial)? };
    let socket = subscribe(&BTreeSet::from([expected.local.port()]))?;
    let end = Instant::now() + TRIAL_TIME_MAX;
    drop(trial);
    let mut buffer = Vec::with_capacity(NOTIFICATION_MAX);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DestroyedError::Silent);
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(DestroyedError::Receive(errno.into())),
        }
        match receive(&socket, &mut buffer) {
            Ok(Some(Heard::Destroyed(heard))) if heard == expected => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(DestroyedError::Receive(error));
            }
            _ => {}
        }
    }
}

fn subscribe(ports: &BTreeSet<u16>) -> Result<Socket, DestroyedError> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(DestroyedError::Subscribe)?;
    socket.set_non_blocking(true).map_err(DestroyedError::Subscribe)?;
    // Before it is in any group, so that nothing else is ever in the queue.
    set_filter(&socket, ports)?;
    // To bind it afterwards would take it out of the groups, without an error: the address says that it is in none.
    socket.bind_auto().map_err(DestroyedError::Subscribe)?;
    for group in GROUPS {
        socket.add_membership(group).map_err(DestroyedError::Subscribe)?;
    }
    Ok(socket)
}

fn set_filter(socket: &Socket, ports: &BTreeSet<u16>) -> Result<(), DestroyedError> {
    SockRef::from(&socket.as_fd()).attach_filter(&filter(ports)).map_err(DestroyedError::Filter)
}

/// A program that lets pass what has no remote port, and one of these as its own; for more than can be told apart, any.
fn filter(ports: &BTreeSet<u16>) -> Vec<SockFilter> {
    // Both are in `struct inet_diag_msg`, behind the header of the message, and in network order, as the instruction expects them.
    const LOCAL_PORT: u32 = 16 + 4;
    const REMOTE_PORT: u32 = LOCAL_PORT + 2;
    let load = |offset| SockFilter::new((libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16, 0, 0, offset);
    let unless_skip = |value: u16| {
        SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, value.into())
    };
    let if_skip = |value: u16| {
        SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 1, 0, value.into())
    };
    let pass = |length| SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, length);
    let mut program = vec![load(REMOTE_PORT), if_skip(0), pass(0), load(LOCAL_PORT)];
    if ports.len() > PORTS_MAX {
        program.push(pass(u32::MAX));
        return program;
    }
    program.extend(ports.iter().flat_map(|&port| [unless_skip(port), pass(u32::MAX)]));
    program.push(pass(0));
    program
}

/// The next in the queue; nothing where it is somebody else's message.
fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<Option<Heard>> {
    buffer.clear();
    match socket.recv_from(buffer, 0) {
        Ok((_, sender)) if sender.port_number() != 0 => Ok(None),
        // What does not read could have been any.
        Ok(_) => Ok(Some(read(buffer).map_or(Heard::Missed, Heard::Destroyed))),
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Some(Heard::Missed)),
        Err(error) => Err(error),
    }
}

fn read(message: &[u8]) -> Option<Destroyed> {
    match NetlinkMessage::<SockDiagMessage>::deserialize(message).ok()?.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
            let header: InetResponseHeader = response.header;
            let cookie = u64::from_ne_bytes(header.socket_id.cookie);
            Some(Destroyed { cookie, local: diag::bound_to(&header) })
        }
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
mod tests;
