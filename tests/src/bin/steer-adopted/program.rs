//! A server's first process, and those that it has started.

use std::{
    collections::BTreeSet,
    fs,
    process::{Child, ExitStatus},
    time::Duration,
};

use rustix::process::Signal;
use steer_tests::{process, wait};

/// How long a server may take for what it is told to do.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// Started by a run; killed with all that it has started, at the latest by the run's namespace.
pub(crate) struct Program {
    child: Child,
}

impl Program {
    pub(crate) fn new(child: Child) -> Self {
        Self { child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processes that it leads.
    pub(crate) fn workers(&self) -> BTreeSet<u32> {
        workers_of(self.pid())
    }

    #[track_caller]
    pub(crate) fn until_workers(&self, what: &str, wanted: impl FnMut(&BTreeSet<u32>) -> bool) {
        until_workers(self.pid(), what, wanted);
    }

    /// Ends it, by SIGTERM first.
    pub(crate) fn end(mut self) {
        let all = descendants(self.pid());
        process::signal(self.pid(), Signal::TERM);
        self.ended();
        kill(&all);
    }

    /// Waits for its end, which somebody else has brought about; kills it at the deadline.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        process::wait_for(&mut self.child, SOON).unwrap_or_else(|| {
            process::signal(self.pid(), Signal::KILL);
            self.child.wait().expect("it is this process's child")
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let all = descendants(self.pid());
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        kill(&all);
    }
}

/// Has the processes that servers leave behind become this one's children: nobody else may wait for them.
pub(crate) fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("every process may");
}

fn kill(all: &BTreeSet<u32>) {
    for &pid in all {
        process::signal(pid, Signal::KILL);
        gone(pid);
    }
}

/// Sends a process a signal once it catches it: HAProxy's master, which runs its program anew at each reload, is deaf meanwhile.
#[track_caller]
pub(crate) fn tell(pid: u32, signal: Signal) {
    let bit = 1_u64 << (signal.as_raw() - 1);
    wait::until("it catches the signal", SOON, || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let has = |name: &str| {
            let mask = status.lines().find_map(|line| line.strip_prefix(name));
            mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .is_some_and(|mask| mask & bit != 0)
        };
        if has("SigCgt:") && !has("SigBlk:") { Ok(()) } else { Err(status) }
    });
    process::signal(pid, signal);
}

/// Waits until a process has ended that somebody else may be the parent of.
#[track_caller]
pub(crate) fn gone(pid: u32) {
    let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    wait::until("a process has ended", SOON, || {
        // An error says that it is not this one's child: it may become that.
        let _ = rustix::process::waitpid(Some(raw), rustix::process::WaitOptions::NOHANG);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses.
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        if matches!(state, None | Some('Z')) { Ok(()) } else { Err(stat) }
    });
}

/// Waits until the processes that this one leads are as wanted.
#[track_caller]
pub(crate) fn until_workers(leader: u32, what: &str, mut wanted: impl FnMut(&BTreeSet<u32>) -> bool) {
    wait::until(what, SOON, || {
        let now = workers_of(leader);
        if wanted(&now) { Ok(()) } else { Err(format!("{now:?} of {}", process::describe(&[leader]))) }
    });
}

/// The children of a process that serve: not those that a language's runtime has for itself, and none that is only to be waited for.
pub(crate) fn workers_of(pid: u32) -> BTreeSet<u32> {
    let serves = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        !line.is_empty() && !line.contains("resource_tracker")
    };
    children(pid).into_iter().filter(serves).collect()
}

fn children(pid: u32) -> BTreeSet<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let pids = threads.flat_map(|thread| {
        of(thread).split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
    });
    pids.collect()
}

fn descendants(pid: u32) -> BTreeSet<u32> {
    let own = children(pid);
    let theirs: Vec<u32> = own.iter().flat_map(|pid| descendants(*pid)).collect();
    own.into_iter().chain(theirs).collect()
}
