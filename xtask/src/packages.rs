//! What the privileged tests need from Debian.

use std::{env, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

/// A program that the tests call, and the Debian package that has it.
const NEEDED: [(&str, &str); 3] = [("nft", "nftables"), ("ip", "iproute2"), ("python3", "python3")];

/// Installs with apt-get what is missing. Nothing is fetched, and the network not touched, where nothing is.
pub(crate) fn install_missing() -> Result<()> {
    let missing = missing(&search_path());
    if missing.is_empty() {
        println!("nftables, iproute2 and python3 are there");
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(is_root()?, "missing: {list}\nhint: as root, apt-get install {list}");
    println!("installing {list}");
    for arguments in [&["update"][..], &["install", "--yes", "--no-install-recommends"][..]] {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        if arguments[0] == "install" {
            command.args(&missing);
        }
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => {
                bail!("missing: {list}; apt-get {}: {status}\nhint: install them by hand", arguments[0])
            }
            Err(error) => bail!("missing: {list}; apt-get does not run: {error}\nhint: install them by hand"),
        }
    }
    let left = self::missing(&search_path()).join(" ");
    ensure!(left.is_empty(), "still missing after apt-get install: {left}\nhint: is each on PATH?");
    Ok(())
}

/// `PATH` and the directories of the administrator's programs, which a user's `PATH` may lack.
fn search_path() -> Vec<std::path::PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect()
}

fn missing(search_path: &[impl AsRef<Path>]) -> Vec<&'static str> {
    let is_there = |program: &str| search_path.iter().any(|place| place.as_ref().join(program).exists());
    NEEDED.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect()
}

fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    // The owner of our own directory in /proc is our effective user.
    Ok(std::fs::metadata("/proc/self").context("reading /proc/self")?.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ip"), "").unwrap();
        assert_eq!(missing(&[directory.path()]), ["nftables", "python3"]);
    }
}
