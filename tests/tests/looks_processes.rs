//! Looks at processes: the same as `/proc`, by the same numbers.

use std::{collections::BTreeMap, os::unix::process::CommandExt as _, process::Child, time::Duration};

use steer::{
    dataplane::looks::{Looks, ProcessRecord},
    sockets::procfs,
};
use steer_tests::{exact, wait};

const SOON: Duration = Duration::from_secs(20);

/// Killed and reaped, whatever becomes of the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, arguments: &[&str], has_session: bool) -> Ended {
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    if has_session {
        // SAFETY: only an async-signal-safe call.
        unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
    }
    Ended(command.spawn().expect("it starts"))
}

fn look(looks: &Looks) -> BTreeMap<u32, ProcessRecord> {
    let all = looks.processes().expect("a look succeeds");
    let count = all.len();
    let all: BTreeMap<u32, ProcessRecord> = all.into_iter().map(|record| (record.pid, record)).collect();
    assert_eq!(all.len(), count, "each is there once");
    all
}

#[test]
fn a_look_has_what_proc_says_of_each_process() {
    let Some(looks) = exact::looks() else { return };
    assert!(looks.without_processes().is_none(), "{:?}", looks.without_processes());
    let this = std::process::id();
    let plain = start("/bin/sleep", &["60"], false);
    let leader = start("/bin/sh", &["-c", "sleep 60 & wait"], true);
    let mut dead = start("/bin/true", &[], false);
    let (plain, leader, dead_pid) = (plain.0.id(), leader.0.id(), dead.0.id());
    let child_of_leader = || look(&looks).into_values().find(|record| record.parent == leader);
    wait::until("the leader has its child", SOON, || {
        child_of_leader().map(drop).ok_or("it has none".to_owned())
    });
    wait::until("one has ended", SOON, || match look(&looks)[&dead_pid].exit_state {
        0 => Err("it lives".to_owned()),
        _ => Ok(()),
    });
    let all = look(&looks);
    let own_session = procfs::stat(this).expect("this process is there").session;
    let record = |pid, parent, session| ProcessRecord { pid, parent, session, exit_state: 0 };
    assert_eq!(all[&plain], record(plain, this, own_session));
    assert_eq!(all[&leader], record(leader, this, leader));
    assert_eq!(child_of_leader().expect("it has one").session, leader);
    dead.0.wait().expect("it is this process's");
    assert!(!look(&looks).contains_key(&dead_pid), "one that is reaped is gone");

    // For each process that still runs, `/proc` says the same.
    let mut compared = 0;
    for (pid, record) in &all {
        let Some(stat) = procfs::stat(*pid) else { continue };
        if stat.is_dead() || record.exit_state != 0 {
            continue;
        }
        assert_eq!((stat.parent, stat.session), (record.parent, record.session), "{pid} {}", stat.command);
        compared += 1;
    }
    println!("processes in a look: {}, as /proc says: {compared}", all.len());
    assert!(compared > 3);
}

#[test]
fn processes_that_come_and_go_hide_none_that_stays() {
    let Some(looks) = exact::looks() else { return };
    // More than one read's worth of records.
    let stay: Vec<Ended> = (0..300).map(|_| start("/bin/sleep", &["600"], false)).collect();
    for round in 0..20 {
        let _passing: Vec<Ended> = (0..20).map(|_| start("/bin/sleep", &["600"], false)).collect();
        let all = look(&looks);
        let missing: Vec<u32> =
            stay.iter().map(|child| child.0.id()).filter(|pid| !all.contains_key(pid)).collect();
        assert!(missing.is_empty(), "round {round}: {missing:?} of {}", all.len());
    }
}
