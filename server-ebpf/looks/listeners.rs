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

/// The watched sockets, each with its cell's key. The iterator visits only these.
#[btf_map]
static WATCHED: SkStorage<CellKey> = SkStorage::new();

/// The cells, in memory shared with the daemon: one read of the iterator fills them all. Records in the iterator's
/// output would take several reads. Between two reads the kernel resumes by a count of sockets, so it misses some
/// when others close.
#[btf_map]
static QUEUES: Array<QueueCell, { WATCHED_MAX as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The number of the current look, set by the daemon.
#[btf_map]
static LOOK: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The context: `struct bpf_iter__bpf_sk_storage_map`.
#[repr(C)]
struct Visit {
    meta: *const c_void,
    map: *const c_void,
    sock: Pointer,
    key: *const CellKey,
}

/// Runs for each watched socket, and once more without a socket at the end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn listeners(context: *const c_void) -> i32 {
    // SAFETY: the kernel passes this context; the verifier checks each access.
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
    // SAFETY: as above. The daemon reads the cell after the look.
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
    // Half-open first: a handshake that ends between the two loads is then counted twice, not missed.
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

/// The length of a UDP socket's two queues: datagrams arrive in the first, and its reader moves them to the second.
#[inline(always)]
fn datagrams(sock: Pointer) -> u32 {
    // SAFETY: not null; a `sock` by its type.
    if unsafe { load::<u16>(sock, offset!(protocol)) } != IPPROTO_UDP {
        return 0;
    }
    // The first queue first: a datagram that moves between the two loads is then counted twice, not missed.
    // SAFETY: as above.
    let arrived: u32 = unsafe { load(sock, offset!(receive_queue)) };
    arrived.wrapping_add(moved(sock))
}

/// The length of the second queue, which is in `udp_sock`. Only IPv6 sockets have a helper that casts to it; for IPv4
/// a typed load is confined to `sock`.
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
