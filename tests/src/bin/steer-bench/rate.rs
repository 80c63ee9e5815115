//! Connections per second through steer, beside the kernel alone: the same sample workers, the same client, no restarts.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::setsid;
use steer::load::{Plan, Probe, four_tuples, run as load};
use steer_tests::{
    netns::Namespace,
    sockets::{TcpState, tcp_count},
    steer::{Steer, binary},
    wait,
};

use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

const WORKERS: usize = 4;
const STEERED: &str = "127.0.0.1:8080";
const ALONE: &str = "127.0.0.1:8081";
const SOON: Duration = Duration::from_secs(30);

/// Alternates rounds of load on both.
pub(crate) fn run(namespace: &Namespace, quick: bool) -> Result<Report> {
    let (rounds, round) =
        if quick { (2, Duration::from_millis(300)) } else { (100, Duration::from_millis(300)) };
    let steer = Steer::run(namespace, &["--listen", STEERED, "--workers", &WORKERS.to_string()]);
    let _alone = KernelAlone::start()?;
    let [steered_plan, alone_plan] = [plan(STEERED, round)?, plan(ALONE, round)?];
    let (mut steered, mut alone) = (Samples::default(), Samples::default());
    for number in 0..rounds {
        // Who is first alternates too: what a round leaves behind (TIME_WAIT) weighs on the next.
        let (first, second) =
            if number % 2 == 0 { (&steered_plan, &alone_plan) } else { (&alone_plan, &steered_plan) };
        let rates = [rate(first)?, rate(second)?];
        let [of_steer, of_kernel] = if number % 2 == 0 { rates } else { [rates[1], rates[0]] };
        steered.push(of_steer);
        alone.push(of_kernel);
    }
    let counters = steer.status().groups[0].counters;
    ensure!(counters.outcome.first_choice == counters.runs, "steer did not steer every one: {counters:?}");
    let method = format!(
        "{WORKERS} sample workers each, one request per connection, rounds of {} ms in turn, no restarts",
        round.as_millis()
    );
    let mut report = Report::new("rate", "connections per second", method);
    let aim = |ratio| Some(Aim::at_least("steer's rate beside the kernel's", ratio, 0.99));
    report.add(Row::new("steer", &steered).beside("the kernel alone", &steered, &alone, aim));
    report.add(Row::new("the kernel alone", &alone));
    Ok(report)
}

fn plan(target: &str, round: Duration) -> Result<Plan> {
    let clients: Vec<IpAddr> = (1..=32).map(|number| Ipv4Addr::new(127, 2, 0, number).into()).collect();
    let target: SocketAddr = target.parse()?;
    let tuples = four_tuples(&clients, 20_000..20_512, &[target]);
    Ok(Plan { concurrency: 32, duration: Some(round), ..Plan::new(tuples) })
}

fn rate(plan: &Plan) -> Result<f64> {
    let began = Instant::now();
    let tally = load(plan, &Probe::default())?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(tally.failed == 0, "{} of {} connections failed", tally.failed, tally.connections);
    Ok(tally.ok as f64 / seconds)
}

/// Sample workers that share an address by SO_REUSEPORT, with nobody to steer. Killed when dropped.
struct KernelAlone(Vec<Child>);

impl KernelAlone {
    fn start() -> Result<Self> {
        let mut workers = Self(Vec::new());
        for index in 0..WORKERS {
            let mut command = Command::new(binary());
            command.args(["worker", "--listen", ALONE]);
            command.env("STEER_WORKER", format!("alone/{index}")).env("STEER_GENERATION", "1");
            // Each in a session of its own, as the daemon starts its workers: the scheduler shares the processors out by
            // session (autogroup), and workers in the clients' session are woken so much less often in the midst of
            // them that the rate doubles. That would be the comparison of two ways to start a process.
            //
            // SAFETY: between fork and exec only async-signal-safe calls are allowed; setsid is one system call.
            unsafe { command.pre_exec(|| Ok(setsid().map(drop)?)) };
            let child = command.stdin(Stdio::null()).spawn().context("starting a sample worker")?;
            workers.0.push(child);
        }
        let address: SocketAddr = ALONE.parse()?;
        wait::until("the kernel's workers listen", SOON, || match tcp_count(address, TcpState::Listen) {
            WORKERS => Ok(()),
            count => Err(format!("{count} of {WORKERS} listen")),
        });
        Ok(workers)
    }
}

impl Drop for KernelAlone {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // Either fails only where it has ended already.
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}
