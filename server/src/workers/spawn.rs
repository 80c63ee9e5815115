//! Starts a worker's process: fork, and in the child only what is safe between fork and exec.
//!
//! By hand and not with `std::process::Command`, for three things that it cannot do: pass descriptors at 3 and
//! following (its own error pipe may be there), set LISTEN_PID to the child's pid without a second exec, and say
//! which step failed.

use std::{
    ffi::CStr,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::PathBuf,
    ptr,
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::PipeFlags,
};
use thiserror::Error;

use super::{
    command::{Prepared, SpawnSpec, Unusable, write_pid},
    output::WorkerOutput,
    process::{Process, ProcessError},
};

/// The first descriptor that is passed, as systemd has it.
const LISTEN_FDS_START: RawFd = 3;

/// What the worker can write while nobody reads: see [`output_pipe`].
const OUTPUT_PIPE_SIZE: usize = 1024 * 1024;

/// The number of signals: a kernel's signal mask has 64 bits (128 on MIPS).
const KERNEL_SIGNALS: usize = 64;

/// A started worker.
#[derive(Debug)]
pub struct Spawned {
    /// Its process.
    pub process: Process,
    /// What it writes.
    pub output: WorkerOutput,
}

/// Why a worker could not be started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// No file of this name can be found.
    #[error("cannot start {worker}: there is no program {program:?}")]
    NoSuchProgram {
        /// The worker.
        worker: String,
        /// The program, as configured.
        program: String,
        /// Whether the file is there and only its interpreter is missing.
        interpreter: bool,
    },
    /// There is a file, and it may not be executed by this user, or is no program.
    #[error("cannot start {worker}: {program:?} is not executable")]
    NotExecutable {
        /// The worker.
        worker: String,
        /// The program, as configured.
        program: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The working directory is missing, or may not be entered by this user.
    #[error("cannot start {worker}: cannot enter its directory {directory:?}")]
    Directory {
        /// The worker.
        worker: String,
        /// The directory, as configured.
        directory: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The child could not become the user.
    #[error("cannot start {worker}: cannot become user {user}")]
    User {
        /// The worker.
        worker: String,
        /// The user, as configured.
        user: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The specification cannot be passed to a program.
    #[error("cannot start {worker}: {reason}")]
    Unusable {
        /// The worker.
        worker: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A step that should not fail did.
    #[error("cannot start {worker}: cannot {operation}")]
    Other {
        /// The worker.
        worker: String,
        /// The step.
        operation: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The process was started and could not be watched.
    #[error("cannot watch {worker}")]
    Process {
        /// The worker.
        worker: String,
        /// Why not.
        #[source]
        source: ProcessError,
    },
}

impl SpawnError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoSuchProgram { interpreter: true, .. } => {
                Some("the file is there: what its #! line or its ELF header names as interpreter is not")
            }
            Self::NoSuchProgram { .. } => {
                Some("write its whole path, or put its directory into the worker's PATH")
            }
            Self::NotExecutable { source, .. } if source.raw_os_error() == Some(libc::ENOEXEC) => {
                Some("a script needs a #! line; a binary must be made for this machine")
            }
            Self::NotExecutable { .. } => {
                Some("the worker's user needs the right to execute it (chmod +x) and to pass its directories")
            }
            Self::User { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
                Some("running workers as another user needs CAP_SETUID and CAP_SETGID")
            }
            Self::Other { source, .. } if source.raw_os_error() == Some(libc::EAGAIN) => {
                Some("the limit of processes is reached: see TasksMax= and RLIMIT_NPROC")
            }
            Self::Other { source, .. } if source.raw_os_error() == Some(libc::EMFILE) => {
                Some("the limit of open files is reached: raise LimitNOFILE=")
            }
            _ => None,
        }
    }
}

/// The steps of the child, as it names them when one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Session,
    Descriptors,
    User,
    Directory,
    Execute,
}

