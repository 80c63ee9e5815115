//! `cargo xtask soak`: daemons at work for minutes or hours, on a release build.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::{capabilities, workspace::Workspace};

/// Run daemons under load for as long as is wanted, with everything that an operator does in a drawn order.
///
/// One daemon lives from beginning to end; another is killed and succeeded over and over. Fails if a connection is lost that no
/// worker's SIGKILL explains, or if memory, descriptors, BPF maps and programs, processes, threads, listeners or files have grown.
/// Everything happens in network namespaces of its own, and nothing is left behind. Needs root.
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

/// Builds both binaries and becomes, in effect, the soak.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let missing = capabilities::missing()?;
    ensure!(missing.is_empty(), "missing {}\nhint: run as root", missing.join(", "));
    let mut build = workspace.cargo();
    build.args(["build", "--quiet", "--release", "--package", "steer", "--package", "steer-tests"]);
    let built = build.args(["--bin", "steer", "--bin", "steer-soak"]).status()?;
    ensure!(built.success(), "building the soak failed ({built})");
    let release = workspace.target.join("release");
    let status = std::process::Command::new(release.join("steer-soak"))
        .args(&arguments.passed_on)
        .env("STEER_BIN", release.join("steer"))
        .status()
        .context("running steer-soak")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
