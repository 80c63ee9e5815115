//! What steering costs a datagram: nanoseconds per run of the program, datagrams per second through it, and memory per flow.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::loaded_maps,
    sys::{Stats, enable_stats},
};
use steer::daemon::settings::FlowSettings;

use crate::{
    contender::{Contender, Program, Steering},
    echo::Echo,
    flow_clients,
    report::{Aim, Report, Row},
    samples::Samples,
};

/// Flows, each with a socket of its own and four datagrams in each round.
const FLOWS: u16 = 512;
const IN_ROUND: u16 = 4;

/// The aims, as ratios, whatever the machine: where the constant takes 38 ns, 70 without state, 100 with flows and 90 by connection
/// ID; and nineteen of twenty of the datagrams that the kernel alone delivers.
const AIMS: [(Steering, f64); 3] =
    [(Steering::Hash, 1.84), (Steering::Flows, 2.63), (Steering::QuicCid, 2.37)];
const AIM_OF_RATE: f64 = 0.95;

/// Measures all of it, in the calling thread's network namespace.
pub(crate) fn run(quick: bool) -> Result<Report> {
    let shorter = |full: usize, quick_value| if quick { quick_value } else { full };
    let (runs, rounds) = (shorter(300, 3), shorter(100, 2));
    let method = format!(
        "{runs} rounds of {IN_ROUND} datagrams of each of {FLOWS} flows to full sockets; {rounds} rounds of 200 ms of datagrams that are \
         echoed; in each round every side once"
    );
    let mut report = Report::new("datagrams", "ns per run", method);
    {
        // In force for as long as this descriptor is open; echoes are measured without.
        let _statistics = enable_stats(Stats::RunTime).context("switching the kernel's run statistics on")?;
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            measure_runs(ip, runs, &mut report)?;
        }
        report.add(memory()?);
    }
    measure_rates(rounds, &mut report)?;
    Ok(report)
}

fn measure_runs(ip: IpAddr, rounds: usize, report: &mut Report) -> Result<()> {
    let steered = AIMS.map(|(steering, _)| Program::Steer(steering));
    let programs = [Program::Constant, Program::KernelHash].into_iter().chain(steered);
    let mut sides = programs
        .zip(8101..)
        .map(|(program, port)| Side::new(program, SocketAddr::new(ip, port)))
        .collect::<Result<Vec<_>>>()?;
    // Cold caches are nobody's, nor is a flow's first datagram.
    sides.iter_mut().try_for_each(|side| side.round().map(drop))?;
    for round in 0..rounds {
        let first = round % sides.len();
        for index in (first..sides.len()).chain(0..first) {
            let nanoseconds = sides[index].round()?;
            sides[index].samples.push(nanoseconds);
        }
    }
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let row = |what: &str, side: &Side| Row::new(format!("{what}, {family}"), &side.samples);
    let [constant, kernel_hash, steered @ ..] = &sides[..] else { unreachable!("as many as programs") };
    report.add(row("constant", constant));
    let beside = |row: Row, side: &Side, aim: &dyn Fn(f64) -> Option<Aim>| {
        row.beside("constant", &side.samples, &constant.samples, aim)
    };
    report.add(beside(row("table, kernel's hash", kernel_hash), kernel_hash, &|_| None));
    for ((steering, most), side) in AIMS.into_iter().zip(steered) {
        side.contender.check_counters(FLOWS.into())?;
        let named = row(&format!("steer, {}", steering.name()), side);
        report.add(beside(named, side, &|ratio| Some(Aim::at_most("ratio", ratio, most))));
    }
    Ok(())
}

/// A program and its clients.
struct Side {
    contender: Contender,
    clients: Vec<(UdpSocket, Vec<u8>)>,
    samples: Samples,
}

impl Side {
    fn new(program: Program, target: SocketAddr) -> Result<Self> {
        let contender = Contender::of_datagrams(program, target)?;
        let clients = flow_clients::connect(target.ip(), target, FLOWS)?;
        Ok(Self { contender, clients, samples: Samples::default() })
    }

    /// One round: the mean time of a run.
    fn round(&mut self) -> Result<f64> {
        let (time_before, runs_before) = self.contender.statistics()?;
        for _ in 0..IN_ROUND {
            for (socket, packet) in &self.clients {
                socket.send(packet)?;
            }
        }
        let (time, runs) = self.contender.statistics()?;
        let (time, runs): (Duration, u64) = (time - time_before, runs - runs_before);
        let expected = u64::from(IN_ROUND * FLOWS);
        ensure!(runs == expected, "{expected} datagrams made {runs} runs of the program");
        Ok(time.as_nanos() as f64 / runs as f64)
    }
}

/// What the kernel has charged for the maps in which flows are remembered, by flow that there is room for.
fn memory() -> Result<Row> {
    let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8100);
    let before: Vec<u32> = loaded_maps().flatten().map(|map| map.id()).collect();
    let _contender = Contender::of_datagrams(Program::Steer(Steering::Flows), target)?;
    let mut bytes = 0;
    for map in loaded_maps() {
        let map = map?;
        if before.contains(&map.id()) || !matches!(map.name_as_str(), Some("FLOWS" | "FLOW_ENDS")) {
            continue;
        }
        let descriptor = map.fd()?;
        let path = format!("/proc/self/fdinfo/{}", std::os::fd::AsFd::as_fd(&descriptor).as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let memory = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        bytes += memory.with_context(|| format!("{path} has no memlock"))?.trim().parse::<u64>()?;
    }
    ensure!(bytes > 0, "the maps of the flow table are not among the loaded ones");
    let mut samples = Samples::default();
    samples.push(bytes as f64 / f64::from(FlowSettings::default().max));
    Ok(Row::new("memory of a flow, table of the default size".to_owned(), &samples).in_unit("bytes"))
}

fn measure_rates(rounds: usize, report: &mut Report) -> Result<()> {
    let mut alone = Echo::start(None, 8200)?;
    let mut steered = AIMS
        .into_iter()
        .zip(8201..)
        .map(|((steering, _), port)| Ok((steering, Echo::start(Some(steering), port)?)))
        .collect::<Result<Vec<_>>>()?;
    for round in 0..rounds {
        let count = steered.len() + 1;
        for index in (0..count).map(|index| (index + round) % count) {
            match index.checked_sub(1) {
                None => alone.round(round)?,
                Some(index) => steered[index].1.round(round)?,
            }
        }
    }
    report.add(Row::new("the kernel alone".to_owned(), &alone.samples).in_unit("datagrams/s"));
    for (steering, echo) in &steered {
        let aim = |ratio| Some(Aim::at_least("rate beside the kernel's", ratio, AIM_OF_RATE));
        let row = Row::new(format!("steer, {}", steering.name()), &echo.samples).in_unit("datagrams/s");
        report.add(row.beside("the kernel alone", &echo.samples, &alone.samples, aim));
    }
    Ok(())
}
