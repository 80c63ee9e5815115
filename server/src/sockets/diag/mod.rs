//! What the kernel says of sockets by address: sock_diag over netlink.
//!
//! No privilege is needed. A [`Diag`] sees the network namespace that it was opened in. A dump of a thousand
//! sockets takes less than a millisecond, so these are plain calls.
//!
//! A dump that comes in several parts is no snapshot: `inet_diag_dump_icsk` takes its place up again by hash
//! bucket and position, so a socket may be missed where another one of its bucket ended in between. Who proves
//! an absence by it asks twice.

mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod listeners;
mod wire;

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use netlink_packet_sock_diag::{
    constants::{
        TCP_CLOSE, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK,
        TCP_LISTEN, TCP_SYN_RECV,
    },
    inet::{InetResponseHeader, StateFlags},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};

pub(super) use self::listeners::bound_to;
pub use self::{
    error::DiagError,
    listeners::{ListenerInfo, Listeners},
};
use self::{
    listeners::{is_bound_to, listener_info},
    wire::{Dump, Family, Found, Query},
};
use super::address::{ListenAddress, Protocol};

/// How often a dump is begun anew when the kernel calls it inconsistent.
const ATTEMPTS_MAX: u32 = 5;

/// How often a connection that is on its way from the half-open to the queue is looked for again. That takes it
/// microseconds, unless the processor is taken from it.
const PASSING_LOOKS_MAX: u32 = 4;

/// Room for one datagram of a dump: the kernel makes them as large as the room last offered, up to 32 KiB.
const DATAGRAM_MAX: usize = 64 * 1024;

/// The kernel answers a dump at once; a silence this long is a failure, not a wait.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection to the kernel's sock_diag, for one network namespace.
#[derive(Debug)]
pub struct Diag {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A half-open connection: its SYN-ACK has been sent, its last ACK has not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// This side, an IPv4 address never in its IPv6-mapped form.
    pub local: SocketAddr,
    /// The client's side, an IPv4 address never in its IPv6-mapped form.
    pub remote: SocketAddr,
}

/// A connection that was accepted and is held by a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// This side, an IPv4 address never in its IPv6-mapped form.
    pub local: SocketAddr,
    /// The client's side, an IPv4 address never in its IPv6-mapped form.
    pub remote: SocketAddr,
    /// The inode, as in `/proc/PID/fd`: whose it is.
    pub inode: u32,
    /// How far it is.
    pub state: ConnectionState,
}

/// The states of a connection that a process can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Accepted by Fast Open before its handshake was over.
    SynReceived,
    /// Open on both sides.
    Established,
    /// Closed by the client, not yet by the process.
    CloseWait,
    /// Closed for sending by the process, not by the client: FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK.
    Closing,
}

impl ConnectionState {
    /// The state of a socket by the kernel's number of it, if a connection that a process can hold is in it.
    pub(crate) fn of(state: u8) -> Option<Self> {
        match state {
            TCP_SYN_RECV => Some(Self::SynReceived),
            TCP_ESTABLISHED => Some(Self::Established),
            TCP_CLOSE_WAIT => Some(Self::CloseWait),
            TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSING | TCP_LAST_ACK => Some(Self::Closing),
            _ => None,
        }
    }
}

