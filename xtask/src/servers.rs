//! `cargo xtask servers`: servers as their packages bring them, run unmodified by a release build.

mod adopted;

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};

use crate::{
    packages::{self, SERVERS},
    tests_binary,
    workspace::Workspace,
};

/// Servers that come from PyPI.
const FROM_PYPI: [&str; 4] = ["gunicorn", "uvicorn", "granian", "hypercorn"];

/// Run servers unmodified behind `steer run`, restart their workers 50 times and kill one under load, and print a table of what was lost.
///
/// Installs what is missing: packages of Debian, and in a virtual environment under target/ those of PyPI. Everything runs in network
/// namespaces of its own. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run the tests of servers that systemd has started instead, on a real systemd in a Debian tree; the first time that is made,
    /// which takes some minutes
    #[arg(long, conflicts_with = "passed_on")]
    adopted: bool,
    /// Of those tests, only the ones whose name contains this
    #[arg(long, value_name = "NAME", requires = "adopted")]
    filter: Option<String>,
    /// Passed on; `--help` after `--` lists what it takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "--handovers N | NAME")]
    passed_on: Vec<String>,
}

/// Installs, builds and runs.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.adopted {
        return adopted::run(workspace, arguments.filter.as_deref());
    }
    packages::install_missing(&SERVERS)?;
    let environment = workspace.target.join("servers");
    install_from_pypi(&environment)?;
    let path = env::var_os("PATH").unwrap_or_default();
    let all = [environment.join("bin")].into_iter().chain(env::split_paths(&path));
    let path = env::join_paths(all.chain(["/usr/sbin".into()])).context("joining PATH")?;
    tests_binary::run_with(workspace, "steer-servers", &arguments.passed_on, &[("PATH", path)])
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
