//! A daemon that has nothing to do is woken for all of its groups together, however many they are.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use steer_tests::{
    footprint::Footprint,
    netns, service,
    steer::{Steer, binary},
};

/// Each of them looks four times a second for what nobody tells.
const GROUPS: usize = 8;
/// How often a group of its own accord would wake the daemon.
const LOOKS_PER_SECOND: f64 = 4.0;
/// How long is counted: many looks, so that what comes once weighs little.
const COUNTED: Duration = Duration::from_secs(5);

fn configuration() -> String {
    let mut text = String::new();
    for group in 0..GROUPS {
        let port = 8080 + group;
        text += &service::group(
            &format!("g{group}"),
            &format!("127.0.0.1:{port}"),
            2,
            &service::sample(&binary()),
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
        let steer = Steer::configured(namespace, &configuration());
        Footprint::settled(steer.pid());
        let (before, began) = (sleeps(steer.pid()), Instant::now());
        // What is counted is a stretch of time, in which nothing happens that could be waited for.
        thread::sleep(COUNTED);
        let (count, took) = (sleeps(steer.pid()) - before, began.elapsed().as_secs_f64());
        let together = LOOKS_PER_SECOND * took;
        println!("{GROUPS} groups: the daemon woke {count} times in {took:.1} s, {together:.0} expected");
        assert!(count as f64 >= together / 2.0, "does it look at all?");
        assert!((count as f64) < together * GROUPS as f64 / 2.0, "its groups wake it one by one");
    });
}
