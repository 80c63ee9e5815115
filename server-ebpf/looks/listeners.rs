//! The queues of watched listeners.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, SkStorage},
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_skc_to_tcp_sock, bpf_skc_to_udp6_sock},
    },
    macros::btf_map,
};
use server_common::looks::{CellKey, QueueCell, WATCHED_MAX};

use crate::kernel::{Pointer, load, offset};

const IPPROTO_UDP: u16 = 17;

/// The watched sockets, each with the key of its cell. The iterator visits these and no others.
#[btf_map]
static WATCHED: SkStorage<CellKey> = SkStorage::new();

/// The cells, in memory that the daemon shares: one read of the iterator fills all. Records that the iterator writes
/// would take several reads, between which the kernel finds its place again by a count, and misses sockets when others go.
#[btf_map]
static QUEUES: Array<QueueCell, { WATCHED_MAX as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The number of the look that is under way. The daemon sets it.
#[btf_map]
static LOOK: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The context of a run: `struct bpf_iter__bpf_sk_storage_map`.
#[repr(C)]
struct Visit {
    meta: *const c_void,
    map: *const c_void,
    sock: Pointer,
    key: *const CellKey,
}

/// Visits one socket; the last run of a look visits none.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn listeners(context: *const c_void) -> i32 {
    // SAFETY: the kernel calls with this context, whose fields are the verifier's to check.
    let (sock, key) = unsafe {
        let visit = context.cast::<Visit>();
        ((&raw const (*visit).sock).read_volatile(), (&raw const (*visit).key).read_volatile())
    };
    if sock.is_null() || key.is_null() {
        return 0;
    }
    // SAFETY: the map's value of this socket; not null.
    let key = unsafe { key.read() };
    let (Some(cell), Some(look)) = (QUEUES.get_ptr_mut(key.index), LOOK.get_ptr(0)) else { return 0 };
    // SAFETY: the map has given the pointer, which stays valid for the run.
    if unsafe { (&raw const (*cell).generation).read_volatile() } != key.generation {
        return 0;
    }
    let queues = queues_of(sock);
    // SAFETY: as above. The daemon reads the cell when the look is over.
    unsafe {
        (&raw mut (*cell).state).write_volatile(load::<u8>(sock, offset!(state)) as u32);
        (&raw mut (*cell).half_open).write_volatile(queues.half_open);
        (&raw mut (*cell).fast_open).write_volatile(queues.fast_open);
        (&raw mut (*cell).unaccepted).write_volatile(queues.unaccepted);
        (&raw mut (*cell).datagrams).write_volatile(queues.datagrams);
        (&raw mut (*cell).look).write_volatile(look.read_volatile());
    }
    0
}

struct Queues {
    half_open: u32,
    fast_open: u32,
    unaccepted: u32,
    datagrams: u32,
}

#[inline(always)]
fn queues_of(sock: Pointer) -> Queues {
    // SAFETY: not null; the helper answers null where the socket is no TCP socket.
    let tcp: Pointer = unsafe { bpf_skc_to_tcp_sock(sock.cast_mut()) }.cast();
    if tcp.is_null() {
        return Queues { half_open: 0, fast_open: 0, unaccepted: 0, datagrams: datagrams(sock) };
    }
    // In this order: a handshake that ends between two loads is seen twice, never not at all.
    // SAFETY: a TCP socket begins with an `inet_connection_sock`, and that with a `sock`.
    unsafe {
        Queues {
            half_open: load(tcp, offset!(requests)),
            fast_open: load(tcp, offset!(fast_open)),
            unaccepted: load(sock, offset!(ack_backlog)),
            datagrams: 0,
        }
    }
}

/// What a UDP socket has in its two queues: where datagrams come in, and where its reader has moved them to.
#[inline(always)]
fn datagrams(sock: Pointer) -> u32 {
    // SAFETY: not null; a `sock` by its type.
    if unsafe { load::<u16>(sock, offset!(protocol)) } != IPPROTO_UDP {
        return 0;
    }
    // The reader moves all of the first queue into the second: one that it has just moved is counted twice, and not missed.
    // SAFETY: as above.
    let arrived: u32 = unsafe { load(sock, offset!(receive_queue)) };
    arrived.wrapping_add(moved(sock))
}

/// The second queue. It is a `udp_sock`'s, and only IPv6 has a helper that makes one of a socket: for IPv4, a typed load ends at the
/// `sock`.
#[inline(always)]
fn moved(sock: Pointer) -> u32 {
    if offset!(has_v6) != 0 {
        // SAFETY: not null; the helper answers null where the socket is not one of IPv6.
        let udp6: Pointer = unsafe { bpf_skc_to_udp6_sock(sock.cast_mut()) }.cast();
        if !udp6.is_null() {
            // SAFETY: an IPv6 UDP socket begins with a `udp_sock`.
            return unsafe { load(udp6, offset!(reader_queue)) };
        }
    }
    if offset!(reads_memory) == 0 {
        return 0;
    }
    let queue = sock.wrapping_byte_add(offset!(reader_queue) as usize).cast::<u32>();
    // SAFETY: the helper answers an error where it cannot read.
    unsafe { bpf_probe_read_kernel(queue) }.unwrap_or(0)
}
