//! Processes by pid: which ones are there, ending them, waiting for their end with a bound.

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, ExitStatus},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};

use crate::wait;

/// How long a process that was sent SIGKILL may take to be gone.
const END: Duration = Duration::from_secs(10);

/// The processes with a property, by pid, without this one. Zombies have no property left and are not among them.
pub fn find(mut has: impl FnMut(&Path) -> bool) -> Vec<u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").expect("/proc can be read");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && has(Path::new(&format!("/proc/{pid}")))).collect()
}

/// The processes that have `NAME=VALUE` in the environment that they were started with.
pub fn with_variable(name: &str, value: &str) -> Vec<u32> {
    let wanted = format!("{name}={value}");
    find(|process| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    })
}

/// Whether the process has no environment: it has ended, or is at the point of an exec where the old program's memory is
/// gone and the new one's arguments are not yet in place.
pub fn is_in_exec(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| environment.is_empty())
}

/// Whether the child runs; leaves one that has ended to be waited for.
pub fn has_not_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(pid(child.id())), options) {
        Ok(status) => status.is_none(),
        // It was waited for.
        Err(rustix::io::Errno::CHILD) => false,
        Err(error) => panic!("looking at the child {}: {error}", child.id()),
    }
}

/// Sends SIGSTOP and waits until no thread of the process runs any more: from then on it accepts and answers nothing.
#[track_caller]
pub fn freeze(pid: u32) {
    signal(pid, Signal::STOP);
    wait::until("the process stops", END, || {
        let states = thread_states(pid);
        let stopped = !states.is_empty() && states.chars().all(|state| state == 'T');
        if stopped { Ok(()) } else { Err(format!("its threads are {states:?}")) }
    });
}

/// The states of the process's threads, each a letter as in `/proc/PID/stat`.
fn thread_states(pid: u32) -> String {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return String::new() };
    let stat = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("stat")).ok();
    // The name comes before, in parentheses, and may hold anything.
    let state = |stat: String| stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    threads.filter_map(|thread| stat(thread.ok()?).and_then(state)).collect()
}

/// How many sockets the process holds.
pub fn sockets(pid: u32) -> usize {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let is_socket = |descriptor: &fs::DirEntry| {
        fs::read_link(descriptor.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
    };
    descriptors.filter_map(Result::ok).filter(is_socket).count()
}

/// What the processes are, for a message: pid, state and command line.
pub fn describe(pids: &[u32]) -> String {
    let one = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        format!("{pid} ({})", command.trim_end())
    };
    pids.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Sends the signal. That the process has ended is no error.
pub fn signal(pid: u32, signal: Signal) {
    let Some(pidfd) = pidfd(pid) else { return };
    match pidfd_send_signal(&pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("sending {signal:?} to {pid}: {error}"),
    }
}

/// Stops the process with SIGSTOP, and waits until it does nothing more.
#[track_caller]
pub fn stop(pid: u32) {
    signal(pid, Signal::STOP);
    wait::until(&format!("{pid} is stopped"), END, || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default();
        if state.contains("T (stopped)") { Ok(()) } else { Err(state.to_owned()) }
    });
}

/// Sends SIGKILL to every process that `list` gives, until it gives none: one that was being started meanwhile is found
/// by the next look.
#[track_caller]
pub fn kill_all(what: &str, mut list: impl FnMut() -> Vec<u32>) {
    wait::until(what, END, || {
        let found = list();
        found.iter().for_each(|pid| signal(*pid, Signal::KILL));
        if found.is_empty() { Ok(()) } else { Err(describe(&found)) }
    });
}

/// Waits for the end of a child; nothing at the deadline.
pub fn wait_for(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    if let Some(status) = child.try_wait().expect("the child can be waited for") {
        return Some(status);
    }
    let pidfd = pidfd(child.id())?;
    let deadline = wait::patient(deadline);
    let began = std::time::Instant::now();
    loop {
        let left = deadline.saturating_sub(began.elapsed());
        let left = Timespec::try_from(left).expect("deadlines are short");
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return child.try_wait().expect("the child can be waited for"),
            Err(error) => panic!("polling the pidfd of {}: {error}", child.id()),
        }
    }
}

fn pidfd(raw: u32) -> Option<OwnedFd> {
    match pidfd_open(pid(raw), PidfdFlags::empty()) {
        Ok(pidfd) => Some(pidfd),
        Err(rustix::io::Errno::SRCH) => None,
        Err(error) => panic!("opening a pidfd of {raw}: {error}"),
    }
}

fn pid(raw: u32) -> Pid {
    i32::try_from(raw).ok().and_then(Pid::from_raw).expect("a pid is a positive i32")
}
