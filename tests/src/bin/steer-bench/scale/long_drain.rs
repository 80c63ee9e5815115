//! What one long drain costs beside sockets that are nobody's in the group.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use steer::control::api::{Request, WorkerStatus};
use steer_tests::{
    control::Control, cpu::Meter, idle_connections::IdleConnections, netns::Namespace, steer::Steer, wait,
};

use super::{ADDRESS, once};
use crate::report::{Aim, Report};

const SOON: Duration = Duration::from_secs(60);
/// After the drain's begin, which has work of its own.
const SETTLED: Duration = Duration::from_secs(2);

pub(super) fn run(namespace: &Namespace, quick: bool, report: &mut Report) -> Result<()> {
    let (counts, watched) = match quick {
        true => ([0, 200, 2_000], Duration::from_millis(500)),
        false => ([0, 80_000, 400_000], Duration::from_secs(10)),
    };
    let mut others = IdleConnections::default();
    let mut shares = Vec::new();
    for count in counts {
        others.fill_up(count);
        ensure!(others.sockets() == count, "{} sockets of {count}", others.sockets());
        let percent = drain(namespace, watched, SETTLED.min(watched))?;
        shares.push(percent);
        let row = once(format!("one drain beside {count} sockets: the daemon's CPU time"), percent);
        let aim = Aim::at_most("the part of one CPU in percent", percent, 0.5);
        report.add(row.in_unit("% of one CPU").with_aim(aim));
    }
    let ratio = shares[2] / shares[0];
    let aim = Aim::at_most("the last of the three by the first", ratio, 1.2);
    report.add(once("one drain: the last of the three by the first", ratio).in_unit("ratio").with_aim(aim));
    Ok(())
}

/// Has a worker drain with an open connection, and says what part of a CPU the daemon uses meanwhile, in percent.
fn drain(namespace: &Namespace, watched: Duration, settled: Duration) -> Result<f64> {
    let mut steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", "2"]);
    let control = super::control(&steer.socket());
    let client = TcpStream::connect(ADDRESS.parse::<SocketAddr>()?)?;
    let has_it = |worker: &WorkerStatus| worker.connections == 1;
    let index = wait::until("a worker has the connection", SOON, || {
        let workers = control.status().workers;
        workers.iter().position(has_it).ok_or_else(|| format!("{workers:?}"))
    });
    let worker = steer_tests::control::group().worker(u32::try_from(index)?);
    let drains = |control: &Control| control.status().workers[index].state == "draining";
    let socket = steer.socket();
    let percent = thread::scope(|scope| {
        let drain = scope.spawn(|| {
            let request =
                Request::Drain { worker: worker.clone(), timeout_ms: Some(3_600_000), until_replaced: false };
            super::control(&socket).ask(request).context("the drain")
        });
        wait::until("it drains", SOON, || if drains(&control) { Ok(()) } else { Err(String::new()) });
        thread::sleep(settled);
        let meter = Meter::start(steer.pid());
        thread::sleep(watched);
        let percent = meter.percent();
        let goes_on = drains(&control);
        drop(client);
        drain.join().expect("it asks")?;
        ensure!(goes_on, "the drain has ended before its connection");
        Ok(percent)
    })?;
    steer.stop(SOON);
    Ok(percent)
}
