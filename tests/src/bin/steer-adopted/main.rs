//! Servers that somebody else starts, adopted and changed by their own means under load: behind `cargo xtask servers --adopted`.
//!
//! Each change is done three times under the same load: by a server that steer has adopted, by one that the kernel alone shares out to, and by
//! one with `net.ipv4.tcp_migrate_req`.

mod case;
mod changing;
mod program;
mod run;
mod servers;
mod site;
mod table;

use std::{env, net::SocketAddr, process::ExitCode};

use clap::Parser;

use self::{
    case::{Case, Families},
    run::{Outcome, Side, run},
    table::{Line, heading},
};

/// Change servers that run under load, adopted and with the kernel alone, and print what was lost.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask servers --adopted --")]
struct Arguments {
    /// How often each change is done [default: a few times]
    #[arg(long, value_name = "N", conflicts_with = "full")]
    rounds: Option<u32>,
    /// Do each change as often as the full run does, some of them 100 times
    #[arg(long)]
    full: bool,
    /// Print what there is, and run nothing
    #[arg(long)]
    list: bool,
    /// With steer only: what the kernel alone loses is not measured
    #[arg(long)]
    steered_only: bool,
    /// Only those with this in their names, `SERVER: CHANGE`
    only: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_wanted = |case: &&Case| arguments.only.as_ref().is_none_or(|only| case.name().contains(only));
    let cases: Vec<&Case> = servers::all().filter(is_wanted).collect();
    if arguments.list {
        cases.iter().for_each(|case| println!("{} ({} times, {} in full)", case.name(), case.few, case.full));
        return ExitCode::SUCCESS;
    }
    program::adopt_orphans();
    heading();
    let (mut skipped, mut failed) = (0, 0);
    for case in cases {
        if let Some(missing) = case.needs.iter().find(|program| !is_there(program)) {
            skipped += 1;
            println!("{} skipped: {missing} is not installed", case.name());
            continue;
        }
        let rounds = arguments.rounds.unwrap_or(if arguments.full { case.full } else { case.few });
        for addresses in addresses(case.families) {
            let mut outcomes = Vec::new();
            let mut why = None;
            for side in Side::ALL {
                if side != Side::Steer && arguments.steered_only {
                    continue;
                }
                match run(case, side, &addresses, rounds) {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(error) => why = why.or(Some(format!("{side}: {error}"))),
                }
            }
            failed += u32::from(!print(case, &addresses, rounds, &outcomes, why));
        }
    }
    println!("{skipped} skipped, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the lines of one case; whether all is as it should be.
fn print(
    case: &Case,
    addresses: &[SocketAddr],
    rounds: u32,
    outcomes: &[Outcome],
    why: Option<String>,
) -> bool {
    let mut is_good = why.is_none();
    if let Some(why) = why {
        println!("{} failed: {why}", case.name());
    }
    for (at, what) in case.exchanges_at(addresses).iter().enumerate() {
        let line = Line::new(case, what.label(), rounds, at, outcomes);
        is_good &= line.is_good();
        line.print();
    }
    is_good
}

/// What each run of a case listens at.
fn addresses(families: Families) -> Vec<Vec<SocketAddr>> {
    let both: [SocketAddr; 2] =
        ["127.0.0.1:8080", "[::1]:8080"].map(|text| text.parse().expect("an address"));
    match families {
        Families::Together => vec![both.to_vec()],
        Families::Apart => both.iter().map(|address| vec![*address]).collect(),
    }
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).exists())
}
