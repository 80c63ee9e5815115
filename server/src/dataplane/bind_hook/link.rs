//! Links of programs to a cgroup.

use std::{
    ffi::CString,
    io,
    mem::size_of_val,
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::programs::CgroupSockAddrAttachType as AttachType;
use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_link_info};

use crate::dataplane::syscall::{bpf, bpf_descriptor, no_attributes};

/// A program that is attached to a cgroup, for as long as this value or a pin of it is there.
#[derive(Debug)]
pub(super) struct CgroupLink(OwnedFd);

impl CgroupLink {
    /// Attaches a loaded program beside those that are attached already (Linux 5.7).
    pub(super) fn create(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        attach_type: AttachType,
    ) -> io::Result<Self> {
        let mut attributes = no_attributes();
        attributes.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        attributes.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd() as u32;
        attributes.link_create.attach_type = bpf_attach_type::from(attach_type) as u32;
        // SAFETY: the attributes point to nothing.
        unsafe { bpf_descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attributes) }.map(Self)
    }

    /// Pins it in a bpffs, in place of what is pinned there.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attributes = no_attributes();
        attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
        attributes.__bindgen_anon_4.bpf_fd = self.0.as_raw_fd() as u32;
        // SAFETY: the path outlives the call.
        unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes) }.map(drop)
    }

    /// Detaches it, whoever else holds or has pinned it (Linux 5.9). Doing it twice is harmless.
    pub(super) fn detach(&self) -> io::Result<()> {
        let mut attributes = no_attributes();
        attributes.link_detach.link_fd = self.0.as_raw_fd() as u32;
        // SAFETY: the attributes point to nothing.
        unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attributes) }.map(drop)
    }

    /// The cgroup that it is attached to; 0 once it was detached, or the cgroup was removed.
    pub(super) fn cgroup(&self) -> io::Result<u64> {
        // SAFETY: a structure of integers, for which zeros are valid.
        let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
        let mut attributes = no_attributes();
        attributes.info.bpf_fd = self.0.as_raw_fd() as u32;
        attributes.info.info_len = size_of_val(&info) as u32;
        attributes.info.info = (&raw mut info) as u64;
        // SAFETY: the kernel writes at most `info_len` bytes to `info`; of a link to a cgroup it has filled `cgroup`.
        unsafe {
            bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
            Ok(info.__bindgen_anon_1.cgroup.cgroup_id)
        }
    }
}
