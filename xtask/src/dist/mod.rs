//! `cargo xtask dist`: the Debian package, and an OCI image.

mod cargo_deb;
mod layout;
mod oci;
mod trial;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};

use self::cargo_deb::CARGO_DEB;
use crate::{cargo_tool, packages, workspace::Workspace};

/// Make the Debian package: the binary, its unit, manual pages, completions, examples; or an OCI image of the binary.
///
/// Installs what it needs, cargo-deb among it, into the target directory or, as root, from Debian; or says what is missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The package's version, where it is not that of the workspace
    #[arg(long, value_name = "VERSION")]
    deb_version: Option<String>,
    /// Try it instead, on a real systemd and under load: install, restart, kill, upgrade, remove. As root; a few minutes
    #[arg(long = "try", conflicts_with = "deb_version")]
    is_trial: bool,
    /// Make an OCI image instead, a tar for `podman load`, with the libraries of this host that the binary needs; no registry is asked
    #[arg(long = "oci", conflicts_with_all = ["deb_version", "is_trial"])]
    is_image: bool,
    /// Of this binary, where it is built already
    #[arg(long, value_name = "FILE", requires = "is_image")]
    binary: Option<PathBuf>,
    /// Of the trial, only the tests whose name contains this
    #[arg(requires = "is_trial")]
    filter: Option<String>,
    /// Try it in this release of Debian, whose systemd may do more, and not in this host's
    #[arg(long, value_name = "NAME", requires = "is_trial")]
    release: Option<String>,
}

/// Makes the package and prints its path.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    packages::install_missing(&packages::PACKAGING)?;
    if arguments.is_trial {
        return trial::run(workspace, arguments.filter.as_deref(), arguments.release.as_deref());
    }
    if arguments.is_image {
        println!("{}", image(workspace, arguments.binary.as_deref())?.display());
        return Ok(ExitCode::SUCCESS);
    }
    let package = package(workspace, arguments.deb_version.as_deref(), "debian")?;
    println!("{}", package.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the binary, lays out what goes with it, and packs both, into a directory of the target directory, where cargo-deb leaves
/// no other version of the package. Returns the package's path.
fn package(workspace: &Workspace, version: Option<&str>, directory: &str) -> Result<PathBuf> {
    let tool = cargo_tool::prepare(workspace, CARGO_DEB)?;
    let built = workspace.cargo().args(["build", "--release", "--package", "steer"]).status()?;
    ensure!(built.success(), "building steer failed ({built})");
    let release = workspace.target.join("release");
    layout::lay_out(&workspace.root.join("server"), &release.join("steer"), &release.join("steer-package"))?;
    cargo_deb::pack(workspace, &tool, version, &workspace.target.join(directory))
}

/// Packs a binary, or the release build, into an OCI image. Returns the image's path.
pub(crate) fn image(workspace: &Workspace, binary: Option<&Path>) -> Result<PathBuf> {
    let built = workspace.target.join("release/steer");
    if binary.is_none() {
        let status = workspace.cargo().args(["build", "--release", "--package", "steer"]).status()?;
        ensure!(status.success(), "building steer failed ({status})");
    }
    let (server, directory) = (workspace.root.join("server"), workspace.target.join("oci"));
    oci::pack(&server, binary.unwrap_or(&built), env!("CARGO_PKG_VERSION"), &directory)
}

/// Writes a file, and the directories above it.
fn write(path: &Path, contents: &[u8]) -> Result<()> {
    let parent = path.parent().context("a file of the package has a directory")?;
    std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    std::fs::write(path, contents).with_context(|| format!("writing {}", path.display()))
}
