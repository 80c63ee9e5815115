//! Links a program to what it iterates over, opens it and reads it to its end.
//!
//! By hand: aya's `Iter::attach` cannot say which map or which process.

use std::{
    io,
    mem::size_of_val,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type::BPF_TRACE_ITER, bpf_attr, bpf_cmd};

/// What an iterator goes through: `union bpf_iter_link_info`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Over<'a> {
    /// The sockets that have a value in a socket storage map (Linux 5.8).
    Map(BorrowedFd<'a>),
    /// The descriptors of one process (Linux 6.1). Before, the kernel refuses what it does not know with E2BIG.
    Process(u32),
}

/// A program that is linked. It ends with the descriptor.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Links a program that has been loaded.
    pub(super) fn create(program: BorrowedFd<'_>, over: Over<'_>) -> io::Result<Self> {
        // For a map its descriptor; for a process `tid`, `pid` and `pid_fd`, of which one is given.
        let (map, process);
        let info: &[u32] = match over {
            Over::Map(descriptor) => {
                map = [descriptor.as_raw_fd() as u32];
                &map
            }
            Over::Process(pid) => {
                process = [0, pid, 0];
                &process
            }
        };
        let mut attributes = zeroed();
        attributes.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        attributes.link_create.attach_type = BPF_TRACE_ITER as u32;
        attributes.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = info.as_ptr() as u64;
        attributes.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info_len = size_of_val(info) as u32;
        bpf(bpf_cmd::BPF_LINK_CREATE, &mut attributes).map(Self)
    }

    /// Begins an iteration; the descriptor's end is its end. It cannot begin anew.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let mut attributes = zeroed();
        attributes.iter_create.link_fd = self.0.as_raw_fd() as u32;
        bpf(bpf_cmd::BPF_ITER_CREATE, &mut attributes)
    }
}

/// Reads an iteration to its end, with what each read brought.
pub(super) fn read_to_end(
    iteration: &OwnedFd,
    buffer: &mut [u8],
    mut records: impl FnMut(&[u8]),
) -> io::Result<()> {
    loop {
        match rustix::io::read(iteration, &mut *buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => records(&buffer[..length]),
            // The kernel asks for another read after a million objects that gave nothing.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of plain numbers, for each of which zeros are a value; the kernel wants those that it does not use to be 0.
    unsafe { std::mem::zeroed() }
}

/// A call that makes a descriptor. The kernel sets close-on-exec on each of these.
fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are as long as is said, and what they point to outlives the call.
    let made = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>(),
        )
    };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(made as i32) })
}
