//! The daemon dies amid a drain, and another goes on.

use std::{thread, time::Duration};

use rustix::process::Signal;

use crate::{process, steer::Steer};

const SOON: Duration = Duration::from_secs(60);

/// Restarts `whom`, all of the group `web` or its first worker, kills the daemon as soon as the first worker's new generation works,
/// and starts the next. `more` waits until everybody who talks to the group has been answered so many times more.
///
/// Returns the first worker's old generation, whose drain is the next daemon's to end.
#[track_caller]
pub fn die_amid_a_drain(steer: &mut Steer<'_>, whom: &str, more: impl Fn(u64)) -> u64 {
    let generation = steer.status().groups[0].workers[0].generation;
    thread::scope(|scope| {
        let restart = scope.spawn(|| steer.command(["restart", whom, "--json"]));
        steer.until("the new generation works", SOON, |status| {
            let worker = &status.groups[0].workers[0];
            worker.generation > generation && worker.state == "working"
        });
        process::signal(steer.pid(), Signal::KILL);
        restart.join().expect("the command ends");
    });
    steer.kill();
    more(3);
    steer.start_daemon();
    steer.until_reachable();
    generation
}