/// Starts a generation of a worker and returns once its program runs.
///
/// The process leads a session of its own, has /dev/null as stdin, pipes as stdout and stderr, the listeners from
/// fd 3 on and no other descriptor of this process; default signal handling; and the environment that
/// [`SpawnSpec`] says. It outlives this process: nothing ends it with its parent. A failed step, the exec among
/// them, is the error that is returned, and then there is no process.
pub fn spawn(spec: &SpawnSpec<'_>) -> Result<Spawned, SpawnError> {
    let worker = || spec.name.to_string();
    let other =
        |operation| move |source: io::Error| SpawnError::Other { worker: worker(), operation, source };
    let prepared = Prepared::new(spec, std::env::vars_os()).map_err(|unusable| SpawnError::Unusable {
        worker: worker(),
        reason: match unusable {
            Unusable::NoProgram => "its command is empty".to_owned(),
            Unusable::ZeroByte(what) => format!("{what} has a zero byte, or a name that is none"),
        },
    })?;

    // Everything above what the child passes on, so that no dup2 there overwrites what it still needs.
    let first_free = LISTEN_FDS_START + spec.listeners.len() as RawFd;
    let above = |fd: BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, first_free)
            .map_err(|errno| other("duplicate a descriptor")(errno.into()))
    };
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| other("open /dev/null")(errno.into()))?;
    let (stdout, child_stdout) = output_pipe().map_err(other("make a pipe"))?;
    let (stderr, child_stderr) = output_pipe().map_err(other("make a pipe"))?;
    let (errors, child_errors) = pipe().map_err(other("make a pipe"))?;
    // Each original is closed here: the end of the start is that nobody holds the pipe for errors any more.
    let moved = |fd: OwnedFd| above(fd.as_fd());
    let null = moved(null)?;
    let child_stdout = moved(child_stdout)?;
    let child_stderr = moved(child_stderr)?;
    let child_errors = moved(child_errors)?;
    let listeners: Vec<OwnedFd> =
        spec.listeners.iter().map(|(listener, _)| above(*listener)).collect::<Result<_, _>>()?;

    let child = Child {
        standard: [null.as_raw_fd(), child_stdout.as_raw_fd(), child_stderr.as_raw_fd()],
        listeners: listeners.iter().map(AsRawFd::as_raw_fd).collect(),
        errors: child_errors.as_raw_fd(),
        user: spec
            .user
            .as_ref()
            .filter(|user| !user.is_this_process())
            .map(|user| (user.uid, user.gid, user.groups.clone())),
        directory: prepared.directory.as_deref(),
        candidates: prepared.candidates.iter().map(|path| path.as_ptr()).collect(),
        arguments: prepared.arguments.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect(),
        environment: Vec::new(),
        listen_pid: None,
    };
    let mut variables = prepared.environment;
    let child = child.with_environment(&mut variables, prepared.listen_pid);

    let pid = fork(&child).map_err(other("fork"))?;
    drop((null, child_stdout, child_stderr, child_errors, listeners));
    let mut report = [0_u8; 5];
    // Ends with nothing when the exec has closed the pipe.
    let reported = read_report(errors, &mut report).map_err(other("read the start's outcome"))?;
    if reported < report.len() {
        let process =
            Process::of_child(pid).map_err(|source| SpawnError::Process { worker: worker(), source })?;
        return Ok(Spawned { process, output: WorkerOutput { stdout, stderr } });
    }
    reap(pid);
    let [step, errno @ ..] = report;
    Err(failure(spec, &prepared.program, step, io::Error::from_raw_os_error(i32::from_ne_bytes(errno))))
}

fn failure(spec: &SpawnSpec<'_>, program: &str, step: u8, source: io::Error) -> SpawnError {
    let worker = spec.name.to_string();
    let program = program.to_owned();
    match step {
        step if step == Step::Execute as u8 => match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {
                let interpreter = program.contains('/') && std::path::Path::new(&program).exists();
                SpawnError::NoSuchProgram { worker, program, interpreter }
            }
            Some(libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::EISDIR) => {
                SpawnError::NotExecutable { worker, program, source }
            }
            _ => SpawnError::Other { worker, operation: "execute its program", source },
        },
        step if step == Step::Directory as u8 => {
            SpawnError::Directory { worker, directory: spec.directory.clone().unwrap_or_default(), source }
        }
        step if step == Step::User as u8 => {
            let user = spec.user.as_ref().map(|user| user.name.clone()).unwrap_or_default();
            SpawnError::User { worker, user, source }
        }
        step if step == Step::Session as u8 => {
            SpawnError::Other { worker, operation: "begin a session", source }
        }
        _ => SpawnError::Other { worker, operation: "pass its descriptors", source },
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// A pipe for a worker's output: the end to read from, and the worker's.
///
/// The worker's end is open for reading, too. A plain one would end the worker by SIGPIPE at its next line after
/// the daemon was killed; this one has a reader for as long as the worker lives, holds what it writes, and can be
/// opened again by the next daemon. Once it is full the worker waits, so it is made large.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe()?;
    // May be refused by `fs.pipe-user-pages-soft`; then it has the usual 64 KiB.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, OUTPUT_PIPE_SIZE);
    let path = format!("/proc/self/fd/{}", write.as_raw_fd());
    let both = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    Ok((read, both.unwrap_or(write)))
}

