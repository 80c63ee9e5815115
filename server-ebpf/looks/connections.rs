//! The open TCP connections that a process holds.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::Array,
    helpers::generated::{bpf_seq_write, bpf_sock_from_file},
    macros::btf_map,
};
use server_common::looks::{CONNECTION_STATES, HeldConnection, PORT_WORDS};

use crate::kernel::{Meta, Pointer, load, offset};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;

/// The wanted local ports as a bitmap, in memory shared with the daemon, which sets it.
#[btf_map]
static PORTS: Array<u64, { PORT_WORDS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The context: `struct bpf_iter__task_file`.
#[repr(C)]
struct Visit {
    meta: *const Meta,
    task: *const c_void,
    descriptor: u64,
    file: Pointer,
}

/// Runs for each open descriptor and writes a record if it is a wanted connection. Between two reads the kernel
/// resumes at the next descriptor number, so a descriptor that stays open is visited exactly once. Several
/// descriptors and processes can share a connection; user space removes the duplicates by inode.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn connections(context: *const c_void) -> i32 {
    // SAFETY: the kernel passes this context; the verifier checks each access.
    let (meta, file) = unsafe {
        let visit = context.cast::<Visit>();
        ((&raw const (*visit).meta).read_volatile(), (&raw const (*visit).file).read_volatile())
    };
    if file.is_null() {
        return 0;
    }
    if let Some(held) = wanted(file) {
        // SAFETY: the kernel's `seq_file`. If a record does not fit, the kernel visits the descriptor again at the
        // next read.
        unsafe {
            let seq = (&raw const (*meta).seq).read_volatile();
            bpf_seq_write(
                seq.cast(),
                (&raw const held).cast_mut().cast(),
                size_of::<HeldConnection>() as u32,
            );
        }
    }
    0
}

#[inline(always)]
fn wanted(file: Pointer) -> Option<HeldConnection> {
    // SAFETY: not null; the helper answers null where it is no socket.
    let socket: Pointer = unsafe { bpf_sock_from_file(file.cast_mut().cast()) }.cast();
    if socket.is_null() {
        return None;
    }
    // SAFETY: the verifier knows the type of each pointer, and the kernel turns a fault into 0.
    unsafe {
        let sock: Pointer = load(socket, offset!(socket_sock));
        if sock.is_null() || load::<u16>(sock, offset!(protocol)) != IPPROTO_TCP {
            return None;
        }
        let state: u8 = load(sock, offset!(state));
        let port: u16 = load(sock, offset!(port));
        if CONNECTION_STATES >> (state & 31) & 1 == 0 || !is_wanted(port) {
            return None;
        }
        let address = match load::<u16>(sock, offset!(family)) {
            AF_INET => [0, 0, 0xffff_u32.to_be(), load(sock, offset!(address_v4))],
            AF_INET6 if offset!(has_v6) != 0 => {
                [0, 4, 8, 12].map(|word| load(sock, offset!(address_v6) + word))
            }
            _ => return None,
        };
        let inode: Pointer = load(file, offset!(file_inode));
        let namespace = match offset!(has_net) {
            0 => 0,
            _ => load(load::<Pointer>(sock, offset!(net)), offset!(net_number)),
        };
        Some(HeldConnection {
            // SAFETY: plain words, taken as bytes in memory order.
            address: core::mem::transmute::<[u32; 4], [u8; 16]>(address),
            inode: load(inode, offset!(inode_number)),
            namespace,
            port,
            state,
            reserved: 0,
        })
    }
}

#[inline(always)]
fn is_wanted(port: u16) -> bool {
    let word = PORTS.get_ptr(port as u32 / u64::BITS);
    // SAFETY: the map has given the pointer, which stays valid for the run.
    word.is_some_and(|word| unsafe { word.read_volatile() } >> (port as u32 % u64::BITS) & 1 == 1)
}
