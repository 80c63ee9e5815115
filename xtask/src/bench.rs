//! `cargo xtask bench`: the benchmarks, on a release build.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::{capabilities, workspace::Workspace};

/// Measure steer beside the kernel alone and beside the least that a program can do.
///
/// `program`, `rate`, `handover`, `table`, `stall` and `policy`, or one of them, or `idle`, which takes minutes. `--json` prints one
/// object; `--quick` only shows that it runs.
/// Everything happens in network namespaces of its own, and nothing is left behind. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Passed on to the benchmarks; `--help` after `--` lists what they take
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME | --quick | --json")]
    passed_on: Vec<String>,
}

/// Builds both binaries and becomes, in effect, the benchmarks.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let missing = capabilities::missing()?;
    ensure!(missing.is_empty(), "missing {}\nhint: run as root", missing.join(", "));
    let mut build = workspace.cargo();
    build.args(["build", "--quiet", "--release", "--package", "steer", "--package", "steer-tests"]);
    let built = build.args(["--bin", "steer", "--bin", "steer-bench"]).status()?;
    ensure!(built.success(), "building the benchmarks failed ({built})");
    let release = workspace.target.join("release");
    let status = std::process::Command::new(release.join("steer-bench"))
        .args(&arguments.passed_on)
        .env("STEER_BIN", release.join("steer"))
        .status()
        .context("running steer-bench")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
