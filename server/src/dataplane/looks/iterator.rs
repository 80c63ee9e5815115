//! BPF iterator links. aya's `Iter::attach` takes no link info, so it cannot name a map or a process.

use std::{
    io,
    mem::size_of_val,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type::BPF_TRACE_ITER, bpf_cmd};

use crate::dataplane::syscall::{bpf_descriptor, no_attributes};

/// The target of an iterator: `union bpf_iter_link_info`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Over<'a> {
    /// The sockets that have a value in a socket storage map (Linux 5.8).
    Map(BorrowedFd<'a>),
    /// The descriptors of one process (Linux 6.1). Earlier kernels refuse it with E2BIG.
    Process(u32),
    /// All threads of the reader's pid namespace (Linux 5.8).
    Threads,
}

/// A linked program. Closing the descriptor ends it.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Links a loaded program.
    pub(super) fn create(program: BorrowedFd<'_>, over: Over<'_>) -> io::Result<Self> {
        // `map.map_fd`, or `task.{tid, pid, pid_fd}`.
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
            Over::Threads => &[],
        };
        let mut attributes = no_attributes();
        attributes.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        attributes.link_create.attach_type = BPF_TRACE_ITER as u32;
        if !info.is_empty() {
            attributes.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = info.as_ptr() as u64;
            attributes.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info_len = size_of_val(info) as u32;
        }
        // SAFETY: `info` outlives the call.
        unsafe { bpf_descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attributes) }.map(Self)
    }

    /// Opens an iteration, which can be read once.
    pub(super) fn open(&self) -> io::Result<OwnedFd> {
        let mut attributes = no_attributes();
        attributes.iter_create.link_fd = self.0.as_raw_fd() as u32;
        // SAFETY: the attributes point to nothing.
        unsafe { bpf_descriptor(bpf_cmd::BPF_ITER_CREATE, &mut attributes) }
    }
}

/// Reads an iteration to its end and passes on the bytes of each read.
pub(super) fn read_to_end(
    iteration: &OwnedFd,
    buffer: &mut [u8],
    mut records: impl FnMut(&[u8]),
) -> io::Result<()> {
    loop {
        match rustix::io::read(iteration, &mut *buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => records(&buffer[..length]),
            // EAGAIN: a million visited objects without output.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
