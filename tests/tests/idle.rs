//! A daemon that has nothing to do is woken for all of its groups together, however many they are.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use steer_tests::{
    netns, service,
    steer::{Steer, binary},
    wait,
};

/// Each of them is looked after once a second.
const GROUPS: usize = 16;
const WORKERS: u32 = 2;
/// Each group's program is looked at by the verifier.
const STARTED: Duration = Duration::from_secs(300);
/// How long is counted: many looks, so that what comes once weighs little.
const COUNTED: Duration = Duration::from_secs(4);
/// What has happened has groups be looked at more often for some seconds.
const AT_REST: Duration = Duration::from_secs(60);

fn configuration() -> String {
    let mut text = String::new();
    for group in 0..GROUPS {
        let port = 8080 + group;
        text += &service::group(
            &format!("g{group}"),
            &format!("127.0.0.1:{port}"),
            WORKERS,
            &service::silent(&binary()),
            "",
        );
    }
    text
}

/// How often the process's first thread, which is the daemon's only one while it does nothing, has gone to sleep.
fn sleeps(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon is there");
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).expect("the kernel counts them")
}

#[test]
fn groups_are_looked_after_together() {
    netns::run("idle", |namespace| {
        let steer = Steer::started(namespace, &configuration());
        steer.until_all_work(GROUPS * WORKERS as usize, STARTED);
        wait::until("its groups are looked after together", AT_REST, || {
            let (before, began) = (sleeps(steer.pid()), Instant::now());
            // What is counted is a stretch of time, in which nothing happens that could be waited for.
            thread::sleep(COUNTED);
            let (count, took) = (sleeps(steer.pid()) - before, began.elapsed().as_secs_f64());
            let seen = format!("{GROUPS} groups: the daemon woke {count} times in {took:.1} s");
            println!("{seen}");
            assert!(count as f64 >= took / 2.0, "{seen}: does it look at all?");
            // One by one they would wake it once a second each, and more often by the timers' wheel.
            if (count as f64) < took * GROUPS as f64 / 2.0 { Ok(()) } else { Err(seen) }
        });
    });
}
