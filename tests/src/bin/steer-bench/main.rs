//! The benchmarks behind `cargo xtask bench`: each has its own fresh network namespace and leaves nothing behind.
//!
//! What is compared alternates in short rounds within one run, so that what else the machine does weighs on both sides
//! alike; the figures are medians over the rounds, and ratios are taken round by round.

mod binds;
mod connects;
mod contender;
mod datagrams;
mod echo;
mod flow_clients;
mod handover;
mod hostile;
mod idle;
mod policy;
mod program;
mod rate;
mod report;
mod samples;
mod scale;
mod stall;
mod syns;
mod table;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use steer_tests::netns;

/// Measure steer beside the kernel alone and beside the least that a program can do.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// Which one to run [default: all but `idle` and `scale`, which take minutes]
    #[arg(value_enum)]
    name: Option<Name>,
    /// Few and short rounds: shows that it runs, and no more
    #[arg(long)]
    quick: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// How many groups the daemon of `idle` has [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    groups: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// Nanoseconds per run of the eBPF program, beside a program that selects a constant
    Program,
    /// The same of datagrams: without state, with flows that are remembered, and by QUIC connection ID; datagrams per second beside the
    /// kernel alone; and the memory of a flow
    Datagrams,
    /// Connections per second, beside the kernel alone
    Rate,
    /// How long a handover takes beyond the worker's own start
    Handover,
    /// Who has which bucket: parts, what a change moves and the time it takes, beside other ways to assign them
    Table,
    /// What clients see of a worker that is stopped: by load, and by the hash
    Stall,
    /// How long a change of policy takes, and what thousands of them leave behind
    Policy,
    /// What an idle daemon of many groups costs, and how long starting and taking over take
    Idle,
    /// What a group notices of what happens to another and to the daemon
    Hostile,
    /// What the bind hook costs a process that is no worker, and a worker
    Binds,
    /// How what the daemon costs grows: with the host's sockets, with connections, with groups and with workers
    Scale,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.groups.is_some() && arguments.name != Some(Name::Idle) {
        bail!("--groups is of `idle` alone\nhint: idle --groups N");
    }
    let mut all = vec![
        Name::Program,
        Name::Datagrams,
        Name::Rate,
        Name::Handover,
        Name::Table,
        Name::Stall,
        Name::Policy,
        Name::Hostile,
        Name::Binds,
    ];
    if arguments.quick {
        all.extend([Name::Idle, Name::Scale]);
    }
    let wanted: Vec<Name> = arguments.name.map_or(all, |name| vec![name]);
    let mut reports = Vec::new();
    for name in wanted {
        let report = netns::run("bench", |namespace| match name {
            Name::Program => program::run(arguments.quick),
            Name::Datagrams => datagrams::run(arguments.quick),
            Name::Rate => rate::run(namespace, arguments.quick),
            Name::Handover => handover::run(namespace, arguments.quick),
            Name::Table => table::run(arguments.quick),
            Name::Stall => stall::run(namespace, arguments.quick),
            Name::Policy => policy::run(namespace, arguments.quick),
            Name::Idle => idle::run(namespace, arguments.quick, arguments.groups.map_or(100, usize::from)),
            Name::Hostile => hostile::run(namespace, arguments.quick),
            Name::Binds => binds::run(arguments.quick),
            Name::Scale => scale::run(namespace, arguments.quick),
        })?;
        if !arguments.json {
            println!("{report}");
        }
        reports.push(report);
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report::Whole::new(reports, arguments.quick))?);
    }
    Ok(ExitCode::SUCCESS)
}
