//! Debian trees with systemd, which tests boot.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::packages;

/// What making one calls, and what booting it does.
pub(crate) const NEEDED: [packages::Needed; 3] =
    [("debootstrap", "debootstrap"), ("unshare", "util-linux"), ("ip", "iproute2")];

/// Which tree: they differ in what they have.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Its directory in the target directory; below that there is one for each release.
    directory: &'static str,
    /// Packages beside Debian's essential ones and [`INCLUDED`].
    included: &'static [&'static str],
}

/// For the package: nothing more.
pub(crate) const BARE: Kind = Kind { directory: "debian-tree", included: &[] };

/// With servers; those that are units run once the tree is booted.
pub(crate) const WITH_SERVERS: Kind = Kind { directory: "debian-tree-servers", included: &SERVERS };

/// Servers, and what runs or builds those that come as a source.
const SERVERS: [&str; 6] =
    ["nginx-light", "redis-server", "nodejs", "python3", "golang-go", "default-jdk-headless"];

/// What every tree has beside Debian's essential packages: what boots, what the package depends on, a program for workers, and what
/// systemd attaches its programs to cgroups with.
const INCLUDED: [&str; 6] = ["systemd", "systemd-sysv", "dbus", "procps", "python3-minimal", "libbpf1"];

/// The release where this host is none of Debian's.
const RELEASE: &str = "bookworm";

/// Makes the tree, unless an earlier call has. It is of the release that is given, or of this host's, whose libraries the binary is linked
/// with, and from the mirror that apt is configured for. Returns where it is.
pub(crate) fn prepare(target: &Path, kind: &Kind, release: Option<&str>) -> Result<PathBuf> {
    let own = own_release(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    let release = release.map_or(own, str::to_owned);
    let tree = target.join(kind.directory).join(&release);
    let included = included(kind);
    // Beside it, what it was made with: one that has less is made anew.
    let packages = tree.with_extension("packages");
    if tree.exists() {
        if fs::read_to_string(&packages).is_ok_and(|found| found == included) {
            return Ok(tree);
        }
        fs::remove_dir_all(&tree).with_context(|| format!("removing {}", tree.display()))?;
    }
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"])
        .output()
        .context("running apt-get indextargets")?;
    let targets = String::from_utf8_lossy(&targets.stdout);
    let unfinished = tree.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("removing {}", unfinished.display()))?;
    }
    fs::create_dir_all(&unfinished).with_context(|| format!("making {}", unfinished.display()))?;
    println!("making a Debian tree in {} (about a minute)", tree.display());
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={included}"), &release]).arg(&unfinished);
    command.args(mirror(&targets, &release));
    let log = tree.with_extension("log");
    let file = fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let status = command.stdout(file).status().context("running debootstrap")?;
    ensure!(status.success(), "debootstrap: {status}\nhint: see {}", log.display());
    fs::rename(&unfinished, &tree).with_context(|| format!("renaming {}", unfinished.display()))?;
    fs::write(&packages, included).with_context(|| format!("writing {}", packages.display()))?;
    Ok(tree)
}

/// Why systemd in the tree cannot restrict what a unit binds, where it cannot: Debian builds it with what that needs since trixie.
pub(crate) fn without_socket_bind(tree: &Path) -> Result<Option<String>> {
    let output = Command::new("chroot").arg(tree).args(["systemctl", "--version"]).output();
    let said = output.context("running systemctl in the tree")?.stdout;
    Ok(cannot_restrict(&String::from_utf8_lossy(&said)))
}

/// The same, by what `systemctl --version` prints.
fn cannot_restrict(said: &str) -> Option<String> {
    let can = said.split_whitespace().any(|feature| feature == "+BPF_FRAMEWORK");
    let version = said.lines().next().unwrap_or("systemctl --version has said nothing");
    (!can).then(|| format!("{version} is built without BPF_FRAMEWORK"))
}

/// All packages of a tree, as debootstrap takes them.
fn included(kind: &Kind) -> String {
    [&INCLUDED, kind.included].concat().join(",")
}

/// Debian's name of the release that this `/etc/os-release` is of.
fn own_release(os_release: &str) -> String {
    let value = |name: &str| os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let own = value("VERSION_CODENAME").filter(|_| value("ID") == Some("debian"));
    own.unwrap_or(RELEASE).trim_matches('"').to_owned()
}

/// The mirror of the release's main component; none where apt has another release, and debootstrap knows where to look.
fn mirror<'a>(targets: &'a str, release: &str) -> Option<&'a str> {
    targets.lines().find_map(|line| line.strip_prefix(release)?.strip_prefix(" main "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_tree_has_what_boots() {
        assert_eq!(included(&BARE), "systemd,systemd-sysv,dbus,procps,python3-minimal,libbpf1");
        assert!(included(&WITH_SERVERS).starts_with(&format!("{},nginx-light,", included(&BARE))));
        assert_ne!(BARE.directory, WITH_SERVERS.directory);
    }

    #[test]
    fn the_release_is_this_hosts_where_that_is_debians() {
        assert_eq!(own_release("ID=debian\nVERSION_CODENAME=trixie\n"), "trixie");
        assert_eq!(own_release("ID=ubuntu\nVERSION_CODENAME=noble\n"), RELEASE);
        assert_eq!(own_release(""), RELEASE);
    }

    #[test]
    fn the_mirror_is_the_one_that_apt_has_for_main() {
        let targets = "stable main https://a.example/apt\nbookworm-updates main http://b.example/debian/\n\
                       bookworm contrib http://c.example/debian/\nbookworm main http://d.example/debian/\n";
        assert_eq!(mirror(targets, "bookworm"), Some("http://d.example/debian/"));
        assert_eq!(mirror(targets, "trixie"), None);
    }

    #[test]
    fn systemd_says_whether_it_can_restrict_binds() {
        assert_eq!(cannot_restrict("systemd 257 (257.13-1)\n+PAM +BPF_FRAMEWORK +BTF\n"), None);
        let why = cannot_restrict("systemd 252 (252.38-1)\n+PAM -BPF_FRAMEWORK\n");
        assert_eq!(why.as_deref(), Some("systemd 252 (252.38-1) is built without BPF_FRAMEWORK"));
    }
}
