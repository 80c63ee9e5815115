//! `cargo xtask kubernetes`: the manifests against the schemas of Kubernetes' API.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// What carries the schemas of each release, from PyPI, and the program that it brings.
const VALIDATOR: (&str, &str) = ("kubernetes-validate==1.37.0", "kubernetes-validate");

/// The releases of Kubernetes: the newest, and one that many clusters still have.
const RELEASES: [&str; 2] = ["1.34", "1.29"];

/// Where the manifests are.
const MANIFESTS: &str = "server/packaging/kubernetes";

/// Validate the manifests of server/packaging/kubernetes against the schemas of the API of several releases.
///
/// Installs what carries the schemas, from PyPI, in a virtual environment under target/.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// Validates each, and one with a mistake, which has to be refused.
pub(crate) fn main(workspace: &Workspace, _: &Arguments) -> Result<ExitCode> {
    let environment = workspace.target.join("kubernetes");
    install(&environment)?;
    let validator = environment.join("bin").join(VALIDATOR.1);
    let manifests = manifests(&workspace.root.join(MANIFESTS))?;
    ensure!(!manifests.is_empty(), "{MANIFESTS} has no manifest");
    let (mut passed, mut failed) = (0, 0);
    for release in RELEASES {
        for manifest in &manifests {
            let is_valid = validate(&validator, release, manifest)?;
            println!(
                "{} {} {release}",
                manifest.display(),
                if is_valid { "fits Kubernetes" } else { "does not fit" }
            );
            *if is_valid { &mut passed } else { &mut failed } += 1;
        }
        let text = std::fs::read_to_string(&manifests[0]).context("reading a manifest")?;
        let mistaken = environment.join("mistaken.yaml");
        std::fs::write(&mistaken, text.replace("spec:", "specs:")).context("writing a mistaken manifest")?;
        let is_refused = !validate(&validator, release, &mistaken)?;
        println!("a mistaken one is {} by {release}", if is_refused { "refused" } else { "not refused" });
        *if is_refused { &mut passed } else { &mut failed } += 1;
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn manifests(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
    paths.sort();
    Ok(paths)
}

fn validate(validator: &Path, release: &str, manifest: &Path) -> Result<bool> {
    let mut command = Command::new(validator);
    command.args(["--strict", "--kubernetes-version", release]).arg(manifest);
    let status = command.status().with_context(|| format!("running {}", validator.display()))?;
    Ok(status.success())
}

fn install(environment: &Path) -> Result<()> {
    if environment.join("bin").join(VALIDATOR.1).exists() {
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
    run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", VALIDATOR.0]))
}
