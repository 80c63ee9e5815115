//! Where the command line meets the rest of the program: one function for each command that is not a client's.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::bail;

use super::{arguments::DemoArguments, check::Probe};
use crate::daemon::settings::GroupSettings;

/// `steer run`: the daemon with these groups, in the foreground, until it is told to stop.
pub(super) fn run(groups: Vec<GroupSettings>, socket: PathBuf) -> anyhow::Result<ExitCode> {
    let _ = (groups, socket);
    bail!("`steer run` is not in this build")
}

/// `steer demo`.
pub(super) fn demo(arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    let _ = arguments;
    bail!("`steer demo` is not in this build")
}

/// `steer worker`: the sample worker.
pub(super) fn worker(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let _ = arguments;
    bail!("the sample worker is not in this build")
}

/// `steer exec`: the shim between the daemon and a worker's program.
pub(super) fn exec(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let _ = arguments;
    bail!("the shim is not in this build")
}

/// `steer check`: what was probed, in the order to show it.
pub(super) fn probes() -> anyhow::Result<Vec<Probe>> {
    bail!("`steer check` is not in this build")
}
