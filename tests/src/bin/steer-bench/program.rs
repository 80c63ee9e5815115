//! Nanoseconds per run of the steering program, by the kernel's own run statistics, under two loads of TCP.
//!
//! The kernel has no BPF_PROG_TEST_RUN for programs of this type (ENOTSUPP). A flood of SYNs comes nearest to it: caches
//! are warm, and what is measured is the program. Whole connections tell what a run takes in use, where the rest of the
//! TCP stack has taken the caches since the last run.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use steer::sockets::netns;

use crate::{
    connects::Connector,
    contender::{Contender, Program, Steering},
    report::{Aim, Report, Row},
    samples::Samples,
    syns::Flood,
};

/// More connections than any round makes; the kernel cuts a backlog down to `net.core.somaxconn`, which is raised to it.
const BACKLOG: i32 = 16_384;
/// The aims, as ratios, whatever the machine: 70 ns where the constant takes 38, and 80 for the policy `least-loaded`.
const AIM: f64 = 1.84;
const AIM_BY_LOAD: f64 = 2.1;

/// What runs the program.
#[derive(Debug, Clone, Copy)]
struct Load {
    what: &'static str,
    /// SYNs or connections in each round.
    count: u32,
    rounds: usize,
    /// Whether the aim is for this one.
    is_judged: bool,
}

/// Measures every program under every load, in the calling thread's network namespace.
pub(crate) fn run(quick: bool) -> Result<Report> {
    let shorter = |full: usize, quick_value| if quick { quick_value } else { full };
    let flood = Load { what: "SYNs", count: 4_096, rounds: shorter(300, 3), is_judged: true };
    let whole = Load { what: "connections", count: 1_000, rounds: shorter(60, 1), is_judged: false };
    netns::set_sysctl("net.core.somaxconn", &BACKLOG.to_string())?;
    // In force for as long as this descriptor is open, whatever becomes of this process; the sysctl would stay.
    let _statistics = enable_stats(Stats::RunTime).context("switching the kernel's run statistics on")?;

    let method = format!(
        "{} rounds of {} SYNs to full queues (warm caches), {} of {} whole TCP connections; in each round every \
         program once",
        flood.rounds, flood.count, whole.rounds, whole.count
    );
    let mut report = Report::new("program", "ns per run", method);
    for load in [flood, whole] {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            measure(load, ip, &mut report)?;
        }
    }
    Ok(report)
}

fn measure(load: Load, ip: IpAddr, report: &mut Report) -> Result<()> {
    let steerings = [
        Steering::Hash,
        Steering::Several,
        Steering::Source,
        Steering::LeastLoaded,
        Steering::Weighed,
        Steering::Cpu,
    ];
    let programs = [Program::Constant, Program::KernelHash].into_iter().chain(steerings.map(Program::Steer));
    let mut sides = programs
        .into_iter()
        .zip(8001..)
        .map(|(program, port)| Side::new(program, SocketAddr::new(ip, port), load))
        .collect::<Result<Vec<_>>>()?;
    // Cold caches and lazily made kernel memory are nobody's.
    sides.iter_mut().try_for_each(|side| side.round().map(drop))?;
    for round in 0..load.rounds {
        // Each goes first, second and last as often: none always has the others' wake.
        let first = round % sides.len();
        for index in (first..sides.len()).chain(0..first) {
            let nanoseconds = sides[index].round()?;
            sides[index].samples.push(nanoseconds);
        }
    }
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let row = |what: &str, side: &Side| Row::new(format!("{what}, {family} {}", load.what), &side.samples);
    let [constant, kernel_hash, steered @ ..] = &sides[..] else { unreachable!("as many as programs") };
    report.add(row("constant", constant));
    let no_aim = |_| None;
    report.add(row("table, kernel's hash", kernel_hash).beside(
        "constant",
        &kernel_hash.samples,
        &constant.samples,
        no_aim,
    ));
    for (steering, side) in steerings.into_iter().zip(steered) {
        side.contender.check_counters(0)?;
        let most = match steering {
            Steering::Hash => Some(AIM),
            Steering::LeastLoaded => Some(AIM_BY_LOAD),
            _ => None,
        };
        let aim = |ratio| most.filter(|_| load.is_judged).map(|most| Aim::at_most("ratio", ratio, most));
        let named = row(&format!("steer, {}", steering.name()), side);
        report.add(named.beside("constant", &side.samples, &constant.samples, aim));
    }
    Ok(())
}

/// A program and the load on it.
struct Side {
    contender: Contender,
    source: Source,
    samples: Samples,
}

enum Source {
    Flood(Flood),
    Connections(Connector, u32),
}

impl Side {
    fn new(program: Program, target: SocketAddr, load: Load) -> Result<Self> {
        let (contender, source) = if load.what == "SYNs" {
            let contender = Contender::with_full_queues(program, target)?;
            (contender, Source::Flood(Flood::new(target, load.count)?))
        } else {
            let contender = Contender::new(program, target, BACKLOG)?;
            (contender, Source::Connections(Connector::new(target), load.count))
        };
        Ok(Self { contender, source, samples: Samples::default() })
    }

    /// One round: the mean time of a run.
    fn round(&mut self) -> Result<f64> {
        let (time_before, runs_before) = self.contender.statistics()?;
        let expected = match &mut self.source {
            Source::Flood(flood) => flood.send()?,
            Source::Connections(connector, count) => {
                connector.connect(*count)?;
                u64::from(*count)
            }
        };
        let (time, runs) = self.contender.statistics()?;
        let (time, runs): (Duration, u64) = (time - time_before, runs - runs_before);
        if let Source::Connections(_, count) = &self.source {
            let accepted = self.contender.empty();
            ensure!(accepted == *count as usize, "of {count} connections {accepted} arrived");
        }
        ensure!(runs == expected, "{expected} SYNs made {runs} runs of the program");
        Ok(time.as_nanos() as f64 / runs as f64)
    }
}
