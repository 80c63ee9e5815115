//! Looks: what the iterators report of watched listeners and of the connections of a process.
//!
//! The programs read the kernel's own structures. Where a field is differs between kernels, and Rust emits no CO-RE
//! relocations, so the daemon reads the [`Offsets`] from the running kernel's BTF and freezes them in the program's read-only
//! data: the verifier then takes each for a constant and checks the load as that of the field.

/// The most listeners that are watched at a time.
pub const WATCHED_MAX: u32 = 65_536;

/// Words of the bitmap of ports, which has a bit for each.
pub const PORT_WORDS: u32 = 65_536 / u64::BITS;

/// The state of a TCP socket that listens.
pub const TCP_LISTEN: u8 = 10;

/// The states of a connection that a process can hold, a bit each: ESTABLISHED, SYN_RECV (accepted by Fast Open), FIN_WAIT1,
/// FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
pub const CONNECTION_STATES: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Which cell a watched listener's numbers go to. Kept with the socket, in its local storage.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CellKey {
    /// The index of the cell.
    pub index: u32,
    /// Which of the cell's holders, never 0. A closed socket is visited for as long as half-open handshakes of it live, and must
    /// not write into a cell that is another's by then.
    pub generation: u32,
}

const _: () = assert!(size_of::<CellKey>() == 8);

/// What the iterator has found at one listener. The daemon writes `generation`, the program everything else.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCell {
    /// The number of the look that it was written in.
    pub look: u64,
    /// Whose cell it is: a socket with another generation writes nothing.
    pub generation: u32,
    /// The socket's state, by the kernel's numbers.
    pub state: u32,
    /// Handshakes whose SYN-ACK has been sent and whose final ACK has not come.
    pub half_open: u32,
    /// Handshakes of connections that Fast Open has opened before. They are unaccepted or open connections, too.
    pub fast_open: u32,
    /// Connections in the accept queue.
    pub unaccepted: u32,
    /// Buffers in the receive queue of a UDP socket: datagrams, or several that GRO has put together.
    pub datagrams: u32,
}

const _: () = assert!(size_of::<QueueCell>() == 32);

/// An open connection that a process holds, as the iterator writes it.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldConnection {
    /// The local address; that of IPv4 in its IPv6-mapped form.
    pub address: [u8; 16],
    /// The inode of the socket, as in `/proc/PID/fd`.
    pub inode: u64,
    /// The inode of its network namespace, as in `/proc/PID/ns/net`; 0 where the kernel has none.
    pub namespace: u32,
    /// The local port.
    pub port: u16,
    /// The socket's state, by the kernel's numbers.
    pub state: u8,
    /// No padding that is not written.
    pub reserved: u8,
}

const _: () = assert!(size_of::<HeldConnection>() == 32);

/// Where the kernel keeps what the programs read, in bytes from the start of each structure.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `sock.__sk_common.skc_state`: u8.
    pub state: u32,
    /// `sock.__sk_common.skc_family`: u16.
    pub family: u32,
    /// `sock.__sk_common.skc_num`: u16, the local port in the host's byte order.
    pub port: u32,
    /// `sock.__sk_common.skc_rcv_saddr`: 4 bytes, the local address.
    pub address_v4: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`: 16 bytes, the local address.
    pub address_v6: u32,
    /// `sock.sk_protocol`: u16.
    pub protocol: u32,
    /// `sock.sk_ack_backlog`: u32.
    pub ack_backlog: u32,
    /// `sock.sk_receive_queue.qlen`: u32.
    pub receive_queue: u32,
    /// `inet_connection_sock.icsk_accept_queue.qlen`: i32, in an atomic_t.
    pub requests: u32,
    /// `inet_connection_sock.icsk_accept_queue.fastopenq.qlen`: i32.
    pub fast_open: u32,
    /// `udp_sock.reader_queue.qlen`: u32.
    pub reader_queue: u32,
    /// `socket.sk`: a pointer.
    pub socket_sock: u32,
    /// `file.f_inode`: a pointer.
    pub file_inode: u32,
    /// `inode.i_ino`: u64.
    pub inode_number: u32,
    /// `sock.__sk_common.skc_net.net`: a pointer.
    pub net: u32,
    /// `net.ns.inum`: u32.
    pub net_number: u32,
    /// Not 0: [`net`](Self::net) is there; a kernel without network namespaces lacks it.
    pub has_net: u32,
    /// Not 0: the kernel has IPv6, and [`address_v6`](Self::address_v6) is there.
    pub has_v6: u32,
    /// Not 0: the program may read kernel memory by address. The kernel refuses that under `lockdown=confidentiality`.
    pub reads_memory: u32,
}

const _: () = assert!(size_of::<Offsets>() == 19 * 4);

// SAFETY: `repr(C)`, whole words and bytes without padding between them, and any bit pattern is a value.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for CellKey {}
// SAFETY: as above.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for QueueCell {}
// SAFETY: as above.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for HeldConnection {}
// SAFETY: as above.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for Offsets {}
