//! What happens between fork and exec, where only system calls are allowed: another thread may have held any lock,
//! the allocator's too, at the instant of the fork.

use std::{
    ffi::CStr,
    io,
    os::fd::{BorrowedFd, RawFd},
    ptr,
};

use super::fork::{self, fork_into};
use crate::workers::command::{ListenPid, write_pid};

/// The number of signals: a kernel's signal mask has 64 bits (128 on MIPS).
const KERNEL_SIGNALS: usize = 64;

/// The steps of the child, as it names them when one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Cgroup,
    Session,
    Descriptors,
    Limit,
    User,
    Directory,
    Execute,
}

/// What a child says of a step that failed: the step, the place of what it failed for, the errno.
pub(super) type Report = [u8; 6];

/// Everything that the child needs, made before the fork.
pub(super) struct Child<'a> {
    pub(super) standard: [RawFd; 3],
    pub(super) passed: Vec<RawFd>,
    /// Where the child waits until it may go on, and the end that this process opens the gate with.
    pub(super) gate: [RawFd; 2],
    pub(super) errors: RawFd,
    pub(super) limits: Vec<(u32, libc::rlimit)>,
    pub(super) user: Option<(u32, u32, Vec<u32>)>,
    pub(super) directory: Option<&'a CStr>,
    pub(super) candidates: Vec<*const libc::c_char>,
    pub(super) arguments: Vec<*const libc::c_char>,
    pub(super) environment: Vec<*const libc::c_char>,
    /// Where the digits of LISTEN_PID go.
    pub(super) listen_pid: Option<(*mut u8, usize)>,
}

impl<'a> Child<'a> {
    /// Completes it with the variables, which have to stay where they are until the fork.
    pub(super) fn with_environment(mut self, variables: &'a mut [Vec<u8>], place: Option<ListenPid>) -> Self {
        self.listen_pid = place.map(|place| {
            let variable = &mut variables[place.variable];
            // The last byte stays zero.
            let room = variable.len() - place.offset - 1;
            (variable.as_mut_ptr().wrapping_add(place.offset), room)
        });
        self.environment = variables
            .iter_mut()
            .map(|variable| variable.as_mut_ptr().cast_const().cast())
            .chain([ptr::null()])
            .collect();
        self
    }

    /// Becomes the worker. Returns only when a step has failed: with the place, in their list, of what it failed for.
    ///
    /// # Safety
    /// Only in a child that was forked just now, with all signals blocked.
    unsafe fn run(&self) -> (Step, u8, i32) {
        // SAFETY: system calls and writes to memory that was made before the fork and belongs to this child
        // alone; every pointer is to zero-ended data, or to an array that a null ends, which `self` keeps alive.
        unsafe {
            // Handlers end with the exec; what is ignored would stay so. By the system call, since the C library
            // refuses to touch signals 32 and 33, which a parent can have ignored all the same. A kernel's
            // sigaction of zero bytes is the default on every architecture.
            let default = [0_u64; 4];
            for signal in 1..=KERNEL_SIGNALS {
                let none = ptr::null_mut::<u64>();
                libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, KERNEL_SIGNALS / 8);
            }
            if libc::setsid() < 0 {
                return (Step::Session, 0, errno());
            }
            // Nobody opens the gate once the parent is dead: then this end must not hold it shut for ever.
            let [gate, opener] = self.gate;
            libc::close(opener);
            let mut go = 0_u8;
            if libc::read(gate, (&raw mut go).cast(), 1) != 1 {
                libc::_exit(127);
            }
            let targets = self.standard.iter().chain(&self.passed);
            let mut target = 0;
            for &descriptor in targets {
                if libc::dup2(descriptor, target) < 0 {
                    return (Step::Descriptors, 0, errno());
                }
                target += 1;
            }
            // Whatever else is open, also what this process itself inherited without close-on-exec. 5.9 has
            // close_range; before, what is ours is closed on exec anyway.
            close_range(target, self.errors - 1);
            close_range(self.errors + 1, RawFd::MAX);
            // After the descriptors, which a limit may not allow any more, and while the process may yet raise limits.
            for (place, (resource, limit)) in (0_u8..).zip(&self.limits) {
                if libc::setrlimit(*resource, limit) < 0 {
                    return (Step::Limit, place, errno());
                }
            }
            // By system calls: the C library's functions would have every thread do the same, and knows of threads that the fork left
            // behind.
            if let Some((uid, gid, groups)) = &self.user
                && (libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) < 0
                    || libc::syscall(libc::SYS_setgid, *gid) < 0
                    || libc::syscall(libc::SYS_setuid, *uid) < 0)
            {
                return (Step::User, 0, errno());
            }
            // As the user: what root may enter need not be what it may.
            if let Some(directory) = self.directory
                && libc::chdir(directory.as_ptr()) < 0
            {
                return (Step::Directory, 0, errno());
            }
            if let Some((digits, length)) = self.listen_pid {
                write_pid(libc::getpid().unsigned_abs(), std::slice::from_raw_parts_mut(digits, length));
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
            // As `execvp`: a file that may not be executed is the answer only if no later one can be.
            let mut refused = None;
            // One that is there and is not found by `execve` lacks its interpreter.
            let mut lacks_interpreter = 0;
            for &candidate in &self.candidates {
                libc::execve(candidate, self.arguments.as_ptr(), self.environment.as_ptr());
                match errno() {
                    libc::ENOENT | libc::ENOTDIR => {
                        lacks_interpreter |= u8::from(libc::access(candidate, libc::F_OK) == 0);
                    }
                    libc::EACCES => refused = Some(libc::EACCES),
                    errno => return (Step::Execute, 0, errno),
                }
            }
            (Step::Execute, lacks_interpreter, refused.unwrap_or(libc::ENOENT))
        }
    }
}

fn errno() -> i32 {
    // SAFETY: the address of this thread's errno, always valid.
    unsafe { *libc::__errno_location() }
}

fn close_range(first: RawFd, last: RawFd) {
    if first <= last {
        // SAFETY: takes numbers only; the descriptors closed are copies that the fork made.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// Forks a process, in a cgroup, that becomes the worker. Its failure comes through [`Child::errors`], as a [`Report`].
pub(super) fn fork(child: &Child<'_>, cgroup: Option<BorrowedFd<'_>>) -> io::Result<libc::pid_t> {
    // SAFETY: the child calls only `run`, which is made for it, `write` and `_exit`.
    let run = |entered: fork::Entered| unsafe {
        let (step, place, errno) = match entered {
            Ok(()) => child.run(),
            Err(errno) => (Step::Cgroup, 0, errno),
        };
        let mut report: Report = [step as u8, place, 0, 0, 0, 0];
        report[2..].copy_from_slice(&errno.to_ne_bytes());
        libc::write(child.errors, report.as_ptr().cast(), report.len());
        libc::_exit(127);
    };
    // SAFETY: as above.
    unsafe { fork_into(cgroup, run) }
}