impl Diag {
    /// Opens a connection to the sock_diag of the calling thread's network namespace; it stays there.
    pub fn open() -> Result<Self, DiagError> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(DiagError::Open)?;
        socket.bind_auto().map_err(DiagError::Open)?;
        socket.connect(&NetlinkAddress::new(0, 0)).map_err(DiagError::Open)?;
        // SAFETY: the descriptor is the socket's, which outlives this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        socket2::SockRef::from(&borrowed).set_read_timeout(Some(ANSWER_TIME_MAX)).map_err(DiagError::Open)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM_MAX) })
    }

    /// The listeners bound to exactly this address: the members of its kernel group, and any socket beside it.
    ///
    /// `0.0.0.0` and `[::]` are two, and neither stands for the specific addresses of its port.
    pub fn listeners(&mut self, address: ListenAddress) -> Result<Vec<ListenerInfo>, DiagError> {
        let found = self.dump(address, family_of(address.address), listening_states(address.protocol))?;
        let listeners = found.iter().map(listener_info);
        Ok(listeners.filter(|listener| is_bound_to(address.address, listener)).collect())
    }

    /// The listeners of the address's family and protocol, at whatever address: one walk for many groups.
    pub fn all_listeners(&mut self, like: ListenAddress) -> Result<Listeners, DiagError> {
        let mut everywhere = like;
        // The kernel takes it for any port.
        everywhere.address.set_port(0);
        let found = self.dump(everywhere, family_of(like.address), listening_states(like.protocol))?;
        Ok(found.iter().map(listener_info).collect())
    }

    /// The half-open handshakes whose destination the address takes; a wildcard takes every one of its port.
    ///
    /// Those of a dual-stack `[::]` listener with IPv4 clients are in AF_INET6 as the listener is
    /// (`inet_reqsk_alloc` copies `sk_family`), so one family is dumped. SYN cookies leave no handshake to see.
    ///
    /// A connection whose final ACK is just being handled is none of them: its child is in the tables, in TCP_SYN_RECV
    /// and without a timer, from `tcp_v4_syn_recv_sock` until it has been put into its listener's queue and
    /// `tcp_rcv_state_process` makes it ESTABLISHED. It is looked for again until it has passed, so that who asks for the queue
    /// next finds it there.
    pub fn handshakes(&mut self, address: ListenAddress) -> Result<Vec<Handshake>, DiagError> {
        let found = self.taken(address, StateFlags::SYN_RECV)?;
        self.await_passing(address, found)
    }

    /// The connections that a process holds and whose local address the address takes; a wildcard takes every
    /// one of its port.
    ///
    /// Not among them: the unaccepted, and those that were closed by their process and linger in the kernel.
    pub fn connections(&mut self, address: ListenAddress) -> Result<Vec<Connection>, DiagError> {
        Ok(held(&self.taken(address, connection_states())?))
    }

    /// What is in one of the states, and whose local address the address takes.
    fn taken(
        &mut self,
        address: ListenAddress,
        states: StateFlags,
    ) -> Result<Vec<InetResponseHeader>, DiagError> {
        let found = self.dump(address, family_of(address.address), states)?;
        let headers = found.into_iter().map(|socket| socket.header);
        Ok(headers.filter(|socket| takes(address.address, local_of(socket))).collect())
    }

    /// The handshakes among what was found, once those that are passing into a queue have passed.
    fn await_passing(
        &mut self,
        address: ListenAddress,
        found: Vec<InetResponseHeader>,
    ) -> Result<Vec<Handshake>, DiagError> {
        let (mut passing, requests): (Vec<_>, Vec<_>) =
            found.into_iter().filter(is_half_open).partition(|socket| socket.timer.is_none());
        for _ in 0..PASSING_LOOKS_MAX {
            if passing.is_empty() {
                break;
            }
            let again = self.taken(address, StateFlags::SYN_RECV)?;
            let is_there = |one: &InetResponseHeader| {
                again.iter().any(|other| {
                    is_half_open(other)
                        && other.timer.is_none()
                        && other.socket_id.cookie == one.socket_id.cookie
                })
            };
            passing.retain(is_there);
        }
        Ok(requests.iter().chain(&passing).map(handshake).collect())
    }

    /// Every socket in whose way a bind to this address could be, with whether it listens: those that a process
    /// holds on its port, in both families, at an overlapping address.
    pub(super) fn overlapping(
        &mut self,
        address: ListenAddress,
    ) -> Result<Vec<(bool, ListenerInfo)>, DiagError> {
        let states = match address.protocol {
            Protocol::Tcp => connection_states() | StateFlags::LISTEN,
            Protocol::Udp => listening_states(Protocol::Udp) | StateFlags::ESTABLISHED,
        };
        let mut found = Vec::new();
        for family in [Family::V4, Family::V6] {
            found.extend(self.dump(address, family, states.clone())?);
        }
        let listening = if address.protocol == Protocol::Tcp { TCP_LISTEN } else { TCP_CLOSE };
        let in_the_way = found.iter().filter(|socket| {
            let local = local_of(&socket.header);
            socket.header.inode != 0 && (takes(address.address, local) || takes(local, address.address))
        });
        Ok(in_the_way.map(|socket| (socket.header.state == listening, listener_info(socket))).collect())
    }

    fn dump(
        &mut self,
        address: ListenAddress,
        family: Family,
        states: StateFlags,
    ) -> Result<Vec<Found>, DiagError> {
        let query = Query { family, protocol: address.protocol, port: address.address.port(), states };
        for _ in 0..ATTEMPTS_MAX {
            let dump = self.dump_once(&query)?;
            if !dump.interrupted {
                let mut seen = HashSet::new();
                // A socket that moved within its bucket between two parts comes twice.
                let first =
                    |Found { header, .. }: &Found| seen.insert((header.socket_id.cookie, remote_of(header)));
                return Ok({
                    let mut sockets = dump.sockets;
                    sockets.retain(first);
                    sockets
                });
            }
        }
        Err(DiagError::Inconsistent(ATTEMPTS_MAX))
    }

    fn dump_once(&mut self, query: &Query) -> Result<Dump, DiagError> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let request = query.serialize(self.sequence);
        uninterrupted(|| self.socket.send(&request, 0)).map_err(DiagError::Send)?;
        let mut dump = Dump::default();
        while !dump.finished {
            self.buffer.clear();
            // With MSG_TRUNC the answer is the datagram's own length, however much of it there was room for.
            let (socket, buffer) = (&self.socket, &mut self.buffer);
            let length =
                uninterrupted(|| socket.recv(buffer, libc::MSG_TRUNC)).map_err(DiagError::Receive)?;
            if length > self.buffer.len() {
                return Err(DiagError::Truncated { length, room: self.buffer.len() });
            }
            dump.add(&self.buffer, self.sequence)?;
        }
        Ok(dump)
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn listening_states(protocol: Protocol) -> StateFlags {
    match protocol {
        Protocol::Tcp => StateFlags::LISTEN,
        // A bound UDP socket that is not connected.
        Protocol::Udp => StateFlags::CLOSE,
    }
}

