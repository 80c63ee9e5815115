//! Programs on a cgroup that deny a port to every `bind`, as systemd attaches those of `SocketBindDeny=`.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

// From include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
/// `BPF_CGROUP_INET4_BIND`, `BPF_CGROUP_INET6_BIND`.
const ATTACH_TYPES: [u32; 2] = [8, 9];
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
/// Where `struct bpf_sock_addr` has `user_port`, in network byte order.
const USER_PORT: u64 = 24;
/// More than any cgroup of a test has.
const PROGRAMS_MAX: usize = 16;

/// The programs at one cgroup, for IPv4 and for IPv6. The cgroup's removal detaches them.
#[derive(Debug)]
pub struct DeniedPort {
    cgroup: File,
    programs: [OwnedFd; 2],
}

impl DeniedPort {
    /// Attaches the programs to a cgroup, so that others may be attached beside them and below.
    #[track_caller]
    pub fn attach(cgroup: &Path, port: u16) -> Self {
        let cgroup = File::open(cgroup).expect("the cgroup is there");
        let programs = ATTACH_TYPES.map(|attach_type| {
            let program = load(attach_type, port);
            let mut attributes = [0; 16];
            attributes[0] = pair(cgroup.as_raw_fd() as u32, program.as_raw_fd() as u32);
            attributes[1] = pair(attach_type, BPF_F_ALLOW_MULTI);
            bpf(BPF_PROG_ATTACH, &mut attributes);
            program
        });
        Self { cgroup, programs }
    }

    /// How many programs are attached to the cgroup, for IPv4 and for IPv6: there are these, where nobody has done anything to it.
    #[track_caller]
    pub fn attached(&self) -> [usize; 2] {
        assert_eq!(self.programs.len(), ATTACH_TYPES.len());
        ATTACH_TYPES.map(|attach_type| count(&self.cgroup, attach_type, 0))
    }
}

/// How many programs a `bind` of a process in a cgroup runs, for IPv4 and for IPv6: those of the cgroups above too.
#[track_caller]
pub fn effective(cgroup: &Path) -> [usize; 2] {
    let cgroup = File::open(cgroup).expect("the cgroup is there");
    ATTACH_TYPES.map(|attach_type| count(&cgroup, attach_type, BPF_F_QUERY_EFFECTIVE))
}

#[track_caller]
fn count(cgroup: &File, attach_type: u32, flags: u32) -> usize {
    let mut numbers = [0_u32; PROGRAMS_MAX];
    let mut attributes = [0; 16];
    attributes[0] = pair(cgroup.as_raw_fd() as u32, attach_type);
    attributes[1] = pair(flags, 0);
    attributes[2] = numbers.as_mut_ptr() as u64;
    attributes[3] = numbers.len() as u64;
    bpf(BPF_PROG_QUERY, &mut attributes);
    // The kernel writes how many there are: `prog_cnt`, of 32 bits.
    (attributes[3] & u64::from(u32::MAX)) as usize
}

/// A program that returns 0, which denies, for the port, and 1 for any other.
#[track_caller]
fn load(attach_type: u32, port: u16) -> OwnedFd {
    // Opcode, registers (destination in the low half), offset, immediate: `struct bpf_insn`.
    let instruction = |code: u8, registers: u8, offset: u64, immediate: u32| {
        u64::from(code) | u64::from(registers) << 8 | offset << 16 | u64::from(immediate) << 32
    };
    let program = [
        // r2 = ctx->user_port
        instruction(0x61, 0x12, USER_PORT, 0),
        // r0 = 1
        instruction(0xb7, 0x00, 0, 1),
        // if r2 != port skip the next
        instruction(0x55, 0x02, 1, u32::from(port.to_be())),
        // r0 = 0
        instruction(0xb7, 0x00, 0, 0),
        // return r0
        instruction(0x95, 0x00, 0, 0),
    ];
    let mut attributes = [0; 16];
    attributes[0] = pair(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, program.len() as u32);
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = c"GPL".as_ptr() as u64;
    // `expected_attach_type`, at byte 68.
    attributes[8] = pair(0, attach_type);
    let loaded = bpf(BPF_PROG_LOAD, &mut attributes);
    // SAFETY: a new descriptor, owned by nothing else.
    unsafe { OwnedFd::from_raw_fd(loaded) }
}

/// Two fields of 32 bits that follow each other in `union bpf_attr`.
fn pair(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[track_caller]
fn bpf(command: libc::c_int, attributes: &mut [u64; 16]) -> i32 {
    // SAFETY: the attributes are zeros but for what the command takes, and what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    assert!(result >= 0, "bpf: {}", io::Error::last_os_error());
    result as i32
}
