//! cargo-deb: which, and how it is called.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{cargo_tool::Tool, workspace::Workspace};

/// Of the release that the package's description in `server/Cargo.toml` is written for.
pub(super) const CARGO_DEB: Tool = Tool { name: "deb", release: "3.8.0", takes: "about two minutes" };

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
    fn the_package_is_named_in_a_line_of_its_own() {
        let printed = "  warning: a\n/t/debian/steer_0.1.0-1_amd64.deb\n";
        assert_eq!(packed(printed), Some("/t/debian/steer_0.1.0-1_amd64.deb".into()));
        assert_eq!(packed("nothing\n"), None);
    }
}
