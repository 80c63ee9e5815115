//! What building the eBPF object needs beyond stable Rust: the release it is pinned to, `rust-src`, `bpf-linker`.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::Workspace;

/// The release that makes the committed bytes. Another compiles the program too, but to other instructions.
const RUSTC: &str = "1.95.0";
/// Later releases of bpf-linker want a system LLVM; this one uses rustc's own.
pub(crate) const BPF_LINKER: &str = "0.10.4";

/// Tools that are there and of the right release.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// The linker.
    pub(crate) linker: PathBuf,
    /// The directory of rustc's shared LLVM, where bpf-linker looks for it by `LD_LIBRARY_PATH`.
    pub(crate) libraries: PathBuf,
}

/// Finds the tools, and installs those that rustup and cargo can.
pub(crate) fn prepare(workspace: &Workspace) -> Result<Toolchain> {
    let version = output(Command::new("rustc").arg("--version"))?;
    ensure!(
        is_release(&version, "rustc", RUSTC),
        "the eBPF object is built by rustc {RUSTC}, but this is {version}\n\
         hint: rustup toolchain install {RUSTC} --component rust-src, then `cargo +{RUSTC} xtask ...`"
    );
    let sysroot = PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"]))?);
    prepare_rust_src(&sysroot)?;
    Ok(Toolchain { linker: prepare_linker(workspace)?, libraries: sysroot.join("lib") })
}

/// core is compiled for the eBPF target, which no release has in binary form.
fn prepare_rust_src(sysroot: &Path) -> Result<()> {
    let core = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if core.exists() {
        return Ok(());
    }
    println!("installing rust-src: {} is not there", core.display());
    let installed = Command::new("rustup").args(["component", "add", "rust-src"]).status();
    match installed {
        Ok(status) if status.success() && core.exists() => Ok(()),
        Ok(_) => bail!(
            "rust-src could not be installed\nhint: `rustup component add rust-src` needs https://static.rust-lang.org"
        ),
        Err(error) => bail!(
            "the sources of core are not in {}, and rustup does not run: {error}\n\
             hint: install rust-src {RUSTC} as you installed rustc, or rustup from https://rustup.rs",
            core.display()
        ),
    }
}

fn prepare_linker(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target.join("tools");
    let own = root.join("bin/bpf-linker");
    let search = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&search).map(|directory| directory.join("bpf-linker"));
    let fits = |path: &PathBuf| {
        output(Command::new(path).arg("--version"))
            .is_ok_and(|version| is_release(&version, "bpf-linker", BPF_LINKER))
    };
    if let Some(found) = on_path.chain([own.clone()]).filter(|path| path.exists()).find(fits) {
        return Ok(found);
    }
    println!("installing bpf-linker {BPF_LINKER} into {} (about a minute)", root.display());
    let mut install = workspace.cargo();
    install
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"])
        .args(["--no-default-features", "--features", "rust-llvm-22"])
        .arg("--root")
        .arg(&root);
    clean_environment(&mut install, env::vars_os().map(|(name, _)| name));
    let status = install.status().context("running cargo install bpf-linker")?;
    ensure!(
        status.success() && fits(&own),
        "bpf-linker {BPF_LINKER} could not be installed\n\
         hint: cargo install bpf-linker --version {BPF_LINKER} --locked --no-default-features --features rust-llvm-22 \
         (needs https://crates.io); one on PATH is used"
    );
    Ok(own)
}

/// Removes what would change the compiler's output from the command's environment. What says where things are
/// fetched from, and how much is printed, stays; so does `RUSTUP_TOOLCHAIN`.
pub(crate) fn clean_environment(command: &mut Command, names: impl Iterator<Item = OsString>) {
    for name in names {
        if name.to_str().is_some_and(changes_output) {
            command.env_remove(name);
        }
    }
}

fn changes_output(name: &str) -> bool {
    const HARMLESS: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "CARGO_BUILD_JOBS",
    ];
    let about_rustc = ["RUSTC", "RUSTFLAGS", "RUSTDOC", "RUSTDOCFLAGS"].contains(&name)
        || name.starts_with("RUSTC_")
        || name == "AYA_BPF_TARGET_ARCH";
    let about_cargo = name == "CARGO" || name.starts_with("CARGO_");
    about_rustc || (about_cargo && !HARMLESS.iter().any(|harmless| name.starts_with(harmless)))
}

/// Whether `program --version` names this release: `rustc 1.95.0 (59807616e 2026-04-14)`.
fn is_release(version: &str, program: &str, release: &str) -> bool {
    let mut words = version.split_whitespace();
    words.next() == Some(program) && words.next() == Some(release)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_compared_whole() {
        assert!(is_release("rustc 1.95.0 (59807616e 2026-04-14)", "rustc", "1.95.0"));
        assert!(is_release("bpf-linker 0.10.4", "bpf-linker", "0.10.4"));
        for version in ["rustc 1.95.0-nightly (1 2)", "rustc 1.95.01", "clippy 1.95.0", "rustc", ""] {
            assert!(!is_release(version, "rustc", "1.95.0"), "{version}");
        }
    }

    #[test]
    fn what_changes_the_output_is_removed_and_the_toolchain_stays() {
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_DIR",
            "CARGO_MANIFEST_DIR",
            "RUSTC_WRAPPER",
            "CARGO_INCREMENTAL",
        ] {
            assert!(changes_output(name), "{name}");
        }
        for name in ["RUSTUP_TOOLCHAIN", "RUSTUP_HOME", "CARGO_HOME", "CARGO_NET_OFFLINE", "RUST_LOG", "PATH"]
        {
            assert!(!changes_output(name), "{name}");
        }
    }
}
