//! `cargo xtask soak`: daemons at work for minutes or hours, on a release build.

use std::process::ExitCode;

use anyhow::Result;

use crate::{tests_binary, workspace::Workspace};

/// Run daemons under load for as long as is wanted, with everything that an operator does in a drawn order.
///
/// One daemon lives from beginning to end; another is killed and succeeded over and over. Fails if a connection is lost that no
/// worker's SIGKILL explains, or if memory, descriptors, BPF maps and programs, processes, threads, listeners or files have grown.
/// Everything happens in network namespaces of its own, and nothing is left behind, also where it is interrupted. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Passed on to the soak; `--help` after `--` lists what it takes
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "--minutes N | --seed NUMBER | --verbose"
    )]
    passed_on: Vec<String>,
}

/// Builds and runs the soak.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    tests_binary::run(workspace, "steer-soak", &arguments.passed_on)
}
