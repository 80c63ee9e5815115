//! Forks a child into a cgroup.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

/// Whether the child is in the cgroup; else the error number of the way there.
pub(crate) type Entered = Result<(), i32>;

/// From include/uapi/linux/sched.h (Linux 5.7).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of the same header, up to `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks a child with all signals blocked, in a cgroup where one is given, and has it run `child`.
///
/// The child is made in the cgroup: to move a process there afterwards holds up every fork of the host for a grace period. Where that is
/// not allowed (a container's seccomp filter knows no `clone3`), it moves itself.
///
/// # Safety
/// `child` makes system calls only: another thread may have held any lock at the instant of the fork, the allocator's too. That
/// includes every function of the C library that has to know of the process's threads (`setuid`).
pub(crate) unsafe fn fork_into(
    cgroup: Option<BorrowedFd<'_>>,
    child: impl Fn(Entered),
) -> io::Result<libc::pid_t> {
    let _blocked = AllSignals::block();
    // SAFETY: the caller's.
    unsafe {
        let Some(cgroup) = cgroup else { return fork(|| child(Ok(()))) };
        let refused = match clone_into(cgroup, || child(Ok(()))) {
            Ok(pid) => return Ok(pid),
            Err(refused) => refused,
        };
        if !matches!(refused.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EINVAL)) {
            return Err(refused);
        }
        let procs = open_procs(cgroup)?;
        // "0" is the writing process.
        fork(|| {
            child(if libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) == 1 {
                Ok(())
            } else {
                Err(errno())
            })
        })
    }
}

/// The file by which processes enter a cgroup.
fn open_procs(cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (directory, flags) = (cgroup.as_raw_fd(), libc::O_WRONLY | libc::O_CLOEXEC);
    // SAFETY: the name ends with a zero.
    let opened = unsafe { libc::openat(directory, c"cgroup.procs".as_ptr(), flags) };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new, and owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

/// # Safety
/// As [`fork_into`].
unsafe fn fork(child: impl FnOnce()) -> io::Result<libc::pid_t> {
    // SAFETY: the caller's.
    unsafe { parted(libc::fork().into(), child) }
}

/// # Safety
/// As [`fork_into`].
unsafe fn clone_into(cgroup: BorrowedFd<'_>, child: impl FnOnce()) -> io::Result<libc::pid_t> {
    let arguments = CloneArguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM it returns in a copy of this process, as fork does; the rest is the caller's.
    unsafe {
        parted(libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()), child)
    }
}

/// # Safety
/// As [`fork_into`].
unsafe fn parted(result: libc::c_long, child: impl FnOnce()) -> io::Result<libc::pid_t> {
    match result {
        0 => {
            child();
            // SAFETY: a system call.
            unsafe { libc::_exit(127) }
        }
        pid if pid > 0 => Ok(pid as libc::pid_t),
        _ => Err(io::Error::last_os_error()),
    }
}

fn errno() -> i32 {
    // SAFETY: the address of this thread's errno, always valid.
    unsafe { *libc::__errno_location() }
}

/// Has no handler of this process run, in this thread or in a child: it would write to what the two share.
struct AllSignals {
    before: libc::sigset_t,
}

impl AllSignals {
    fn block() -> Self {
        // SAFETY: the sets are locals, for which zeros are valid.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Self { before }
        }
    }
}

impl Drop for AllSignals {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}
