//! Binaries of the tests' package that are more than tests: built beside `steer`, and run with it.

use std::{
    ffi::OsString,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};

use crate::{capabilities, workspace::Workspace};

/// Builds `steer` and the binary, in release, and becomes the binary, in effect. Needs root.
pub(crate) fn run(workspace: &Workspace, binary: &str, arguments: &[String]) -> Result<ExitCode> {
    run_with(workspace, binary, arguments, &[])
}

/// The same, with these variables set.
pub(crate) fn run_with(
    workspace: &Workspace,
    binary: &str,
    arguments: &[String],
    environment: &[(&str, OsString)],
) -> Result<ExitCode> {
    let missing = capabilities::missing()?;
    ensure!(missing.is_empty(), "missing {}\nhint: run as root", missing.join(", "));
    let mut build = workspace.cargo();
    build.args(["build", "--quiet", "--release", "--package", "steer", "--package", "steer-tests"]);
    let built = build.args(["--bin", "steer", "--bin", binary]).status()?;
    ensure!(built.success(), "building {binary} failed ({built})");
    let release = workspace.target.join("release");
    let status = Command::new(release.join(binary))
        .args(arguments)
        .env("STEER_BIN", release.join("steer"))
        .envs(environment.iter().cloned())
        .status()
        .with_context(|| format!("running {binary}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