/// One in this state that has an inode was accepted by Fast Open and is a connection.
fn is_half_open(socket: &InetResponseHeader) -> bool {
    socket.state == TCP_SYN_RECV && socket.inode == 0
}

/// The connections that a process holds.
fn held(found: &[InetResponseHeader]) -> Vec<Connection> {
    found.iter().filter(|socket| socket.inode != 0).filter_map(connection).collect()
}

fn connection_states() -> StateFlags {
    StateFlags::ESTABLISHED
        | StateFlags::SYN_RECV
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING
}

/// Whether a listener at `listen` takes what is sent to `local`.
pub(crate) fn takes(listen: SocketAddr, local: SocketAddr) -> bool {
    let ip = listen.ip().to_canonical();
    listen.port() == local.port() && (ip.is_unspecified() || ip == local.ip().to_canonical())
}

fn local_of(socket: &InetResponseHeader) -> SocketAddr {
    canonical(socket.socket_id.source_address, socket.socket_id.source_port)
}

fn remote_of(socket: &InetResponseHeader) -> SocketAddr {
    canonical(socket.socket_id.destination_address, socket.socket_id.destination_port)
}

fn canonical(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

fn handshake(socket: &InetResponseHeader) -> Handshake {
    Handshake { local: local_of(socket), remote: remote_of(socket) }
}

fn connection(socket: &InetResponseHeader) -> Option<Connection> {
    let state = ConnectionState::of(socket.state)?;
    Some(Connection { local: local_of(socket), remote: remote_of(socket), inode: socket.inode, state })
}

#[cfg(test)]
mod tests;
