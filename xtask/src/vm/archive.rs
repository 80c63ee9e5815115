//! Kernels of other suites than this host's, fetched with apt into a directory of their own.
//!
//! apt does all of it: it knows the mirror, and checks the signature of each suite and with it the sum of each package.
//! Its lists are kept apart, so that the host's own packages stay as they are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};

use crate::vm::{
    kernels::{KERNELS, Kernel, Suite},
    stanza::{self, Package},
};

/// Debian's keys, of all suites; where they are not, apt has its own.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How long lists are as good as new.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The kernels of some suites.
#[derive(Debug)]
pub(crate) struct Archive {
    directory: PathBuf,
    packages: Vec<Package>,
    /// What apt said of suites that it could not fetch.
    missing: Vec<String>,
}

/// A kernel's packages, unpacked.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Debian's version of it.
    pub(crate) version: String,
    /// The directory that they are unpacked in.
    pub(crate) root: PathBuf,
}

impl Archive {
    /// Fetches the lists of all kernels' suites, whichever are asked for today, unless the ones there are a day old at most.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let directory = directory.join("apt");
        fs::create_dir_all(directory.join("lists/partial"))?;
        fs::create_dir_all(directory.join("cache/archives/partial"))?;
        let mut archive = Self { directory, packages: vec![], missing: vec![] };
        let wanted: BTreeSet<Suite> = KERNELS.iter().flat_map(|kernel| kernel.suites).copied().collect();
        archive.update(&sources(&archives()?, &wanted, Path::new(KEYRING).exists())?)?;
        archive.packages = archive.kernels()?;
        Ok(archive)
    }

    fn update(&mut self, sources: &str) -> Result<()> {
        let (file, stamp) = (self.sources(), self.directory.join("updated"));
        let is_fresh = |stamp: &Path| {
            let age = SystemTime::now().duration_since(fs::metadata(stamp).ok()?.modified().ok()?).ok()?;
            Some(age < FRESH)
        };
        if fs::read_to_string(&file).is_ok_and(|present| present == sources) && is_fresh(&stamp) == Some(true)
        {
            return Ok(());
        }
        fs::write(&file, sources).with_context(|| format!("writing {}", file.display()))?;
        println!("fetching the lists of {} suites", sources.lines().count());
        let output = self.apt("apt-get").arg("update").output().context("running apt-get update")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        self.missing = text.lines().filter(|line| line.starts_with("E: ")).map(str::to_owned).collect();
        // One suite that is not there is no reason to do without the others, and is asked for again next time.
        if output.status.success() {
            fs::write(&stamp, "").context("writing the time of the update")?;
        }
        Ok(())
    }

    fn kernels(&self) -> Result<Vec<Package>> {
        let names = self.text("apt-cache", &["pkgnames", "linux-image-"])?;
        let names: Vec<&str> = names.lines().filter(|name| name.ends_with("-cloud-amd64")).collect();
        if names.is_empty() {
            return Ok(vec![]);
        }
        let arguments: Vec<&str> = ["show"].into_iter().chain(names).collect();
        Ok(stanza::read(&self.text("apt-cache", &arguments)?))
    }

    /// Downloads a kernel's packages and unpacks them. What is there already is checked, and not fetched again.
    pub(crate) fn fetch(&self, kernel: &Kernel) -> Result<Fetched> {
        let Some(image) = kernel.newest(&self.packages) else {
            let suites: Vec<&str> = kernel.suites.iter().map(|(_, suite)| *suite).collect();
            let said = self.missing.join("; ");
            bail!("the mirror has no kernel {} in {} {said}", kernel.range(), suites.join(", "));
        };
        // Since 7.2 the image's package is empty, and depends on those that have it.
        let has_parts =
            |name: &&String| name.starts_with("linux-binary-") || name.starts_with("linux-modules-");
        let parts = image.depends.iter().filter(has_parts).map(String::as_str);
        let version = image.version.clone();
        let root = self.directory.join("unpacked").join(&version);
        if root.is_dir() {
            fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        }
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        for name in [image.name.as_str()].into_iter().chain(parts) {
            let package = self.download(&format!("{name}={version}"))?;
            let unpacked = Command::new("dpkg-deb").arg("-x").args([&package, &root]).status();
            ensure!(
                unpacked.context("running dpkg-deb")?.success(),
                "unpacking {} failed",
                package.display()
            );
        }
        Ok(Fetched { version, root })
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        println!("fetching {package}");
        let uris = self.text("apt-get", &["download", "--print-uris", package])?;
        // 'URI' NAME SIZE SUM
        let name = uris.split_whitespace().nth(1).with_context(|| format!("apt knows no {package}"))?;
        let packages = self.directory.join("packages");
        fs::create_dir_all(&packages).with_context(|| format!("making {}", packages.display()))?;
        let mut command = self.apt("apt-get");
        let output = command.args(["download", package]).current_dir(&packages).output();
        let output = output.context("running apt-get download")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "apt-get download {package}: {}", said.trim_end());
        Ok(packages.join(name))
    }

    fn text(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output =
            self.apt(program).args(arguments).output().with_context(|| format!("running {program}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {}", arguments[0], said.trim_end());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn sources(&self) -> PathBuf {
        self.directory.join("sources.list")
    }

    /// An apt that knows these sources and no others, and keeps what it fetches to itself.
    fn apt(&self, program: &str) -> Command {
        let place = |option: &str, path: &Path| format!("{option}={}", path.display());
        let options = [
            place("Dir::Etc::sourcelist", &self.sources()),
            "Dir::Etc::sourceparts=-".into(),
            place("Dir::State::lists", &self.directory.join("lists")),
            place("Dir::Cache", &self.directory.join("cache")),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            // The checkout is not the unprivileged user's.
            "APT::Sandbox::User=root".into(),
        ];
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        options.iter().for_each(|option| {
            command.args(["-o", option]);
        });
        command
    }
}

/// The archives that apt on this host is configured with: label and address.
fn archives() -> Result<Vec<(String, String)>> {
    let format = "$(LABEL) $(REPO_URI)";
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages"])
        .output()
        .context("running apt-get indextargets\nhint: this needs Debian's apt")?;
    Ok(labelled(&String::from_utf8_lossy(&output.stdout)))
}

fn labelled(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// The wanted suites, at the mirrors of this host.
fn sources(archives: &[(String, String)], wanted: &BTreeSet<Suite>, has_keyring: bool) -> Result<String> {
    let key = if has_keyring { format!("[signed-by={KEYRING}] ") } else { String::new() };
    let line = |(label, suite): &Suite| {
        let (_, address) = archives.iter().find(|(other, _)| other == label)?;
        Some(format!("deb {key}{address} {suite} main\n"))
    };
    let sources: String = wanted.iter().filter_map(line).collect();
    ensure!(!sources.is_empty(), "apt on this host has no Debian mirror\nhint: add one, and apt-get update");
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_looked_for_at_the_mirrors_of_this_host() {
        let archives =
            labelled("Debian http://mirror/debian/\nDebian-Security http://mirror/security/\nother\n");
        let wanted: BTreeSet<Suite> = [("Debian-Security", "a-security"), ("Debian", "b")].into();
        let found = sources(&archives, &wanted, false).unwrap();
        assert_eq!(found, "deb http://mirror/debian/ b main\ndeb http://mirror/security/ a-security main\n");
        assert!(sources(&[], &wanted, true).unwrap_err().to_string().contains("hint:"));
    }
}
