//! Where the checkout and its target directory are, and how to call cargo in it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The checkout that the running xtask was built from.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The directory of the top `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// The target directory of the workspace, as cargo resolves it from its configuration.
    pub(crate) target: PathBuf,
    /// The running xtask. Found at the start, because `cargo test --workspace` may put a new file in its place,
    /// after which the kernel names the old one "(deleted)".
    pub(crate) xtask: PathBuf,
}

impl Workspace {
    /// Finds the checkout by the manifest of xtask, which `cargo run` names.
    pub(crate) fn find() -> Result<Self> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`, not directly")?;
        let root = Path::new(&manifest).parent().context("xtask's manifest has no parent")?.to_owned();
        let xtask = env::current_exe().context("finding the running xtask")?;
        let output = Command::new(cargo())
            .args(["metadata", "--format-version=1", "--no-deps"])
            .current_dir(&root)
            .output()
            .context("running cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let metadata: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
        let target =
            metadata["target_directory"].as_str().context("cargo metadata names no target directory")?.into();
        Ok(Self { root, target, xtask })
    }

    /// A cargo command in the root of the checkout, without what cargo told xtask in its environment.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root);
        for (name, _) in env::vars_os() {
            if is_told_by_cargo_run(&name) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// The cargo that runs xtask, so that every build uses one toolchain.
fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Whether `cargo run` put the variable there to describe xtask's own package. A build script or `env!` that sees
/// another value than in a plain `cargo build` would rebuild.
fn is_told_by_cargo_run(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| {
        name == "CARGO" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_describes_xtask_is_removed() {
        for name in ["CARGO", "CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"] {
            assert!(is_told_by_cargo_run(&name.into()), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_TERM_COLOR"] {
            assert!(!is_told_by_cargo_run(&name.into()), "{name}");
        }
    }
}
