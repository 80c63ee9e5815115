//! Where the command line meets the rest of the program: one function for each command that is not a client's.

use std::{path::PathBuf, process::ExitCode};

use super::arguments::DemoArguments;
use crate::{
    daemon::{self, settings::GroupSettings},
    demo::{self, DemoOptions},
    workers::sample::{self, SampleOptions},
};

/// `steer run`: the daemon with these groups, in the foreground, until it is told to stop.
pub(super) fn run(groups: Vec<GroupSettings>, socket: PathBuf) -> anyhow::Result<ExitCode> {
    daemon::run(groups, socket)
}

/// `steer demo`.
pub(super) fn demo(arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    demo::run(DemoOptions {
        json: arguments.output.json,
        seconds_per_phase: arguments.seconds,
        workers: arguments.workers,
    })
}

/// `steer worker`: the sample worker.
pub(super) fn worker(options: SampleOptions) -> anyhow::Result<ExitCode> {
    sample::run_with(options)?;
    Ok(ExitCode::SUCCESS)
}
