//! cargo-deb: finds it, installs it where it is missing, and calls it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;

/// The release that the package's description in `server/Cargo.toml` is written for.
const CARGO_DEB: &str = "3.8.0";

/// Finds cargo-deb on `PATH` or in the target directory, or installs it there.
pub(super) fn prepare(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target.join("tools");
    let own = root.join("bin/cargo-deb");
    let search = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&search).map(|directory| directory.join("cargo-deb"));
    if let Some(found) = on_path.chain([own.clone()]).find(|path| path.exists() && fits(path)) {
        return Ok(found);
    }
    println!("installing cargo-deb {CARGO_DEB} into {} (about two minutes)", root.display());
    let mut install = workspace.cargo();
    install
        .args(["install", "cargo-deb", "--version", CARGO_DEB, "--locked", "--force", "--root"])
        .arg(&root);
    let status = install.status().context("running cargo install cargo-deb")?;
    ensure!(
        status.success() && fits(&own),
        "cargo-deb {CARGO_DEB} could not be installed\n\
         hint: cargo install cargo-deb --version {CARGO_DEB} --locked (needs https://crates.io); one on PATH is used"
    );
    Ok(own)
}

fn fits(path: &Path) -> bool {
    let output = Command::new(path).args(["deb", "--version"]).output();
    output.is_ok_and(|output| is_release(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether `cargo-deb --version` names the release: with or without the program's name before it.
fn is_release(version: &str) -> bool {
    version.split_whitespace().next_back() == Some(CARGO_DEB)
}

/// Packs what was built and laid out. Returns the package's path.
pub(super) fn pack(
    workspace: &Workspace,
    tool: &Path,
    version: Option<&str>,
    directory: &Path,
) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let mut command = Command::new(tool);
    command.current_dir(workspace.root.join("server")).stdout(Stdio::piped());
    // A directory is told from a file by its end.
    command.args(["deb", "--no-build", "--strip", "--output"]).arg(directory.join(""));
    if let Some(version) = version {
        command.args(["--deb-version", version]);
    }
    let output = command.spawn().and_then(std::process::Child::wait_with_output);
    let output = output.with_context(|| format!("running {}", tool.display()))?;
    ensure!(output.status.success(), "packing the binary failed ({})", output.status);
    let printed = String::from_utf8_lossy(&output.stdout);
    let path = packed(&printed).with_context(|| format!("cargo-deb names no package: {printed:?}"))?;
    ensure!(path.exists(), "cargo-deb names {}, which is not there", path.display());
    Ok(path)
}

/// The package that cargo-deb names, in the last line of its output.
fn packed(printed: &str) -> Option<PathBuf> {
    printed.lines().map(str::trim).rfind(|line| line.ends_with(".deb")).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_compared_whole() {
        assert!(is_release(&format!("cargo-deb {CARGO_DEB}\n")));
        assert!(is_release(CARGO_DEB));
        for other in [String::new(), format!("{CARGO_DEB}1"), format!("cargo-deb {CARGO_DEB} beta")] {
            assert!(!is_release(&other), "{other}");
        }
    }

    #[test]
    fn the_package_is_named_in_a_line_of_its_own() {
        let printed = "  warning: a\n/t/debian/steer_0.1.0-1_amd64.deb\n";
        assert_eq!(packed(printed), Some("/t/debian/steer_0.1.0-1_amd64.deb".into()));
        assert_eq!(packed("nothing\n"), None);
    }
}
