//! `cargo xtask bench`: the benchmarks, on a release build.

use std::process::ExitCode;

use anyhow::Result;

use crate::{tests_binary, workspace::Workspace};

/// Measure steer beside the kernel alone and beside the least that a program can do.
///
/// `program`, `datagrams`, `rate`, `handover`, `table`, `stall`, `policy`, `hostile` and `binds`, or one of them, or `idle` or `scale`, which take minutes. `--json` prints one
/// object; `--quick` only shows that it runs. Everything happens in network namespaces of its own, and nothing is left behind. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Passed on to the benchmarks; `--help` after `--` lists what they take
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "NAME | --quick | --json | --groups N"
    )]
    passed_on: Vec<String>,
}

/// Builds and runs the benchmarks.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    tests_binary::run(workspace, "steer-bench", &arguments.passed_on)
}
