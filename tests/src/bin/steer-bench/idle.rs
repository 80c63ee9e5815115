//! What a daemon costs that has nothing to do, how long a start takes, and how long the next daemon takes to go on.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use steer_tests::{
    footprint::Footprint,
    netns::Namespace,
    service,
    steer::{Steer, binary},
};

use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

/// Workers of each group.
const WORKERS: u32 = 8;
/// How long it is let be before that: what has happened has it look more often for some seconds.
const REST: Duration = Duration::from_secs(10);
/// How long the daemon is watched while it does nothing.
const IDLE: Duration = Duration::from_secs(20);
/// The kernel counts a process's time in these, for every architecture (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Starts a daemon of many groups, watches it, and kills it.
pub(crate) fn run(namespace: &Namespace, quick: bool, groups: usize) -> Result<Report> {
    let (groups, idle, rounds) = if quick { (3, Duration::from_secs(1), 2) } else { (groups, IDLE, 5) };
    let mut report = Report::new(
        "idle",
        "milliseconds",
        format!(
            "{groups} groups of {WORKERS} sample workers that do not beat: the daemon's CPU time over {} s in which nobody asks anything, after as many as 10 of the same; then it is \
             killed, and the next is waited for until all groups are taken over and all workers work. One group of {WORKERS}: \
             from the daemon's exec to all working, by `steer status` again and again",
            idle.as_secs()
        ),
    );
    start(namespace, rounds, &mut report);
    many(namespace, groups, idle, &mut report)?;
    Ok(report)
}

/// One group, started again and again.
fn start(namespace: &Namespace, rounds: usize, report: &mut Report) {
    let mut took = Samples::default();
    for _ in 0..rounds {
        let began = Instant::now();
        let mut steer = Steer::configured(namespace, &configuration(1));
        took.push(began.elapsed().as_secs_f64() * 1e3);
        steer.stop(Duration::from_secs(60));
    }
    let aim = Aim::at_most("the median start of one group", took.median(), 200.0);
    report.add(Row::new("from exec to all workers working, one group", &took).with_aim(aim));
}

fn many(namespace: &Namespace, groups: usize, idle: Duration, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let mut steer = Steer::started(namespace, &configuration(groups));
    steer.until_all_work(groups * WORKERS as usize, Duration::from_secs(500));
    report.add(row("from exec to all workers working, all groups", began.elapsed().as_secs_f64() * 1e3));
    let footprint = Footprint::settled(steer.pid());
    // What is measured is a stretch of time, after one in which nothing happened.
    thread::sleep(REST.min(idle));
    let before = ticks(steer.pid())?;
    let began = Instant::now();
    thread::sleep(idle);
    let used = (ticks(steer.pid())? - before) as f64 / TICKS_PER_SECOND;
    let percent = used / began.elapsed().as_secs_f64() * 100.0;
    let aim = Aim::at_most("the idle daemon's part of one CPU in percent", percent, 0.5);
    report.add(row("the idle daemon's CPU time", percent).in_unit("% of one CPU").with_aim(aim));
    let resident = footprint.resident as f64 / 1024.0;
    let aim = Aim::at_most("the daemon's memory in MiB", resident, 40.0);
    report.add(row("the daemon's memory", resident).in_unit("MiB").with_aim(aim));
    let [descriptors, maps, programs] = footprint.counts();
    for (what, count) in [("descriptors", descriptors), ("of them, of maps", maps), ("of programs", programs)]
    {
        report.add(row(what, count as f64).in_unit("number"));
    }
    report.add(row("threads", threads(steer.pid())? as f64).in_unit("number"));
    steer.kill();
    let began = Instant::now();
    steer.start_daemon();
    steer.until_reachable();
    report.add(row("killed: until the next daemon answers", began.elapsed().as_secs_f64() * 1e3));
    steer.until_all_work(groups * WORKERS as usize, Duration::from_secs(500));
    let took = began.elapsed().as_secs_f64() * 1e3;
    let aim = Aim::at_most("taking all groups over", took, 2_000.0);
    report.add(row("killed: until all groups are taken over", took).with_aim(aim));
    let events = steer.command(["events", "--json"]).succeeded().stdout;
    let taken_over = events.lines().filter(|line| line.contains("\"taken-over\"")).count();
    ensure!(taken_over == groups, "{taken_over} of {groups} groups were taken over");
    steer.stop(Duration::from_secs(300));
    Ok(())
}

fn row(what: &str, value: f64) -> Row {
    let mut sample = Samples::default();
    sample.push(value);
    Row::new(what, &sample)
}

fn configuration(groups: usize) -> String {
    let worker = service::silent(&binary());
    let mut text = String::new();
    for group in 0..groups {
        let port = 10_000 + group;
        text += &service::group(&format!("g{group}"), &format!("127.0.0.1:{port}"), WORKERS, &worker, "");
    }
    text
}

/// The process's CPU time, its own and the kernel's for it.
fn ticks(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon is there")?;
    let (_, rest) = text.rsplit_once(") ").context("a name is in parentheses")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let [user, system] = [11, 12].map(|at| fields.get(at).and_then(|field| field.parse::<u64>().ok()));
    Ok(user.context("it has a user time")? + system.context("it has a system time")?)
}

fn threads(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/task")).context("the daemon is there")?.count())
}
