//! The `bpf` system call, for what aya has no function for.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// Attributes in which nothing is set: the kernel requires unused bytes to be 0.
pub(super) fn no_attributes() -> bpf_attr {
    // SAFETY: a union of integers, for which zeros are valid.
    unsafe { std::mem::zeroed() }
}

/// Makes a `bpf` call that returns a number.
///
/// # Safety
/// The attributes are those of the command, and the memory that they point to outlives the call.
pub(super) unsafe fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<libc::c_long> {
    let attributes = std::ptr::from_mut(attributes);
    // SAFETY: the caller's.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attributes, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes a `bpf` call that returns a new descriptor, on which the kernel sets close-on-exec.
///
/// # Safety
/// As [`bpf`]; and the command returns a descriptor.
pub(super) unsafe fn bpf_descriptor(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller's; the descriptor is new and owned by nothing else.
    unsafe { bpf(command, attributes).map(|descriptor| OwnedFd::from_raw_fd(descriptor as i32)) }
}
