//! Tools that cargo installs: found where they are, or installed into the target directory, each of the one release that it is used in.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// A subcommand of cargo, `cargo-NAME`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    /// Its name, without `cargo-`.
    pub(crate) name: &'static str,
    /// The release, and no other.
    pub(crate) release: &'static str,
    /// How long its installation takes, for people.
    pub(crate) takes: &'static str,
}

/// Finds the tool on `PATH` or in the target directory, or installs it there.
pub(crate) fn prepare(workspace: &Workspace, tool: Tool) -> Result<PathBuf> {
    let Tool { name, release, takes } = tool;
    let package = format!("cargo-{name}");
    let root = workspace.target.join("tools");
    let own = root.join("bin").join(&package);
    let search = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&search).map(|directory| directory.join(&package));
    if let Some(found) = on_path.chain([own.clone()]).find(|path| path.exists() && fits(path, tool)) {
        return Ok(found);
    }
    println!("installing {package} {release} into {} ({takes})", root.display());
    let mut install = workspace.cargo();
    install.args(["install", &package, "--version", release, "--locked", "--force", "--root"]).arg(&root);
    let status = install.status().with_context(|| format!("running cargo install {package}"))?;
    ensure!(
        status.success() && fits(&own, tool),
        "{package} {release} could not be installed\n\
         hint: cargo install {package} --version {release} --locked (needs https://crates.io); one on PATH is used"
    );
    Ok(own)
}

fn fits(path: &Path, tool: Tool) -> bool {
    let output = Command::new(path).args([tool.name, "--version"]).output();
    output.is_ok_and(|output| is_release(&String::from_utf8_lossy(&output.stdout), tool.release))
}

/// Whether what the tool prints of its version names the release: with or without the tool's name before it.
fn is_release(version: &str, release: &str) -> bool {
    version.split_whitespace().next_back() == Some(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_compared_whole() {
        assert!(is_release("cargo-deb 3.8.0\n", "3.8.0") && is_release("3.8.0", "3.8.0"));
        for other in ["", "3.8.01", "13.8.0", "cargo-deb 3.8.0 beta"] {
            assert!(!is_release(other, "3.8.0"), "{other}");
        }
    }
}
