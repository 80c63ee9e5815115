//! What the tests, the packaging and other kernels need from Debian.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

/// A program that is called, or a file by its path, and the Debian package that has it.
pub(crate) type Needed = (&'static str, &'static str);

/// What the privileged tests call.
pub(crate) const FOR_TESTS: [Needed; 6] = [
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("python3", "python3"),
    ("systemd-analyze", "systemd"),
    ("unbound", "unbound"),
    ("dnsperf", "dnsperf"),
];
/// Servers that `cargo xtask servers` runs.
pub(crate) const SERVERS: [Needed; 12] = [
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("apache2", "apache2-bin"),
    ("php-fpm8.2", "php8.2-fpm"),
    ("redis-server", "redis-server"),
    ("unbound", "unbound"),
    ("knotd", "knot"),
    ("uwsgi", "uwsgi-plugin-python3"),
    ("node", "nodejs"),
    ("go", "golang-go"),
    ("java", "default-jdk-headless"),
    ("/usr/include/liburing.h", "liburing-dev"),
];
/// Servers that `cargo xtask servers --adopted` runs.
pub(crate) const ADOPTED: [Needed; 8] = [
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("apache2", "apache2-bin"),
    ("redis-server", "redis-server"),
    ("unbound", "unbound"),
    ("node", "nodejs"),
    ("python3", "python3"),
    ("ip", "iproute2"),
];
/// Services that come with them: none is to serve this host.
const SERVICES: [(&str, &str); 6] = [
    ("unbound", "unbound.service"),
    ("knot", "knot.service"),
    ("nginx-light", "nginx.service"),
    ("haproxy", "haproxy.service"),
    ("php8.2-fpm", "php8.2-fpm.service"),
    ("redis-server", "redis-server.service"),
];
/// What the tests of containers call.
pub(crate) const CONTAINERS: [Needed; 3] =
    [("podman", "podman"), ("runc", "runc"), ("/bin/busybox", "busybox-static")];
/// What packing calls: cargo-deb has the binary's dependencies found.
pub(crate) const PACKAGING: [Needed; 3] =
    [("dpkg-shlibdeps", "dpkg-dev"), ("strip", "binutils"), ("tar", "tar")];

/// Installs with apt-get what is missing. Nothing is fetched, and the network not touched, where nothing is.
pub(crate) fn install_missing(needed: &[Needed]) -> Result<()> {
    let missing = missing(needed, &search_path());
    if missing.is_empty() {
        let programs: Vec<&str> = needed.iter().map(|(program, _)| *program).collect();
        println!("{} are there", programs.join(", "));
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(is_root()?, "missing: {list}\nhint: as root, apt-get install {list}");
    println!("installing {list}");
    for arguments in [&["update"][..], &["install", "--yes", "--no-install-recommends"][..]] {
        let mut command = Command::new("apt-get");
        // Packages start their services by way of systemctl, which does not in an offline system, or of invoke-rc.d, which does not in
        // single-user mode.
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("SYSTEMD_OFFLINE", "1")
            .env("RUNLEVEL", "1");
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
    for (_, service) in SERVICES.iter().filter(|(package, _)| missing.contains(package)) {
        // Not at the next start either. Where there is no systemd, nothing was enabled.
        let _ = Command::new("systemctl").args(["--quiet", "disable", service]).status();
    }
    let left = self::missing(needed, &search_path()).join(" ");
    ensure!(left.is_empty(), "still missing after apt-get install: {left}\nhint: is each on PATH?");
    Ok(())
}

/// Where a program is.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let mut all = search_path().into_iter().map(|place| place.join(name));
    all.find(|path| path.exists()).with_context(|| format!("{name} is not on PATH"))
}

/// `PATH` and the directories of the administrator's programs, which a user's `PATH` may lack.
fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect()
}

fn missing(needed: &[Needed], search_path: &[impl AsRef<Path>]) -> Vec<&'static str> {
    let is_there = |program: &str| search_path.iter().any(|place| place.as_ref().join(program).exists());
    needed.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect()
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
        assert_eq!(
            missing(&FOR_TESTS, &[directory.path()]),
            ["nftables", "python3", "systemd", "unbound", "dnsperf"]
        );
    }
}
