//! `cargo xtask servers --adopted`: servers that a real systemd starts, and those in containers of podman.

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::{capabilities, debian_tree, dist, libtest, packages, workspace::Workspace};

/// The files of tests that need the tree.
const TESTS: [&str; 5] =
    ["units", "adopted_units", "adopted_units_life", "adopted_templates", "adopted_podman"];

/// Makes the tree and runs the tests.
pub(super) fn run(workspace: &Workspace, filter: Option<&str>) -> Result<ExitCode> {
    let missing = capabilities::missing()?;
    ensure!(missing.is_empty(), "missing {}\nhint: run as root", missing.join(", "));
    packages::install_missing(&debian_tree::NEEDED)?;
    packages::install_missing(&packages::CONTAINERS)?;
    packages::install_missing(&packages::PACKAGING)?;
    let tree = debian_tree::prepare(&workspace.target, &debian_tree::WITH_SERVERS, None)?;
    let image = dist::image(workspace, None)?;
    let mut command = workspace.cargo();
    command.args(["test", "--package", "steer-tests", "--release", "--no-fail-fast"]);
    command.args(TESTS.iter().flat_map(|file| ["--test", file]));
    command.args(filter).args(["--", "--ignored", "--test-threads=1", "--nocapture"]);
    let counts = libtest::run(command.env("STEER_DEBIAN_TREE", tree).env("STEER_IMAGE", image))?;
    println!("\n{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
