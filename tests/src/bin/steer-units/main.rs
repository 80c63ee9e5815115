//! Asks `steer::units` on a host with systemd, and prints what it says as lines of JSON: the tests run it in a booted tree.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use steer::units::{DropIn, Manager, Unit, UnitError, UnitState, is_coming_back};
use tokio::io::AsyncReadExt;

/// Asks systemd for units.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The unit
    Find { name: String },
    /// The instances of a template
    Instances { name: String },
    /// The unit of a process
    UnitOf { pid: u32 },
    /// Each state, until stdin ends
    Watch { unit: String },
    /// Has it reload or restart
    ReloadOrRestart { unit: String, seconds: u64 },
    /// Adds a command to what stops it
    Install { unit: String, command: Vec<String> },
    /// Takes that command away
    Remove { unit: String },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(json!({ "error": error.to_string(), "hint": error.hint(), "all": format!("{error:?}") }));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), UnitError> {
    let manager = Manager::connect().await?;
    match command {
        Command::Find { name } => print(unit(&manager.find(&name).await?)),
        Command::Instances { name } => manager.instances(&name).await?.iter().map(unit).for_each(print),
        Command::UnitOf { pid } => print(json!({ "unit": manager.unit_of(pid).await? })),
        Command::Watch { unit } => return watch(&manager, &unit).await,
        Command::ReloadOrRestart { unit, seconds } => {
            manager.reload_or_restart(&unit, Duration::from_secs(seconds)).await?;
        }
        Command::Install { unit, command } => {
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            print(json!({ "changed": DropIn::of(&unit).install(&manager, &command).await? }));
        }
        Command::Remove { unit } => print(json!({ "changed": DropIn::of(&unit).remove(&manager).await? })),
    }
    Ok(())
}

async fn watch(manager: &Manager, unit: &str) -> Result<(), UnitError> {
    let mut states = manager.watch(unit).await?;
    let mut stdin = tokio::io::stdin();
    let mut nothing = [0; 1];
    loop {
        print(state(&states.borrow_and_update()));
        tokio::select! {
            changed = states.changed() => changed.expect("a watch lasts as long as its receiver"),
            _ = stdin.read(&mut nothing) => return Ok(()),
        }
    }
}

fn unit(unit: &Unit) -> Value {
    json!({
        "name": unit.name,
        "load_state": unit.load_state,
        "active": unit.active.to_string(),
        "sub_state": unit.sub_state,
        "control_group": unit.control_group,
        "main_pid": unit.main_pid,
        "has_job": unit.has_job,
        "sockets": unit.sockets().collect::<Vec<_>>(),
        "can_reload": unit.can_reload,
        "stop_timeout": unit.stop_timeout.map(|limit| limit.as_secs_f64()),
        "user": unit.user,
    })
}

fn state(state: &UnitState) -> Value {
    json!({
        "active": state.active.to_string(),
        "sub_state": state.sub_state,
        "has_job": state.has_job,
        "control_group": state.control_group,
        "main_pid": state.main_pid,
        "is_coming_back": is_coming_back(state),
    })
}

fn print(value: Value) {
    let mut stdout = io::stdout();
    let written = writeln!(stdout, "{value}").and_then(|()| stdout.flush());
    written.expect("somebody reads stdout");
}
