//! `cargo xtask test`: every test, in the order in which a failure is cheapest.

use std::{
    process::{Command, ExitCode},
    thread::available_parallelism,
};

use anyhow::{Result, ensure};

use crate::{
    build_ebpf, capabilities, libtest, packages,
    summary::{Counts, Summary},
    workspace::Workspace,
};

/// Run every test: format and lints, pure tests, the eBPF object, and the privileged tests in namespaces of their own.
///
/// Installs what is missing, as root from Debian and else by rustup and cargo, or says what is missing. The last line
/// printed is `N passed, N failed, N skipped`, summed over all stages.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run only tests whose name contains this; stages that are no tests are left out
    filter: Option<String>,
    /// Leave out what needs root, and do not fail for it
    #[arg(long)]
    no_privileged: bool,
    /// How many privileged tests run at once [default: half of the processors]
    #[arg(long, value_name = "N")]
    test_threads: Option<usize>,
}

/// Runs the stages and prints the summary.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let mut summary = Summary::default();
    let obstacle = obstacle(&mut summary, arguments)?;
    if arguments.filter.is_none() {
        // The eBPF crate is a workspace of its own; its lints need its target, its format does not. So are the fuzz targets.
        let ebpf = ["--manifest-path", "server-ebpf/Cargo.toml", "--check"];
        let targets = ["--manifest-path", "server/fuzz/Cargo.toml", "--check"];
        summary.stage("format", || component(workspace, "fmt", &["--all", "--check"]));
        summary.stage("format of server-ebpf", || component(workspace, "fmt", &ebpf));
        summary.stage("format of server/fuzz", || component(workspace, "fmt", &targets));
        let lints = ["--workspace", "--all-targets", "--", "-D", "warnings"];
        summary.stage("lints", || component(workspace, "clippy", &lints));
    }
    summary.stage("pure tests", || pure(workspace, arguments));
    if arguments.filter.is_none() {
        summary.stage("eBPF object", || build_ebpf::check(workspace).map(Counts::one));
    }
    summary.stage("privileged tests", || match &obstacle {
        None => privileged(workspace, arguments),
        Some(obstacle) => {
            println!("skipped: {obstacle}");
            Ok(Counts::one_skipped())
        }
    });

    println!("\n{summary}");
    let whole = summary.total().failed == 0 && (obstacle.is_none() || arguments.no_privileged);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sets up what the privileged tests need; what is in the way of running them, if anything is.
fn obstacle(summary: &mut Summary, arguments: &Arguments) -> Result<Option<String>> {
    if arguments.no_privileged {
        return Ok(Some("--no-privileged".into()));
    }
    let missing = capabilities::missing()?;
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Ok(Some(format!(
            "missing {missing}\nhint: run as root, or leave them out with --no-privileged"
        )));
    }
    let setup = summary
        .stage("setup", || packages::install_missing(&packages::FOR_TESTS).map(|()| Counts::default()));
    Ok((setup.failed > 0).then(|| "the setup failed, see above".into()))
}

/// A component of the toolchain that a minimal installation lacks: a reason to skip, not to fail.
fn component(workspace: &Workspace, name: &str, arguments: &[&str]) -> Result<Counts> {
    let probe = workspace.cargo().args([name, "--version"]).output()?;
    if !probe.status.success() {
        println!("skipped: cargo {name} is not installed\nhint: rustup component add {}", package(name));
        return Ok(Counts::one_skipped());
    }
    Ok(Counts::one(workspace.cargo().arg(name).args(arguments).status()?.success()))
}

fn package(component: &str) -> &str {
    if component == "fmt" { "rustfmt" } else { component }
}

fn pure(workspace: &Workspace, arguments: &Arguments) -> Result<Counts> {
    let mut command = workspace.cargo();
    command.args(["test", "--workspace", "--exclude", "steer-tests", "--no-fail-fast"]);
    libtest::run(command.args(&arguments.filter))
}

/// The binary and the tests are built as `cargo run --release` builds the binary, so that one build serves both.
fn privileged(workspace: &Workspace, arguments: &Arguments) -> Result<Counts> {
    let built = workspace.cargo().args(["build", "--release", "--package", "steer"]).status()?;
    ensure!(built.success(), "building steer failed ({built})");
    let mut command = privileged_command(workspace, arguments);
    libtest::run(command.env("STEER_BIN", workspace.target.join("release/steer")))
}

fn privileged_command(workspace: &Workspace, arguments: &Arguments) -> Command {
    // Half: each test runs a daemon, its workers and their clients beside itself.
    let processors = available_parallelism().map_or(1, usize::from);
    let threads = arguments.test_threads.unwrap_or((processors / 2).max(1));
    let mut command = workspace.cargo();
    command.args(["test", "--package", "steer-tests", "--release", "--no-fail-fast"]);
    command.args(&arguments.filter).args(["--", &format!("--test-threads={threads}")]);
    command
}
