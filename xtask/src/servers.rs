//! `cargo xtask servers`: servers as their packages bring them, run unmodified by a release build, or adopted.

mod adopted;

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};

use crate::{
    packages::{self, ADOPTED, SERVERS},
    tests_binary,
    workspace::Workspace,
};

/// Servers that come from PyPI.
const FROM_PYPI: [&str; 4] = ["gunicorn", "uvicorn", "granian", "hypercorn"];

/// Run servers unmodified behind `steer run`, restart their workers 50 times and kill one under load, and print a table of what was lost.
///
/// With `--adopted`: servers that somebody else starts, adopted while they serve, and changed by their own means; and the tests of those that a
/// real systemd starts.
///
/// Installs what is missing: packages of Debian, and in a virtual environment under target/ those of PyPI. Everything runs in network
/// namespaces of its own. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Adopt servers instead: first each with its own reloads, restarts and crashes, steered and with the kernel alone; then the tests of those
    /// that systemd has started, on a real systemd in a Debian tree, which the first time is made and takes some minutes
    #[arg(long)]
    adopted: bool,
    /// Of the tests with systemd, only the ones whose name contains this, and nothing else
    #[arg(long, value_name = "NAME", requires = "adopted", conflicts_with = "passed_on")]
    filter: Option<String>,
    /// Passed on; `--help` after `--` lists what it takes. With `--adopted`, the tests with systemd are left out then
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "--handovers N | --rounds N | NAME"
    )]
    passed_on: Vec<String>,
}

/// Installs, builds and runs.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    if let Some(filter) = &arguments.filter {
        return adopted::run(workspace, Some(filter));
    }
    let (needed, binary) = match arguments.adopted {
        true => (&ADOPTED[..], "steer-adopted"),
        false => (&SERVERS[..], "steer-servers"),
    };
    packages::install_missing(needed)?;
    let environment = workspace.target.join("servers");
    install_from_pypi(&environment)?;
    let path = env::var_os("PATH").unwrap_or_default();
    let all = [environment.join("bin")].into_iter().chain(env::split_paths(&path));
    let path = env::join_paths(all.chain(["/usr/sbin".into()])).context("joining PATH")?;
    let code = tests_binary::run_with(workspace, binary, &arguments.passed_on, &[("PATH", path)])?;
    if !arguments.adopted || !arguments.passed_on.is_empty() {
        return Ok(code);
    }
    let with_systemd = adopted::run(workspace, None)?;
    Ok(if code == ExitCode::SUCCESS { with_systemd } else { code })
}

fn install_from_pypi(environment: &Path) -> Result<()> {
    if FROM_PYPI.iter().all(|program| environment.join("bin").join(program).exists()) {
        return Ok(());
    }
    let run = |command: &mut Command| {
        let status = command.status().with_context(|| format!("running {command:?}"))?;
        ensure!(
            status.success(),
            "{command:?}: {status}\nhint: Debian's venv is in the package python3-venv"
        );
        Ok(())
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
    run(Command::new(environment.join("bin/pip")).args(["install", "--quiet"]).args(FROM_PYPI))
}
