//! The soak behind `cargo xtask soak`: daemons at work for as long as is wanted, of which nothing may grow and nothing be lost.
//!
//! Two instances run side by side, each with its groups, its clients and its operator, in a network namespace of its own: the daemon
//! of one lives from beginning to end, so that what it gathers shows; that of the other is killed and succeeded over and over.

mod clients;
mod configuration;
mod interrupt;
mod operator;
mod sample;
mod script;
mod site;
mod verdict;

use std::{process::ExitCode, sync::atomic::AtomicBool, thread, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use steer_tests::netns;

/// Run daemons under load and change all that can be changed; lose nothing, and hold nothing that nobody needs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask soak")]
struct Arguments {
    /// For how long at least: on a slow machine one minute may be too short for eight looks at what is held
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
    /// Repeats a sequence of changes; drawn and printed where it is left out
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Print each change to stderr when it begins
    #[arg(long)]
    verbose: bool,
}

fn main() -> Result<ExitCode> {
    let Arguments { minutes, seed, verbose: is_verbose } = Arguments::parse();
    let seed = seed.map_or_else(draw, Ok)?;
    let duration = Duration::from_secs(60 * minutes);
    println!("soak: {minutes} min, seed {seed}");
    interrupt::listen();
    let plan = |name, kills_daemons| {
        // Not the same sequence twice.
        let seed = seed ^ u64::from(kills_daemons);
        site::Plan { name, seed, duration, kills_daemons, is_verbose }
    };
    let plans = [plan("one daemon", false), plan("daemon after daemon", true)];
    let has_failed = AtomicBool::new(false);
    let reports = thread::scope(|scope| {
        let has_failed = &has_failed;
        let run = |plan: site::Plan| {
            scope.spawn(move || netns::run("soak", |namespace| site::run(namespace, plan, has_failed)))
        };
        plans.map(run).map(|site| site.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    for report in &reports {
        println!("\n{report}");
    }
    let is_good = reports.iter().all(site::Report::is_good);
    println!(
        "soak: {}",
        if is_good { "nothing was lost, and nothing has grown" } else { "FAILED, see NOT and lost" }
    );
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn draw() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("drawing a seed")?;
    Ok(u64::from_ne_bytes(bytes))
}
