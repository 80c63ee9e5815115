//! A worker's process and its descendants: signals to them, and how it ended.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{WaitId, WaitIdOptions},
};
use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};

use crate::sockets::{pidfd, processes::Processes, procfs};

/// How long whoever reaps orphans may take to do so.
const REAPED_BY_OTHERS: Duration = Duration::from_millis(500);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It is gone and this process, not being its parent, was not told how.
    Unknown,
}

impl Exit {
    /// From a wait status, as `wait(2)` has it.
    fn of_status(status: i32) -> Self {
        match (libc::WIFEXITED(status), libc::WIFSIGNALED(status)) {
            (true, _) => Self::Code(libc::WEXITSTATUS(status)),
            (_, true) => Self::Signal(libc::WTERMSIG(status)),
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("exit unknown"),
        }
    }
}

/// A process that could not be watched or signalled.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// There is no such process, or it is not the one that was meant.
    #[error("process {pid} is gone")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// It could not be opened.
    #[error(transparent)]
    Open(#[from] pidfd::PidfdError),
    /// It could not be waited for.
    #[error("cannot wait for process {pid}")]
    Wait {
        /// The process.
        pid: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It could not be signalled.
    #[error("cannot send signal {signal} to process {pid}")]
    Signal {
        /// The process.
        pid: u32,
        /// The signal.
        signal: i32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// A worker's process, the leader of its session. Clones are one process.
///
/// It is held by pidfd (Linux 5.3): no signal ever reaches another process that was given its number. Dropping
/// the last clone leaves the process running; one that has ended is reaped.
#[derive(Debug, Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pid: u32,
    start_time: u64,
    pidfd: OwnedFd,
    exit: OnceLock<Exit>,
    reaping: Mutex<Option<Exit>>,
    /// Its user when it had ended.
    last_user: OnceLock<u32>,
    /// Who of the session was alive when its leader had ended and its number was still taken: pid, start time.
    survivors: OnceLock<Vec<(u32, u64)>>,
    /// When it was known to have ended.
    ended: OnceLock<Instant>,
}

impl Process {
    /// The child that was forked just now and is waited for by nobody else.
    pub(super) fn of_child(pid: libc::pid_t) -> Result<Self, ProcessError> {
        Self::open(pid.unsigned_abs(), None)
    }

    /// A process that runs already, for a daemon that takes over. With a start time (clock ticks since boot, as
    /// [`Process::start_time`] says) only if it still is that one.
    pub fn open(pid: u32, start_time: Option<u64>) -> Result<Self, ProcessError> {
        let pidfd = pidfd::open(pid)?;
        let found = procfs::start_time(pid).ok_or(ProcessError::Gone { pid })?;
        // Not reaped yet, so the number was its own all the while and the start time is its own, too.
        let same = send(&pidfd, pid, 0)?;
        if !same || start_time.is_some_and(|expected| expected != found) {
            return Err(ProcessError::Gone { pid });
        }
        let inner = Inner {
            pid,
            start_time: found,
            pidfd,
            exit: OnceLock::new(),
            reaping: Mutex::default(),
            last_user: OnceLock::new(),
            survivors: OnceLock::new(),
            ended: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its number, which is its session's, too.
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// When it started, in clock ticks since boot; with the pid it names one process until the next boot.
    pub fn start_time(&self) -> u64 {
        self.inner.start_time
    }

    /// How it has ended, where it has and nobody has reaped it yet.
    pub fn unreaped(&self) -> Option<Exit> {
        self.inner.last_entry()
    }

    /// Its pidfd, for [`pidfd::take_fd`].
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.inner.pidfd.as_fd()
    }

    /// How it ended, once it was [reaped](Process::reap).
    pub fn exit(&self) -> Option<Exit> {
        self.inner.exit.get().copied()
    }

    /// The user that it ran as in the end, once it was [reaped](Process::reap).
    pub fn last_user(&self) -> Option<u32> {
        self.inner.last_user.get().copied()
    }

    /// Waits until it has ended. Any number of tasks may wait; cancelling loses nothing. Needs a tokio runtime with I/O.
    pub async fn ended(&self) -> Result<(), ProcessError> {
        let error = |source| ProcessError::Wait { pid: self.inner.pid, source };
        // One of its own: a descriptor can be registered once.
        let pidfd = self.inner.pidfd.try_clone().map_err(error)?;
        // SAFETY: the descriptor is this value's own, and stays open until it is dropped.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        let pidfd = pidfd.map_err(|refused| error(refused.into()))?;
        let ended = pidfd.readable().await.map_err(error)?;
        drop(ended);
        let _ = self.inner.ended.set(Instant::now());
        Ok(())
    }

    /// Whether it has ended, reaped or not.
    pub fn has_ended(&self) -> bool {
        let mut pidfd = [PollFd::new(&self.inner.pidfd, PollFlags::IN)];
        self.inner.exit.get().is_some()
            || poll(&mut pidfd, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Reaps it once it has ended, and says how it did. It looks through `/proc` for what survives it, and waits a moment for whoever
    /// else is to reap it: for a thread that may block.
    pub fn reap(&self) -> Result<Exit, ProcessError> {
        // One at a time: what the others would find is what the first has.
        let mut reaping = self.inner.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exit) = *reaping {
            return Ok(exit);
        }
        let exit = self.inner.reap()?;
        *reaping = Some(exit);
        let _ = self.inner.exit.set(exit);
        Ok(exit)
    }

    /// Whether nothing of its session lives any more, as far as was seen when it was reaped.
    pub fn has_left_nobody(&self) -> bool {
        self.inner.survivors.get().is_some_and(Vec::is_empty)
    }

    /// Sends a signal to the process alone; false where it has ended already.
    pub fn signal(&self, signal: i32) -> Result<bool, ProcessError> {
        send(&self.inner.pidfd, self.inner.pid, signal)
    }

    /// Its living processes by pid: those of its session and its descendants, itself included. What survives it
    /// stays here after its end.
    pub fn tree(&self) -> Vec<u32> {
        match self.is_still_its_pid() {
            true => Processes::now().tree(self.inner.pid),
            false => Vec::new(),
        }
    }

    /// The same, among the processes of one look that many trees are taken from. What was started since is missed.
    pub fn tree_among(&self, processes: &Processes) -> Vec<u32> {
        match self.is_still_its_pid() {
            true => processes.tree(self.inner.pid),
            false => Vec::new(),
        }
    }

    /// Whether its number, as a process's or as a session's, has not been given to another.
    fn is_still_its_pid(&self) -> bool {
        match self.inner.survivors.get() {
            None => procfs::start_time(self.inner.pid) == Some(self.inner.start_time),
            // While one of them lives the session does, and its number cannot be given to another.
            Some(survivors) => survivors.iter().any(|&(pid, start_time)| {
                procfs::stat(pid).is_some_and(|stat| stat.start_time == start_time && !stat.is_dead())
            }),
        }
    }

    /// Sends a signal to every process of [`Process::tree`] and says how many got it.
    ///
    /// A process that forks meanwhile can leave a child without: for SIGKILL, repeat until the answer is 0.
    pub fn signal_tree(&self, signal: i32) -> Result<usize, ProcessError> {
        let mut count = 0;
        for pid in self.tree() {
            if pid == self.inner.pid {
                count += usize::from(self.signal(signal)?);
                continue;
            }
            // From here on the number cannot be reused; it is checked once more to be of the tree.
            let Ok(member) = pidfd::open(pid) else { continue };
            if self.is_member(pid) {
                count += usize::from(send(&member, pid, signal)?);
            }
        }
        Ok(count)
    }

    /// Whether the process belongs to this one: by session, or by descent.
    fn is_member(&self, pid: u32) -> bool {
        procfs::lineage(pid).contains(&self.inner.pid)
    }
}

fn send(pidfd: &OwnedFd, pid: u32, signal: i32) -> Result<bool, ProcessError> {
    // SAFETY: no memory is passed: the null is for "as kill(2) does".
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null_mut::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        source if source.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        source => Err(ProcessError::Signal { pid, signal, source }),
    }
}

impl Inner {
    fn reap(&self) -> Result<Exit, ProcessError> {
        let error = |source| ProcessError::Wait { pid: self.pid, source };
        // While it is a zombie its number is taken: whoever has it as session is ours. A look that began after its end will do:
        // whoever of its session comes later is a child of somebody whom that shows.
        let ended = self.ended.get().copied().unwrap_or_else(Instant::now);
        let tree = Processes::since(ended).tree(self.pid);
        let identities = tree.into_iter().filter_map(|pid| Some((pid, procfs::start_time(pid)?)));
        let survivors: Vec<(u32, u64)> = identities.collect();
        let last_user = procfs::user_of(self.pid);
        let exit = match self.try_reap() {
            Ok(Some(exit)) => exit,
            Ok(None) => return Err(error(io::ErrorKind::WouldBlock.into())),
            // The child of another, which has reaped it or will.
            Err(source) if source.raw_os_error() == Some(libc::ECHILD) => self.learn_exit(),
            Err(source) => return Err(error(source)),
        };
        let _ = self.survivors.set(survivors);
        last_user.map(|uid| self.last_user.set(uid));
        Ok(exit)
    }

    /// How a process ended that another reaps: its last entry in `/proc` tells until that is done, and then, since Linux 6.15,
    /// its pidfd.
    fn learn_exit(&self) -> Exit {
        if let Some(exit) = self.last_entry() {
            return exit;
        }
        for _ in 0..REAPED_BY_OTHERS.as_millis() {
            match pidfd::exit_status(&self.pidfd) {
                Ok(Some(status)) => return Exit::of_status(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => break,
            }
        }
        Exit::Unknown
    }

    fn last_entry(&self) -> Option<Exit> {
        let entry = procfs::stat(self.pid)?;
        (entry.start_time == self.start_time && entry.is_dead()).then(|| Exit::of_status(entry.status))
    }

    fn try_reap(&self) -> io::Result<Option<Exit>> {
        let pidfd = WaitId::PidFd(self.pidfd.as_fd());
        let status = rustix::process::waitid(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
        Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        }))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.exit.get().is_none() {
            // Still running, or another's: then it is not ours to reap.
            let _ = self.try_reap();
        }
    }
}

#[cfg(test)]
impl Process {
    /// Waits until it has ended, and reaps it.
    pub(crate) async fn wait(&self) -> Result<Exit, ProcessError> {
        self.ended().await?;
        self.reap()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[expect(clippy::zombie_processes, reason = "reaped through its pidfd, which is what is tested")]
    fn start(script: &str) -> Process {
        let mut command = Command::new("/bin/sh");
        let child = command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Process::of_child(libc::pid_t::try_from(child.id()).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn every_waiter_is_told_how_it_ended_and_it_is_reaped() {
        let process = start("exit 3");
        let other = process.clone();
        let (first, second) = tokio::join!(process.wait(), other.wait());
        assert_eq!((first.unwrap(), second.unwrap()), (Exit::Code(3), Exit::Code(3)));
        assert_eq!(process.exit(), Some(Exit::Code(3)));
        assert_eq!(procfs::start_time(process.pid()), None, "reaped");
        assert!(!process.signal(libc::SIGTERM).unwrap());
        assert_eq!(process.signal_tree(libc::SIGTERM).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_signal_ends_it_and_a_cancelled_wait_loses_nothing() {
        let process = start("exec sleep 60");
        let short = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(short, process.wait()).await.is_err());
        assert!(process.signal(libc::SIGKILL).unwrap());
        let exit = process.wait().await.unwrap();
        assert_eq!((exit, exit.to_string().as_str()), (Exit::Signal(9), "signal 9"));
    }

    #[test]
    fn a_running_process_is_opened_only_as_itself() {
        let process = start("exec sleep 60");
        let again = Process::open(process.pid(), Some(process.start_time())).unwrap();
        assert_eq!(again.pid(), process.pid());
        let other = Process::open(process.pid(), Some(process.start_time() + 1));
        assert!(matches!(other, Err(ProcessError::Gone { .. })));
        process.signal(libc::SIGKILL).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(process.wait()).unwrap();
        assert!(Process::open(process.pid(), None).is_err());
    }

    #[test]
    fn an_exit_reads_as_the_receipts_have_it() {
        assert_eq!(Exit::Code(0).to_string(), "exit 0");
        assert_eq!(Exit::Unknown.to_string(), "exit unknown");
    }
}
