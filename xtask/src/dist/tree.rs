//! A Debian tree with systemd, in which a package can be tried.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// What the tree has beside Debian's essential packages: what boots, and what the package depends on.
const INCLUDED: &str = "systemd,systemd-sysv,dbus,procps";

/// The release where this host is none of Debian's.
const RELEASE: &str = "bookworm";

/// Makes the tree, unless an earlier call has. It is of this host's release, whose libraries the binary is linked with, and from
/// the mirror that apt is configured for. Returns where it is.
pub(super) fn prepare(target: &Path) -> Result<PathBuf> {
    let release = release(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    let tree = target.join(format!("debian-tree/{release}"));
    if tree.exists() {
        return Ok(tree);
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
    command.args(["--variant=minbase", &format!("--include={INCLUDED}"), &release]).arg(&unfinished);
    command.args(mirror(&targets, &release));
    let log = tree.with_extension("log");
    let file = fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let status = command.stdout(file).status().context("running debootstrap")?;
    ensure!(status.success(), "debootstrap: {status}\nhint: see {}", log.display());
    fs::rename(&unfinished, &tree).with_context(|| format!("renaming {}", unfinished.display()))?;
    Ok(tree)
}

/// Debian's name of the release that this `/etc/os-release` is of.
fn release(os_release: &str) -> String {
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
    fn the_release_is_this_hosts_where_that_is_debians() {
        assert_eq!(release("ID=debian\nVERSION_CODENAME=trixie\n"), "trixie");
        assert_eq!(release("ID=ubuntu\nVERSION_CODENAME=noble\n"), RELEASE);
        assert_eq!(release(""), RELEASE);
    }

    #[test]
    fn the_mirror_is_the_one_that_apt_has_for_main() {
        let targets = "stable main https://a.example/apt\nbookworm-updates main http://b.example/debian/\n\
                       bookworm contrib http://c.example/debian/\nbookworm main http://d.example/debian/\n";
        assert_eq!(mirror(targets, "bookworm"), Some("http://d.example/debian/"));
        assert_eq!(mirror(targets, "trixie"), None);
    }
}
