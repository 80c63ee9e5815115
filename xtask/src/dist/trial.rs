//! `cargo xtask dist --try`: installs, restarts, kills, upgrades and removes the package on a real systemd, under load.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use super::package;
use crate::{capabilities, debian_tree, libtest, packages, workspace::Workspace};

/// The test of workers whose binds systemd restricts, which not every systemd can.
const RESTRICTED: &str = "binds_that_systemd_denies_stay_denied";

/// Makes two packages, which differ in their version, and runs the tests that need them.
pub(super) fn run(workspace: &Workspace, filter: Option<&str>, release: Option<&str>) -> Result<ExitCode> {
    let missing = capabilities::missing()?;
    ensure!(missing.is_empty(), "missing {}\nhint: run as root", missing.join(", "));
    packages::install_missing(&debian_tree::NEEDED)?;
    let tree = debian_tree::prepare(&workspace.target, &debian_tree::BARE, release)?;
    let skipped =
        debian_tree::without_socket_bind(&tree)?.filter(|_| filter.is_none_or(|it| RESTRICTED.contains(it)));
    let older = package(workspace, Some("0~try1"), "debian-try/older")?;
    let newer = package(workspace, Some("0~try2"), "debian-try/newer")?;
    let mut command = workspace.cargo();
    command.args(["test", "--package", "steer-tests", "--release", "--test", "packaged"]);
    command.args(filter).args(["--", "--ignored", "--test-threads=1", "--nocapture"]);
    if skipped.is_some() {
        command.args(["--skip", RESTRICTED]);
    }
    command.env("STEER_DEBIAN_TREE", tree);
    command.env("STEER_PACKAGE", older).env("STEER_PACKAGE_NEWER", newer);
    let mut counts = libtest::run(&mut command)?;
    if let Some(reason) = skipped {
        counts.skipped += 1;
        println!("\nskipped: {RESTRICTED}: {reason}\nhint: --release trixie");
    }
    println!("\n{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
