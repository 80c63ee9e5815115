//! The bind hook: `cgroup/bind4` and `cgroup/bind6` set SO_REUSEPORT on a worker's socket before the kernel takes the port, so that
//! a program that knows nothing of SO_REUSEPORT joins its group.
//!
//! An object of its own: it is attached to the cgroup of a group's workers and sees no bind of anybody else. Needs Linux 5.13, from
//! which on `bpf_setsockopt` may set SO_REUSEPORT here.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::bpf_sock_addr,
    btf_maps::{HashMap, RingBuf},
    helpers::{bpf_get_current_pid_tgid, generated::bpf_setsockopt},
    macros::{btf_map, cgroup_sock_addr},
    programs::SockAddrContext,
};
use server_common::bind::{ADDRESSES_MAX, BindAddress, BindEvent, BindVerdict, INET, INET6};

/// The verdict of the hook for the kernel: the bind goes on.
const GO_ON: i32 = 1;

/// `SOL_SOCKET` and `SO_REUSEPORT` of the kernel's ABI.
const SOL_SOCKET: i32 = 1;
const SO_REUSEPORT: i32 = 15;

/// The ports of the group. Any other bind costs one lookup.
#[btf_map]
static PORTS: HashMap<u32, u32, { ADDRESSES_MAX as usize }> = HashMap::new();

/// The listen addresses of the group.
#[btf_map]
static ADDRESSES: HashMap<BindAddress, u32, { ADDRESSES_MAX as usize }> = HashMap::new();

/// What the daemon is told. An event that does not fit is lost: the daemon also looks by itself, less often.
#[btf_map]
static EVENTS: RingBuf<BindEvent, 4096> = RingBuf::new();

#[cgroup_sock_addr(bind4)]
pub fn bind4(context: SockAddrContext) -> i32 {
    // SAFETY: the verifier checks each access to the context.
    unsafe {
        let bind = context.sock_addr;
        decide(bind, [(*bind).user_ip4, 0, 0, 0], INET)
    }
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(context: SockAddrContext) -> i32 {
    // SAFETY: as above; read word by word, as the kernel wants.
    unsafe {
        let bind = context.sock_addr;
        let words = &raw const (*bind).user_ip6;
        let word = |index| words.cast::<u32>().add(index).read_volatile();
        decide(bind, [word(0), word(1), word(2), word(3)], INET6)
    }
}

#[inline(always)]
unsafe fn decide(bind: *mut bpf_sock_addr, address: [u32; 4], family: u8) -> i32 {
    // SAFETY: the caller's.
    let (port, protocol) = unsafe { ((*bind).user_port, (*bind).protocol) };
    let address = BindAddress { address, port: (port as u16).to_be(), protocol: protocol as u8, family };
    // SAFETY: nothing changes an entry after the load.
    if unsafe { PORTS.get(address.port_key()) }.is_none() {
        return GO_ON;
    }
    // SAFETY: as above.
    let verdict = match unsafe { ADDRESSES.get(address) } {
        None => BindVerdict::OtherAddress,
        Some(_) => {
            let mut one = 1_i32;
            // SAFETY: the option's value is on the stack, of this size.
            let result = unsafe {
                bpf_setsockopt(
                    bind.cast(),
                    SOL_SOCKET,
                    SO_REUSEPORT,
                    (&raw mut one).cast(),
                    size_of::<i32>() as i32,
                )
            };
            if result == 0 { BindVerdict::Joins } else { BindVerdict::Refused }
        }
    };
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let event = BindEvent { address, pid, verdict: verdict as u32 };
    let _ = EVENTS.output(event, 0);
    GO_ON
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends some helpers only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
