//! What a handover costs the daemon.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use steer_tests::{cpu, load::Load, netns::Namespace, site::PORT, steer::Steer};

use super::ADDRESS;
use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

const WORKERS: u32 = 4;

pub(super) fn run(namespace: &Namespace, quick: bool, report: &mut Report) -> Result<()> {
    let rounds = if quick { 2 } else { 40 };
    let steer =
        Steer::run(namespace, &["--listen", ADDRESS, "--workers", &WORKERS.to_string(), "--settle", "0ms"]);
    let idle = restarts(&steer, rounds)?;
    let aim = Aim::at_most("the median in ms", idle.median(), 5.0);
    report.add(Row::new("CPU time of the daemon for each handover, idle", &idle).with_aim(aim));
    let target = format!("127.0.0.1:{PORT}").parse()?;
    let clients: Vec<_> = (1..=64).map(|number| [127, 1, 0, number].into()).collect();
    let load = Load::start(steer::load::four_tuples(&clients, 20_000..20_064, &[target]), 32);
    load.wait_for(200);
    let busy = restarts(&steer, rounds)?;
    let tally = load.end();
    ensure!(tally.failed == 0, "of {} connections {} failed", tally.connections, tally.failed);
    let aim = Aim::at_most("the median in ms", busy.median(), 5.0);
    report.add(Row::new("CPU time of the daemon for each handover, under load", &busy).with_aim(aim));
    Ok(())
}

/// Restarts one worker after another, and gives the milliseconds of CPU time that each took: without what the daemon uses by itself in
/// as much time.
fn restarts(steer: &Steer<'_>, rounds: u32) -> Result<Samples> {
    let control = super::control(&steer.socket());
    let mut costs = Samples::default();
    for round in 0..rounds {
        let (before, began) = (cpu::used(steer.pid()), Instant::now());
        let receipt = control.restart(round % WORKERS);
        let (used, took) = (cpu::used(steer.pid()) - before, began.elapsed());
        ensure!(receipt.outcome == "drained", "{receipt:?}");
        // What happened has it look more often for some seconds, with or without a handover.
        let quiet = took.max(Duration::from_millis(20));
        let (before, began) = (cpu::used(steer.pid()), Instant::now());
        thread::sleep(quiet);
        let beside = (cpu::used(steer.pid()) - before).as_secs_f64() / began.elapsed().as_secs_f64();
        costs.push((used.as_secs_f64() - beside * took.as_secs_f64()).max(0.0) * 1e3);
    }
    Ok(costs)
}
