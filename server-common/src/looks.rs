//! The shapes that the look programs and the daemon share: queue cells, records of connections and processes, field
//! offsets.
//!
//! The programs read kernel structures. Field offsets differ between kernels, and Rust emits no CO-RE relocations, so
//! the daemon reads the [`Offsets`] from the running kernel's BTF and freezes them in the program's read-only data.
//! The verifier treats each as a constant and checks the load against the field's type.

/// The number of listeners that can be watched at a time.
pub const WATCHED_MAX: u32 = 65_536;

/// Words in the port bitmap, which has a bit for each port.
pub const PORT_WORDS: u32 = 65_536 / u64::BITS;

/// The state of a listening TCP socket, from net/tcp_states.h.
pub const TCP_LISTEN: u8 = 10;

/// The states of an open connection, as a bitmask: ESTABLISHED, SYN_RECV (accepted by Fast Open), FIN_WAIT1,
/// FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
pub const CONNECTION_STATES: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// The cell of a watched listener. Stored with the socket, in its local storage.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CellKey {
    /// The index of the cell.
    pub index: u32,
    /// Distinguishes successive owners of a cell; never 0. The iterator visits a closed socket while its half-open
    /// handshakes live, and such a socket must not write into a cell that has a new owner.
    pub generation: u32,
}

const _: () = assert!(size_of::<CellKey>() == 8);

/// The queues of one listener. The daemon writes `generation`, the program every other field.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCell {
    /// The number of the look that wrote the cell.
    pub look: u64,
    /// The owner of the cell: a socket with another generation does not write.
    pub generation: u32,
    /// The socket's state, from net/tcp_states.h.
    pub state: u32,
    /// Handshakes that wait for the final ACK.
    pub half_open: u32,
    /// Unfinished handshakes of Fast Open connections, which are also counted as unaccepted or open.
    pub fast_open: u32,
    /// Connections in the accept queue.
    pub unaccepted: u32,
    /// Buffers in the receive queues of a UDP socket. GRO can merge several datagrams into one buffer.
    pub datagrams: u32,
}

const _: () = assert!(size_of::<QueueCell>() == 32);

/// An open connection of a process, as the iterator writes it.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldConnection {
    /// The local address; an IPv4 address in its IPv6-mapped form.
    pub address: [u8; 16],
    /// The inode of the socket, as in `/proc/PID/fd`.
    pub inode: u64,
    /// The inode of the network namespace, as in `/proc/PID/ns/net`; 0 if the kernel has no network namespaces.
    pub namespace: u32,
    /// The local port.
    pub port: u16,
    /// The socket's state, from net/tcp_states.h.
    pub state: u8,
    /// Always 0. The record has no padding, which the program would leave uninitialized.
    pub reserved: u8,
}

const _: () = assert!(size_of::<HeldConnection>() == 32);

/// A process, as the iterator writes it. The numbers are those of the initial pid namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessRecord {
    /// The process.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its session: the pid of the session's leader, which may have ended.
    pub session: u32,
    /// Not 0 once it has ended, while it waits to be reaped.
    pub exit_state: u32,
}

const _: () = assert!(size_of::<ProcessRecord>() == 16);

/// The offsets of the fields that the programs read, in bytes from the start of each structure.
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
    /// `task_struct.pid`: i32.
    pub task_thread: u32,
    /// `task_struct.tgid`: i32.
    pub task_group: u32,
    /// `task_struct.real_parent`: a pointer.
    pub task_parent: u32,
    /// `task_struct.exit_state`: i32.
    pub task_exit_state: u32,
    /// `task_struct.signal`: a pointer.
    pub task_signal: u32,
    /// `signal_struct.pids[PIDTYPE_SID]`: a pointer.
    pub signal_session: u32,
    /// `pid.numbers[0].nr`: i32, the number in the initial pid namespace.
    pub pid_number: u32,
    /// Not 0 if the kernel has network namespaces, and with them [`net`](Self::net).
    pub has_net: u32,
    /// Not 0 if the kernel has IPv6, and with it [`address_v6`](Self::address_v6).
    pub has_v6: u32,
    /// Not 0 if the program may read kernel memory by address, which `lockdown=confidentiality` forbids.
    pub reads_memory: u32,
}

const _: () = assert!(size_of::<Offsets>() == 26 * 4);

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
