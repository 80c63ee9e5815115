//! `cargo xtask build-ebpf`: the eBPF objects that are committed beside their source, made or compared.

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
/// The objects, each with the binary target of server-ebpf/ that it is made of.
const OBJECTS: [(&str, &str); 4] = [
    ("steer-ebpf", "steer.bpf.o"),
    ("steer-ebpf-looks", "looks.bpf.o"),
    ("steer-ebpf-bind", "bind.bpf.o"),
    ("steer-ebpf-bench", "bench.bpf.o"),
];

/// Build the eBPF objects from server-ebpf/ and write them, with their sha256, to server-ebpf/object/: steer's own
/// three, and what the benchmarks compare it with.
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
    for (target, name) in OBJECTS {
        let object = directory.join(name);
        let built = built.join(target);
        let bytes = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
        write_if_different(&object, &bytes)?;
        let line = checksum_line(&sha256(&object)?, name);
        write_if_different(&directory.join(format!("{name}.sha256")), line.as_bytes())?;
        println!("{} ({} bytes)\n{}", object.display(), fs::metadata(&object)?.len(), line.trim_end());
    }
    Ok(true)
}

/// Leaves a file that is as wanted alone: whoever embeds it is not compiled again.
fn write_if_different(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Rebuilds, compares byte for byte and says what differs. Whether all is the same.
pub(crate) fn check(workspace: &Workspace) -> Result<bool> {
    let built = build(workspace)?;
    let mut same = true;
    for (target, name) in OBJECTS {
        same &= check_one(&built.join(target), &committed(workspace), name)?;
    }
    Ok(same)
}

fn check_one(built: &Path, directory: &Path, name: &str) -> Result<bool> {
    let object = directory.join(name);
    let checksum = directory.join(format!("{name}.sha256"));
    for file in [&object, &checksum] {
        ensure!(file.exists(), "{} is not there\nhint: `cargo xtask build-ebpf` makes it", file.display());
    }
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let same_bytes = read(built)? == read(&object)?;
    let committed_hash = sha256(&object)?;
    let recorded = String::from_utf8_lossy(&read(&checksum)?).into_owned();
    println!("{name}\nrebuilt    {}\ncommitted  {committed_hash}", sha256(built)?);
    if !same_bytes {
        println!(
            "The committed object is not what the sources give.\n\
             hint: if server-ebpf/ or server-common/ changed, run `cargo xtask build-ebpf` and commit \
             server-ebpf/object/; if not, compare bpf-linker (it must be {BPF_LINKER} with rustc's own LLVM: \
             --no-default-features --features rust-llvm-22) and Cargo.lock"
        );
    }
    let same_record = recorded == checksum_line(&committed_hash, name);
    if !same_record {
        println!(
            "recorded   {}\nThe recorded sha256 is not the committed object's.\n\
             hint: run `cargo xtask build-ebpf` and commit both files",
            recorded.trim_end()
        );
    }
    Ok(same_bytes && same_record)
}

/// Builds the objects into the target directory and returns the directory that they are in.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = ebpf_toolchain::prepare(workspace)?;
    let target = workspace.target.join("ebpf");
    let status = command(workspace, &toolchain, &target)?.status().context("running cargo build")?;
    ensure!(status.success(), "building server-ebpf failed ({status})");
    Ok(target.join(TARGET).join("release"))
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
fn checksum_line(hash: &str, name: &str) -> String {
    format!("{hash}  {name}\n")
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
        assert_eq!(checksum_line(hash, "steer.bpf.o"), format!("{hash}  steer.bpf.o\n"));
    }
}
