//! Starts a worker's process: fork, and in the child only what is safe between fork and exec.
//!
//! By hand and not with `std::process::Command`, for three things that it cannot do: pass descriptors at 3 and
//! following (its own error pipe may be there), set LISTEN_PID to the child's pid without a second exec, and say
//! which step failed.

mod child;
pub(crate) mod fork;
mod reopen;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    ptr,
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::PipeFlags,
};
use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};

use self::child::{Child, Report, Step, fork};
use super::{
    command::{LISTEN_FDS_START, Output, Prepared, SpawnSpec, Unusable, candidates},
    limits::{Limit, Resource},
    output::WorkerOutput,
    process::{Process, ProcessError},
};

/// What the worker can write while nobody reads: see [`output_pipe`].
const OUTPUT_PIPE_SIZE: usize = 1024 * 1024;

/// A worker's process that has been made and waits to be let go: it runs nothing yet. Dropping this ends it; whoever has its
/// [`Process`] sees that.
#[derive(Debug)]
pub struct Forked {
    /// Its process.
    pub process: Process,
    /// What it writes, where that comes to this process.
    pub output: Option<WorkerOutput>,
    gate: OwnedFd,
    start: Start,
}

/// A process that is on its way to its program.
#[derive(Debug)]
pub struct Start {
    /// Where the process says which step has failed; it ends with nothing when the exec has closed it.
    errors: OwnedFd,
    /// Without descriptors: for the words of an error.
    spec: SpawnSpec,
    program: String,
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
    /// A limit of its resources could not be set.
    #[error("cannot start {worker}: cannot set its limit {resource} to {limit}; the daemon's own is {own}")]
    Limit {
        /// The worker.
        worker: String,
        /// The resource.
        resource: Resource,
        /// What it was to be limited to.
        limit: Limit,
        /// What the daemon itself is limited to; nothing where that cannot be told.
        own: String,
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
    /// It was not tried: the daemon has no room for it.
    #[error("cannot start a worker: {0}")]
    Refused(String),
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
            Self::Directory { .. } => {
                Some("it has to exist, and the worker's user needs the right to enter it")
            }
            Self::User { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
                Some("running workers as another user needs CAP_SETUID and CAP_SETGID")
            }
            Self::Limit { resource: Resource::NOFILE, source, .. }
                if source.raw_os_error() == Some(libc::EPERM) =>
            {
                Some("the hard limit is at most the sysctl fs.nr_open, and raising it needs CAP_SYS_RESOURCE")
            }
            Self::Limit { .. } => {
                Some("raising a hard limit needs CAP_SYS_RESOURCE: lower it, or raise the daemon's own")
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

/// Makes the process of a generation of a worker. It waits before its first step until it is [let go](Forked::let_go), and ends by
/// itself should this process die before: whoever writes down in between whom it has made has started nobody else.
///
/// The process leads a session of its own, has /dev/null as stdin, stdout and stderr as [`Output`] says, the listeners from
/// fd 3 on, then the memory for its load, and no other descriptor of this process; default signal handling; and the environment that
/// [`SpawnSpec`] says. It outlives this process: nothing ends it with its parent. The descriptors of the specification are closed here.
///
/// Takes as long as a fork; nothing in it waits for a file system.
pub fn fork_worker(mut spec: SpawnSpec) -> Result<Forked, SpawnError> {
    let name = spec.name.to_string();
    let worker = || name.clone();
    let other =
        |operation| move |source: io::Error| SpawnError::Other { worker: worker(), operation, source };
    let prepared = Prepared::new(&spec, std::env::vars_os()).map_err(|unusable| SpawnError::Unusable {
        worker: worker(),
        reason: match unusable {
            Unusable::NoProgram => "its command is empty".to_owned(),
            Unusable::ZeroByte(what) => format!("{what} has a zero byte, or a name that is none"),
        },
    })?;

    // Everything above what the child passes on, so that no dup2 there overwrites what it still needs.
    let passed = spec.listeners.len() + usize::from(spec.load.is_some());
    let first_free = LISTEN_FDS_START + passed as RawFd;
    let above = |fd: BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, first_free)
            .map_err(|errno| other("duplicate a descriptor")(errno.into()))
    };
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| other("open /dev/null")(errno.into()))?;
    let (output, [child_stdout, child_stderr]) = output(spec.output).map_err(other("make a pipe"))?;
    let (errors, child_errors) = pipe().map_err(other("make a pipe"))?;
    let (child_gate, gate) = pipe().map_err(other("make a pipe"))?;
    rustix::io::ioctl_fionbio(&errors, true).map_err(|errno| other("set up a pipe")(errno.into()))?;
    // Each original is closed here: the end of the start is that nobody holds the pipe for errors any more.
    let moved = |fd: OwnedFd| above(fd.as_fd());
    let null = moved(null)?;
    let child_stdout = moved(child_stdout)?;
    let child_stderr = moved(child_stderr)?;
    let child_errors = moved(child_errors)?;
    let child_gate = moved(child_gate)?;
    let listeners = std::mem::take(&mut spec.listeners).into_iter().map(|(listener, _)| listener);
    let passed = listeners.chain(spec.load.take()).map(moved).collect::<Result<Vec<OwnedFd>, _>>()?;

