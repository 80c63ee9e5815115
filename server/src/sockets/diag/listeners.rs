//! Listeners, as sock_diag shows them.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use netlink_packet_sock_diag::inet::InetResponseHeader;

use super::wire::Found;

/// A socket that can receive new flows: TCP in LISTEN, or bound UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// The socket cookie, as in SO_COOKIE and in a sockarray.
    pub cookie: u64,
    /// The inode, as in `/proc/PID/fd`; 0 where no process holds the socket.
    pub inode: u32,
    /// The owner, which has to be the group's.
    pub uid: u32,
    /// The address it is bound to.
    pub local: SocketAddr,
    /// The cgroup of the process that made it, by the number of its directory in cgroup2 (`cgroups::id`), also once the process has
    /// moved or ended. Nothing where the kernel does not tell (before Linux 5.9).
    pub cgroup: Option<u64>,
    /// Connections that wait to be accepted; for UDP, bytes that wait to be read.
    pub unaccepted: u32,
    /// How many may wait: the backlog; for UDP, bytes that wait to be sent.
    pub backlog: u32,
}

/// Listeners at many addresses, as they were at one look.
#[derive(Debug, Default)]
pub struct Listeners {
    by_port: HashMap<u16, Vec<ListenerInfo>>,
}

impl Listeners {
    /// Those bound to exactly this address, as [`Diag::listeners`](super::Diag::listeners) has them.
    pub fn at(&self, address: SocketAddr) -> impl Iterator<Item = &ListenerInfo> {
        let of_port = self.by_port.get(&address.port()).into_iter().flatten();
        of_port.filter(move |listener| is_bound_to(address, listener))
    }
}

impl Listeners {
    /// All of them, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = &ListenerInfo> {
        self.by_port.values().flatten()
    }
}

impl FromIterator<ListenerInfo> for Listeners {
    fn from_iter<I: IntoIterator<Item = ListenerInfo>>(listeners: I) -> Self {
        let mut by_port = HashMap::<u16, Vec<ListenerInfo>>::new();
        for listener in listeners {
            by_port.entry(listener.local.port()).or_default().push(listener);
        }
        Self { by_port }
    }
}

/// Whether the listener is bound to this address and no other, mapped addresses told from IPv4 ones.
pub(super) fn is_bound_to(address: SocketAddr, listener: &ListenerInfo) -> bool {
    let scope = |address| match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let of_scope = scope(address) == 0 || scope(address) == scope(listener.local);
    of_scope && address.port() == listener.local.port() && address.ip() == listener.local.ip()
}

pub(super) fn listener_info(Found { header: socket, cgroup }: &Found) -> ListenerInfo {
    ListenerInfo {
        cookie: u64::from_ne_bytes(socket.socket_id.cookie),
        inode: socket.inode,
        uid: socket.uid,
        cgroup: *cgroup,
        local: bound_to(socket),
        unaccepted: socket.recv_queue,
        backlog: socket.send_queue,
    }
}

/// The address that a socket is bound to, mapped addresses told from IPv4 ones.
pub(in crate::sockets) fn bound_to(socket: &InetResponseHeader) -> SocketAddr {
    let id = &socket.socket_id;
    match id.source_address {
        IpAddr::V4(_) => SocketAddr::new(id.source_address, id.source_port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, id.source_port, 0, id.interface_id).into(),
    }
}
