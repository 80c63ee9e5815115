//! What the daemon costs, and how soon it answers, while many workers with many connections drain.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use steer::control::{
    api::{Request, Response},
    client::Client,
};
use steer_tests::{
    control::group, cpu::Meter, idle_connections::IdleConnections, netns::Namespace, steer::Steer, wait,
};

use super::{ADDRESS, once};
use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

const SOON: Duration = Duration::from_secs(120);

pub(super) fn run(namespace: &Namespace, quick: bool, report: &mut Report) -> Result<()> {
    let (workers, connections, asked) = match quick {
        true => (4, 200, Duration::from_millis(500)),
        false => (16, 20_000, Duration::from_secs(10)),
    };
    let count = workers.to_string();
    let steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", &count]);
    let control = super::control(&steer.socket());
    let clients = IdleConnections::to(ADDRESS.parse()?, connections);
    wait::until("the connections are accepted", SOON, || {
        let open: u64 = control.status().workers.iter().map(|worker| worker.connections).sum();
        if open == connections as u64 { Ok(()) } else { Err(format!("{open} of {connections}")) }
    });
    let before = ask(&steer, asked / 2)?;
    let row = Row::new(format!("status, {connections} connections, nothing drains"), &before);
    report.add(row);
    let socket = steer.socket();
    let (times, percent, scaled) = thread::scope(|scope| {
        // Nobody ends the connections before this benchmark does.
        let request = Request::Scale { group: group(), workers: 2, timeout_ms: Some(3_600_000) };
        let scale = scope.spawn(move || super::control(&socket).ask(request));
        wait::until("the workers drain", SOON, || {
            let drains = control.status().workers.iter().filter(|worker| worker.state == "draining").count();
            if drains == workers - 2 { Ok(()) } else { Err(format!("{drains} drain")) }
        });
        let meter = Meter::start(steer.pid());
        thread::sleep(asked);
        let percent = meter.percent();
        let times = ask(&steer, asked)?;
        drop(clients);
        anyhow::Ok((times, percent, scale.join().expect("it asks")))
    })?;
    let (_, receipts) = scaled?;
    ensure!(receipts.len() == workers - 2, "{} workers were drained: {receipts:?}", receipts.len());
    let row = Row::new(format!("status, {workers} workers scaled to 2, {connections} connections"), &times);
    report.add(row.with_aim(Aim::at_most("its p99 in ms", times.quantile(0.99), 50.0)));
    let row = once("the daemon's CPU time while they drain and nobody asks", percent);
    let aim = Aim::at_most("the part of one CPU in percent", percent, 10.0);
    report.add(row.in_unit("% of one CPU").with_aim(aim));
    Ok(())
}

/// Asks for the status on and on, and gives the times in milliseconds.
fn ask(steer: &Steer<'_>, time: Duration) -> Result<Samples> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times = Samples::default();
    runtime.block_on(async {
        let mut client = Client::connect_with(super::patience(), &steer.socket()).await?;
        let begin = Instant::now();
        while begin.elapsed() < time {
            let began = Instant::now();
            let answer = client.call(Request::Status { group: None }, |_| {}).await?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            ensure!(matches!(answer, Response::Status(_)), "{answer:?}");
        }
        Ok(())
    })?;
    Ok(times)
}
