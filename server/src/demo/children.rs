//! The processes of the demo, however deep: started so that they cannot outlive it, and ended by their pids.

use std::{
    fs, io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, set_child_subreaper,
        set_parent_process_death_signal, setsid, wait,
    },
};
use tokio::process::Command;

/// How long children get between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(3);

/// Makes processes whose parent dies children of this one: so a daemon that dies leaves no worker unseen.
pub(super) fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Prepares a command so that its process ends with the demo even when the demo is killed, and so that Ctrl-C
/// on the terminal reaches the demo alone, which ends the others in order.
///
/// Each is in a session of its own, as the daemon's workers are: the scheduler shares the processors out by session
/// (autogroup), and the kernel's workers in the clients' session would be compared with steer's outside of it.
pub(super) fn tie_to_this_process(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; setsid and prctl are one system call each.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
        });
    }
}

/// Ends every child, and what becomes a child when its parent dies: SIGTERM, then SIGKILL. Reaps them all.
pub(super) fn end_all() {
    let deadline = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    loop {
        reap();
        let children = children();
        if children.is_empty() {
            return;
        }
        let patient = Instant::now() < deadline;
        for child in &children {
            // ESRCH: it has ended by itself.
            if !patient {
                let _ = kill_process(*child, Signal::KILL);
            } else if !told.contains(child) {
                let _ = kill_process(*child, Signal::TERM);
                told.push(*child);
            }
        }
        // An orphan becomes a child without any sign of it: look again soon.
        wait_for_any(&children, Duration::from_millis(100));
    }
}

fn reap() {
    while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
}

fn wait_for_any(children: &[Pid], most: Duration) {
    let open = |child: &Pid| pidfd_open(*child, PidfdFlags::empty()).ok();
    let pidfds: Vec<OwnedFd> = children.iter().filter_map(open).collect();
    let mut polled: Vec<_> = pidfds.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)).collect();
    let most = Timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
    // EINTR only means that the next look comes sooner.
    let _: Result<usize, Errno> = poll(&mut polled, Some(&most));
}

/// The pids of this process's children, of whichever thread.
fn children() -> Vec<Pid> {
    let own = getpid();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| parent_of(*pid) == Some(own.as_raw_nonzero().get()))
        .filter_map(Pid::from_raw)
        .collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    // The name in parentheses may hold anything, a parenthesis too; the parent is the second field behind it.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_under_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        assert_eq!(parent_of(pid), Some(std::process::id() as i32));
        assert!(children().iter().any(|found| found.as_raw_nonzero().get() == pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(parent_of(pid), None);
    }
}
