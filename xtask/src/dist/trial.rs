//! `cargo xtask dist --try`: installs, restarts, kills, upgrades and removes the package on a real systemd, under load.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use super::{package, tree};
use crate::{capabilities, libtest, packages, workspace::Workspace};

/// What the trial calls beside what the tests do.
const NEEDED: [packages::Needed; 3] =
    [("debootstrap", "debootstrap"), ("unshare", "util-linux"), ("ip", "iproute2")];

/// Makes two packages, which differ in their version, and runs the tests that need them.
pub(super) fn run(workspace: &Workspace, filter: Option<&str>) -> Result<ExitCode> {
    let missing = capabilities::missing()?;
    ensure!(missing.is_empty(), "missing {}\nhint: run as root", missing.join(", "));
    packages::install_missing(&NEEDED)?;
    let tree = tree::prepare(&workspace.target)?;
    let older = package(workspace, Some("0~try1"), "debian-try/older")?;
    let newer = package(workspace, Some("0~try2"), "debian-try/newer")?;
    let mut command = workspace.cargo();
    command.args(["test", "--package", "steer-tests", "--release", "--test", "packaged"]);
    command.args(filter).args(["--", "--ignored", "--test-threads=1", "--nocapture"]);
    command.env("STEER_DEBIAN_TREE", tree);
    command.env("STEER_PACKAGE", older).env("STEER_PACKAGE_NEWER", newer);
    let counts = libtest::run(&mut command)?;
    println!("\n{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