    let child = Child {
        standard: [null.as_raw_fd(), child_stdout.as_raw_fd(), child_stderr.as_raw_fd()],
        passed: passed.iter().map(AsRawFd::as_raw_fd).collect(),
        gate: [child_gate.as_raw_fd(), gate.as_raw_fd()],
        errors: child_errors.as_raw_fd(),
        limits: spec.limits.iter().map(|&(resource, limit)| (resource.number(), limit.into())).collect(),
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

    let cgroup = spec.cgroup.as_ref().map(|cgroup| cgroup.as_fd());
    let pid = fork(&child, cgroup).map_err(other("fork"))?;
    let process =
        Process::of_child(pid).map_err(|source| SpawnError::Process { worker: worker(), source })?;
    Ok(Forked { process, output, gate, start: Start { errors, spec, program: prepared.program } })
}

impl Forked {
    /// Lets the process go to its program, without a wait.
    pub fn let_go(self) -> Result<(Option<WorkerOutput>, Start), SpawnError> {
        let worker = self.start.spec.name.to_string();
        rustix::io::write(&self.gate, b"g").map_err(|errno| SpawnError::Other {
            worker,
            operation: "let it go on",
            source: errno.into(),
        })?;
        Ok((self.output, self.start))
    }
}

impl Start {
    /// Waits until the process runs its program, or has ended before; the error says which of its steps has failed. That can take as long
    /// as a file system does. Needs a tokio runtime with I/O.
    pub async fn outcome(self) -> Result<(), SpawnError> {
        let Self { errors, spec, program } = self;
        let failed = |source| SpawnError::Other {
            worker: spec.name.to_string(),
            operation: "read the start's outcome",
            source,
        };
        // SAFETY: the descriptor is this value's own, and stays open until it is dropped.
        let errors = unsafe { AsyncFd::register_with_interest(errors, Interest::READABLE) };
        let errors = errors.map_err(|refused| failed(refused.into()))?;
        let mut report: Report = [0; 6];
        let mut length = 0;
        while length < report.len() {
            let mut ready = errors.readable().await.map_err(failed)?;
            let rest = &mut report[length..];
            match ready.try_io(|errors| Ok(rustix::io::read(errors, rest)?)) {
                Ok(Ok(0)) => break,
                Ok(Ok(read)) => length += read,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(failed(error)),
                Err(_would_block) => {}
            }
        }
        if length < report.len() {
            return Ok(());
        }
        let [step, place, errno @ ..] = report;
        Err(failure(&spec, &program, step, place, io::Error::from_raw_os_error(i32::from_ne_bytes(errno))))
    }
}

/// Refuses a command whose program is nowhere, before anything is started for it: `whose` is for the message.
///
/// Whether the worker's user may execute it, only its start can tell.
pub fn require_program(
    whose: &str,
    command: &[String],
    directory: Option<&Path>,
    environment: &[(String, String)],
) -> Result<(), SpawnError> {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let set = environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, path)| path.into());
    let path = set.or_else(|| std::env::var_os("PATH"));
    let is_missing = |file: PathBuf| {
        let file = directory.map_or(file.clone(), |directory| directory.join(file));
        let found = file.metadata().map_err(|error| error.kind());
        matches!(found, Err(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    };
    if candidates(program, path.as_deref()).into_iter().all(is_missing) {
        let (worker, program) = (whose.to_owned(), program.to_owned());
        return Err(SpawnError::NoSuchProgram { worker, program, interpreter: false });
    }
    Ok(())
}

fn failure(spec: &SpawnSpec, program: &str, step: u8, place: u8, source: io::Error) -> SpawnError {
    let worker = spec.name.to_string();
    let program = program.to_owned();
    match step {
        step if step == Step::Execute as u8 => match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {
                SpawnError::NoSuchProgram { worker, program, interpreter: place == 1 }
            }
            Some(libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::EISDIR) => {
                SpawnError::NotExecutable { worker, program, source }
            }
            _ => SpawnError::Other { worker, operation: "execute its program", source },
        },
        step if step == Step::Directory as u8 => {
            SpawnError::Directory { worker, directory: spec.directory.clone().unwrap_or_default(), source }
        }
        step if step == Step::Limit as u8 && usize::from(place) < spec.limits.len() => {
            let (resource, limit) = spec.limits[usize::from(place)];
            let own = resource.own().map(|own| own.to_string()).unwrap_or_default();
            SpawnError::Limit { worker, resource, limit, own, source }
        }
        step if step == Step::User as u8 => {
            let user = spec.user.as_ref().map(|user| user.name.clone()).unwrap_or_default();
            SpawnError::User { worker, user, source }
        }
        step if step == Step::Cgroup as u8 => {
            SpawnError::Other { worker, operation: "enter the cgroup of its group's workers", source }
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

/// What this process reads, and the worker's stdout and stderr.
fn output(output: Output) -> io::Result<(Option<WorkerOutput>, [OwnedFd; 2])> {
    if output == Output::Shared {
        return Ok((None, reopen::stdout_and_stderr()?));
    }
    let (stdout, child_stdout) = output_pipe()?;
    let (stderr, child_stderr) = output_pipe()?;
    Ok((Some(WorkerOutput { stdout, stderr }), [child_stdout, child_stderr]))
}

/// A pipe for a worker's output: the end to read from, and the worker's.
///
/// The worker's end is open for reading, too. A plain one would end the worker by SIGPIPE at its next line after
/// the daemon was killed; this one has a reader for as long as the worker lives, and holds what it writes. Once it is full the
/// worker waits, so it is made large; workers that are to outlive the daemon have none ([`Output::Shared`]).
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe()?;
    // May be refused by `fs.pipe-user-pages-soft`; then it has the usual 64 KiB.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, OUTPUT_PIPE_SIZE);
    let path = format!("/proc/self/fd/{}", write.as_raw_fd());
    let both = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    Ok((read, both.unwrap_or(write)))
}

/// A started worker.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: Process,
    pub(crate) output: Option<WorkerOutput>,
}

/// Starts a worker and waits until its program runs.
#[cfg(test)]
pub(crate) async fn spawn_and_wait(spec: SpawnSpec) -> Result<Spawned, SpawnError> {
    let forked = fork_worker(spec)?;
    let process = forked.process.clone();
    let (output, start) = forked.let_go()?;
    match start.outcome().await {
        Ok(()) => Ok(Spawned { process, output }),
        Err(error) => {
            process.wait().await.unwrap();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
