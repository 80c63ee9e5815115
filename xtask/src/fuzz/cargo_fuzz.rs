//! cargo-fuzz: finds it, installs it where it is missing.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// The release that the layout of `server/fuzz/` is written for.
const CARGO_FUZZ: &str = "0.13.2";

/// Finds cargo-fuzz on `PATH` or in the target directory, or installs it there.
pub(super) fn prepare(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target.join("tools");
    let own = root.join("bin/cargo-fuzz");
    let search = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&search).map(|directory| directory.join("cargo-fuzz"));
    if let Some(found) = on_path.chain([own.clone()]).find(|path| path.exists() && fits(path)) {
        return Ok(found);
    }
    println!("installing cargo-fuzz {CARGO_FUZZ} into {} (about a minute)", root.display());
    let mut install = workspace.cargo();
    install
        .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--force", "--root"])
        .arg(&root);
    let status = install.status().context("running cargo install cargo-fuzz")?;
    ensure!(
        status.success() && fits(&own),
        "cargo-fuzz {CARGO_FUZZ} could not be installed\n\
         hint: cargo install cargo-fuzz --version {CARGO_FUZZ} --locked (needs https://crates.io); one on PATH is used"
    );
    Ok(own)
}

fn fits(path: &Path) -> bool {
    let output = Command::new(path).args(["fuzz", "--version"]).output();
    output.is_ok_and(|output| is_release(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether `cargo-fuzz fuzz --version` names the release: `cargo-fuzz 0.13.2`.
fn is_release(version: &str) -> bool {
    version.split_whitespace().next_back() == Some(CARGO_FUZZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_compared_whole() {
        assert!(is_release(&format!("cargo-fuzz {CARGO_FUZZ}\n")));
        for other in [String::new(), format!("{CARGO_FUZZ}1"), format!("cargo-fuzz {CARGO_FUZZ} beta")] {
            assert!(!is_release(&other), "{other}");
        }
    }
}
