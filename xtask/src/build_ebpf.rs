//! `cargo xtask build-ebpf`: the eBPF object that is committed beside its source, made or compared.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};

use crate::{
    ebpf_toolchain::{self, BPF_LINKER, Toolchain, clean_environment},
    rustc_wrapper,
    workspace::Workspace,
};

/// The one eBPF target whose byte order the object is committed in.
const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "steer.bpf.o";

/// Build the eBPF object from server-ebpf/ and write it, with its sha256, to server-ebpf/object/.
///
/// The bytes depend on the sources, server-ebpf/Cargo.lock and the pinned releases of rustc and bpf-linker; not on
/// the directory of the checkout or of the toolchain. rust-src and bpf-linker are installed where they are missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing: build into the target directory and compare with what is committed
    #[arg(long)]
    check: bool,
}

/// Builds and, as asked, writes or compares.
pub(crate) fn main(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let same = if arguments.check { check(workspace)? } else { write(workspace)? };
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(workspace: &Workspace) -> Result<bool> {
    let built = build(workspace)?;
    let directory = committed(workspace);
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let object = directory.join(OBJECT);
    fs::copy(&built, &object).with_context(|| format!("writing {}", object.display()))?;
    let line = checksum_line(&sha256(&object)?);
    let checksum = directory.join(format!("{OBJECT}.sha256"));
    fs::write(&checksum, &line).with_context(|| format!("writing {}", checksum.display()))?;
    println!("{} ({} bytes)\n{}", object.display(), fs::metadata(&object)?.len(), line.trim_end());
    Ok(true)
}

/// Rebuilds, compares byte for byte and says what differs. Whether all is the same.
pub(crate) fn check(workspace: &Workspace) -> Result<bool> {
    let built = build(workspace)?;
    let object = committed(workspace).join(OBJECT);
    let checksum = committed(workspace).join(format!("{OBJECT}.sha256"));
    for file in [&object, &checksum] {
        ensure!(file.exists(), "{} is not there\nhint: `cargo xtask build-ebpf` makes it", file.display());
    }
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let same_bytes = read(&built)? == read(&object)?;
    let committed_hash = sha256(&object)?;
    let recorded = String::from_utf8_lossy(&read(&checksum)?).into_owned();
    println!("rebuilt    {}\ncommitted  {committed_hash}", sha256(&built)?);
    if !same_bytes {
        println!(
            "The committed object is not what the sources give.\n\
             hint: if server-ebpf/ or server-common/ changed, run `cargo xtask build-ebpf` and commit \
             server-ebpf/object/; if not, compare bpf-linker (it must be {BPF_LINKER} with rustc's own LLVM: \
             --no-default-features --features rust-llvm-22) and Cargo.lock"
        );
    }
    let same_record = recorded == checksum_line(&committed_hash);
    if !same_record {
        println!(
            "recorded   {}\nThe recorded sha256 is not the committed object's.\n\
             hint: run `cargo xtask build-ebpf` and commit both files",
            recorded.trim_end()
        );
    }
    Ok(same_bytes && same_record)
}

/// Builds the object into the target directory and returns its path.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = ebpf_toolchain::prepare(workspace)?;
    let target = workspace.target.join("ebpf");
    let status = command(workspace, &toolchain, &target)?.status().context("running cargo build")?;
    ensure!(status.success(), "building server-ebpf failed ({status})");
    Ok(target.join(TARGET).join("release/steer-ebpf"))
}

fn command(workspace: &Workspace, toolchain: &Toolchain, target: &Path) -> Result<Command> {
    let mut command = workspace.cargo();
    clean_environment(&mut command, env::vars_os().map(|(name, _)| name));
    command
        .current_dir(workspace.root.join("server-ebpf"))
        .args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(target)
        // build-std is not stable: the pinned release says what it does.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("LD_LIBRARY_PATH", library_path(&toolchain.libraries)?)
        .env("RUSTC_WRAPPER", &workspace.xtask)
        .env(rustc_wrapper::WANTED, "1")
        // This variable, because it overrides every configuration file that may set flags.
        .env("CARGO_ENCODED_RUSTFLAGS", flags().join("\u{1f}"));
    Ok(command)
}

fn flags() -> [&'static str; 3] {
    [
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // aya-ebpf-bindings otherwise takes the host's, and the object would differ between machines. Only programs
        // that read registers of the traced kernel depend on it.
        "--cfg=bpf_target_arch=\"x86_64\"",
    ]
}

fn library_path(libraries: &Path) -> Result<OsString> {
    let others = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let all = std::iter::once(libraries.to_owned()).chain(env::split_paths(&others));
    env::join_paths(all.filter(|path| !path.as_os_str().is_empty())).context("joining LD_LIBRARY_PATH")
}

fn committed(workspace: &Workspace) -> PathBuf {
    workspace.root.join("server-ebpf/object")
}

/// The line that `sha256sum --check` reads beside the object.
fn checksum_line(hash: &str) -> String {
    format!("{hash}  {OBJECT}\n")
}

fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg("--").arg(path).output().context("running sha256sum")?;
    ensure!(output.status.success(), "sha256sum: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // A leading backslash says that the name was escaped; it is no part of the hash.
    let hash = text.trim_start_matches('\\').split_whitespace().next();
    hash.map(str::to_owned).with_context(|| format!("sha256sum printed {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_of_the_files_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("abc\\");
        fs::write(&file, "abc").unwrap();
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&file).unwrap(), hash);
        assert_eq!(checksum_line(hash), format!("{hash}  steer.bpf.o\n"));
    }
}