fn read_report(errors: OwnedFd, report: &mut [u8]) -> io::Result<usize> {
    let mut pipe = std::fs::File::from(errors);
    let mut length = 0;
    while length < report.len() {
        match pipe.read(&mut report[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn reap(pid: libc::pid_t) {
    // SAFETY: no memory is passed; the child is ours, has said that it ends, and is waited for by nobody else.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Everything that the child needs, made before the fork: it may not allocate, since another thread may have held
/// the allocator's lock at that instant.
struct Child<'a> {
    standard: [RawFd; 3],
    listeners: Vec<RawFd>,
    errors: RawFd,
    user: Option<(u32, u32, Vec<u32>)>,
    directory: Option<&'a CStr>,
    candidates: Vec<*const libc::c_char>,
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    /// Where the digits of LISTEN_PID go.
    listen_pid: Option<(*mut u8, usize)>,
}

impl<'a> Child<'a> {
    fn with_environment(
        mut self,
        variables: &'a mut [Vec<u8>],
        place: Option<super::command::ListenPid>,
    ) -> Self {
        self.listen_pid = place.map(|place| {
            let digits = &mut variables[place.variable][place.offset..];
            // The last byte stays zero.
            (digits.as_mut_ptr(), digits.len() - 1)
        });
        self.environment = variables
            .iter_mut()
            .map(|variable| variable.as_mut_ptr().cast_const().cast())
            .chain([ptr::null()])
            .collect();
        self
    }

    /// Becomes the worker. Returns only when a step has failed.
    ///
    /// # Safety
    /// Only in a child that was forked just now, with all signals blocked.
    unsafe fn run(&self) -> (Step, i32) {
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
                return (Step::Session, errno());
            }
            let targets = self.standard.iter().chain(&self.listeners);
            let mut target = 0;
            for &descriptor in targets {
                if libc::dup2(descriptor, target) < 0 {
                    return (Step::Descriptors, errno());
                }
                target += 1;
            }
            // Whatever else is open, also what this process itself inherited without close-on-exec. 5.9 has
            // close_range; before, what is ours is closed on exec anyway.
            close_range(target, self.errors - 1);
            close_range(self.errors + 1, RawFd::MAX);
            if let Some((uid, gid, groups)) = &self.user
                && (libc::setgroups(groups.len(), groups.as_ptr()) < 0
                    || libc::setgid(*gid) < 0
                    || libc::setuid(*uid) < 0)
            {
                return (Step::User, errno());
            }
            // As the user: what root may enter need not be what it may.
            if let Some(directory) = self.directory
                && libc::chdir(directory.as_ptr()) < 0
            {
                return (Step::Directory, errno());
            }
            if let Some((digits, length)) = self.listen_pid {
                write_pid(libc::getpid().unsigned_abs(), std::slice::from_raw_parts_mut(digits, length));
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
            // As `execvp`: a file that may not be executed is the answer only if no later one can be.
            let mut refused = None;
            for &candidate in &self.candidates {
                libc::execve(candidate, self.arguments.as_ptr(), self.environment.as_ptr());
                match errno() {
                    libc::ENOENT | libc::ENOTDIR => {}
                    libc::EACCES => refused = Some(libc::EACCES),
                    errno => return (Step::Execute, errno),
                }
            }
            (Step::Execute, refused.unwrap_or(libc::ENOENT))
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

fn fork(child: &Child<'_>) -> io::Result<libc::pid_t> {
    // SAFETY: signal masks are locals; the child calls only `run`, which is made for it, `write` and `_exit`.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        // No handler of this process may run in the child: it would write to what the two share.
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let pid = libc::fork();
        if pid == 0 {
            let (step, errno) = child.run();
            let mut report = [step as u8, 0, 0, 0, 0];
            report[1..].copy_from_slice(&errno.to_ne_bytes());
            libc::write(child.errors, report.as_ptr().cast(), report.len());
            libc::_exit(127);
        }
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid < 0 { Err(error) } else { Ok(pid) }
    }
}

#[cfg(test)]
mod tests;
