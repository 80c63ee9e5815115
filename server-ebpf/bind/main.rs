//! The bind hook: `cgroup/bind4` and `cgroup/bind6` set SO_REUSEPORT on a socket before the kernel takes the port, so that a program
//! that knows nothing of SO_REUSEPORT joins its group.
//!
//! An object of its own, attached to the cgroup of a group's workers, where it sees no bind of anybody else; or above the cgroups of
//! all programs, where it sees every bind of the host and passes over those in other network namespaces. Needs Linux 5.13, from which
//! on `bpf_setsockopt` may set SO_REUSEPORT here.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::bpf_sock_addr,
    btf_maps::{HashMap, RingBuf},
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid,
        generated::{bpf_get_netns_cookie, bpf_setsockopt},
    },
    macros::{btf_map, cgroup_sock_addr},
    programs::SockAddrContext,
};
use server_common::bind::{ADDRESSES_MAX, BindAddress, BindEvent, BindVerdict, INET, INET6};

/// The verdict of the hook for the kernel: the bind goes on.
const GO_ON: i32 = 1;

/// `SOL_SOCKET` and `SO_REUSEPORT` of the kernel's ABI.
const SOL_SOCKET: i32 = 1;
const SO_REUSEPORT: i32 = 15;

/// The cookie of the only network namespace whose binds count; 0 where those of all do, and the verifier leaves out the look at it.
/// The loader sets it. What stands here differs from every other constant: the linker gives equal ones a single place, and the loader
/// would change both.
#[unsafe(no_mangle)]
static NETNS: u64 = 0x6e65_746e_735f_636b;

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
    // SAFETY: a constant for the program's life, which the loader sets before it begins.
    let netns = unsafe { (&raw const NETNS).read_volatile() };
    // SAFETY: the helper reads the context's socket.
    if netns != 0 && unsafe { bpf_get_netns_cookie(bind.cast()) } != netns {
        return GO_ON;
    }
    // SAFETY: nothing changes an entry after the load.
    let verdict = match unsafe { ADDRESSES.get(address) } {
        // Above all programs, others serve the port at other addresses: that concerns nobody.
        None if netns != 0 => return GO_ON,
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
    // SAFETY: a helper without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let event = BindEvent { address, pid, cgroup, verdict: verdict as u32, padding: 0 };
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
