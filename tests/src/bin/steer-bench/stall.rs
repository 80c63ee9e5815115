//! What the clients of the other workers see of one that is stopped, and what its own see: by load, and by the hash.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use steer::load::Visit;
use steer_tests::{
    clients::{Owners, seed_argument},
    control::Control,
    netns::Namespace,
    process,
    stall::Watched,
    steer::{Steer, binary},
};

use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

const WORKERS: u32 = 4;
/// Connections per second: some every few milliseconds for the stopped one, and no queues for want of processors.
const RATE: f64 = 800.0;
/// More than wait for the stopped worker under `hash`.
const CONCURRENCY: usize = 2_000;
const STOPPED: &str = "web/1";

/// One way to steer.
struct Side {
    target: SocketAddr,
    /// The process of the worker that is stopped.
    pid: u32,
    undisturbed: Samples,
    others: Samples,
    all: Samples,
    stuck: Samples,
    last: Samples,
    elsewhere: Samples,
}

/// Alternates rounds with nobody stopped and with one, on each side.
pub(crate) fn run(namespace: &Namespace, quick: bool) -> Result<Report> {
    let (rounds, connections) = if quick { (2, 200) } else { (24, 800) };
    let silent =
        ["--ready", "notify", "--", &*binary().to_string_lossy(), "worker", "--silent"].map(str::to_owned);
    let wanted: [(&str, &str, &[String]); 3] = [
        ("127.0.0.1:8080", "hash", &[]),
        ("127.0.0.1:8081", "least-loaded", &[]),
        ("127.0.0.1:8082", "least-loaded", &silent),
    ];
    let mut daemons = Vec::new();
    let mut sides = Vec::new();
    for (listen, policy, more) in wanted {
        let (workers, seed) = (WORKERS.to_string(), seed_argument());
        let mut arguments =
            vec!["--listen", listen, "--workers", &workers, "--policy", policy, "--seed", &seed];
        arguments.extend(more.iter().map(String::as_str));
        let steer = Steer::run(namespace, &arguments);
        let worker = Control::new(&steer.socket()).status().workers.remove(1);
        sides.push(Side::new(listen.parse()?, worker.pid.context("a working worker has a process")?));
        daemons.push(steer);
    }
    for number in 0..rounds {
        // Who is first alternates too.
        for at in 0..sides.len() {
            let side = &mut sides[(at + number) % wanted.len()];
            side.undisturbed(connections);
            side.disturbed(connections);
        }
    }
    ensure!(
        daemons.iter().all(|steer| steer.status().groups[0].counters.outcome.dropped == 0),
        "some were dropped"
    );
    let [hash, beating, silent] = &sides[..] else { anyhow::bail!("there are three sides") };
    let method = format!(
        "{WORKERS} sample workers each, {RATE} connections per second, p99 of {connections} from connect to answer, \
         {rounds} rounds in turn: nobody stopped, then one by SIGSTOP"
    );
    Ok(report(method, hash, beating, silent))
}

impl Side {
    fn new(target: SocketAddr, pid: u32) -> Self {
        let none = Samples::default;
        let (undisturbed, others, all) = (none(), none(), none());
        Self { target, pid, undisturbed, others, all, stuck: none(), last: none(), elsewhere: none() }
    }

    fn undisturbed(&mut self, connections: u64) {
        let load = Watched::start(self.target, RATE, CONCURRENCY);
        load.wait_for(connections);
        let visits = load.end();
        self.undisturbed.push(p99(visits.tally.visits.iter()));
        let owners = Owners::among(0..WORKERS);
        let is_elsewhere = |visit: &&Visit| {
            visit.worker != format!("web/{}", owners.of_flow(visit.tuple.client, visit.tuple.target))
        };
        self.elsewhere.push(visits.tally.visits.iter().filter(is_elsewhere).count() as f64);
    }

    fn disturbed(&mut self, connections: u64) {
        let load = Watched::start(self.target, RATE, CONCURRENCY);
        load.wait_for(connections / 8);
        let stopping = Instant::now();
        process::freeze(self.pid);
        let stopped = Instant::now();
        load.wait_for(connections);
        let continued = Instant::now();
        process::signal(self.pid, Signal::CONT);
        let visits = load.end();
        let during = || visits.between(stopped, continued);
        self.others.push(p99(during().filter(|visit| visit.worker != STOPPED)));
        self.all.push(p99(during()));
        let is_stuck = |visit: &&Visit| visit.ended >= continued && visit.worker == STOPPED;
        self.stuck.push(during().filter(is_stuck).count() as f64);
        // None came where the load was held up meanwhile.
        if let Some(last) = visits.last_of(STOPPED, stopping, continued) {
            self.last.push(last.as_secs_f64() * 1e3);
        }
    }
}

/// In milliseconds.
fn p99<'a>(visits: impl Iterator<Item = &'a Visit>) -> f64 {
    let mut latencies = Samples::default();
    visits.for_each(|visit| latencies.push((visit.ended - visit.began).as_secs_f64() * 1e3));
    latencies.quantile(0.99)
}

fn report(method: String, hash: &Side, beating: &Side, silent: &Side) -> Report {
    let mut report = Report::new("stall", "milliseconds", method);
    let none = |_| None;
    let aim = |ratio| Some(Aim::at_most("the p99 of the others beside nobody stopped", ratio, 1.5));
    report.add(Row::new("hash, nobody stopped: p99", &hash.undisturbed));
    report.add(Row::new("least-loaded, nobody stopped: p99", &beating.undisturbed).beside(
        "hash",
        &beating.undisturbed,
        &hash.undisturbed,
        none,
    ));
    for (who, side) in [("that beats", beating), ("that is silent", silent)] {
        let row = Row::new(format!("least-loaded, one {who} stopped: p99 of the others"), &side.others);
        report.add(row.beside("nobody stopped", &side.others, &side.undisturbed, aim));
        let row = Row::new(format!("least-loaded, one {who} stopped: p99 of all"), &side.all);
        report.add(row.beside("hash", &side.all, &hash.all, none));
        report.add(Row::new("  from SIGSTOP to the last that it got", &side.last));
        report.add(Row::new("  waiting until it goes on", &side.stuck).in_unit("connections"));
    }
    let row = Row::new("hash, one stopped: p99 of the others", &hash.others);
    report.add(row.beside("nobody stopped", &hash.others, &hash.undisturbed, none));
    report.add(Row::new("hash, one stopped: p99 of all", &hash.all));
    report.add(Row::new("  waiting until it goes on", &hash.stuck).in_unit("connections"));
    for (policy, side) in [("hash", hash), ("least-loaded", beating)] {
        let what = format!("{policy}, nobody stopped: elsewhere than by the hash");
        report.add(Row::new(what, &side.elsewhere).in_unit("connections"));
    }
    report
}
