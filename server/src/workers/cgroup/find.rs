//! Where this process's cgroup is.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// The directory of this process's cgroup, in the cgroup2 file system; nothing where that is not mounted.
pub(super) fn own() -> Option<PathBuf> {
    let path = own_path(&fs::read_to_string("/proc/self/cgroup").ok()?)?.to_owned();
    directory(&fs::read_to_string("/proc/self/mountinfo").ok()?, Path::new(&path))
}

/// The directory of the topmost cgroup that this process is in and sees: the hierarchy's root on a host, its own cgroup's or the pod's in
/// a container; nothing where cgroup2 is not mounted.
pub(super) fn top() -> Option<PathBuf> {
    let path = own_path(&fs::read_to_string("/proc/self/cgroup").ok()?)?.to_owned();
    topmost(&fs::read_to_string("/proc/self/mountinfo").ok()?, Path::new(&path))
}

/// From `/proc/self/cgroup`: the line of the unified hierarchy, `0::PATH`.
fn own_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// From `/proc/self/mountinfo`: the directory that shows a cgroup. A container's mount may show a part of the hierarchy only.
fn directory(text: &str, path: &Path) -> Option<PathBuf> {
    mounts(text).find_map(|(root, point)| Some(point.join(path.strip_prefix(root).ok()?)))
}

/// From `/proc/self/mountinfo`: the mount that shows the most of the hierarchy.
///
/// In a cgroup namespace, paths are relative to the namespace's root: a mount of a cgroup further up, as of the host's in a container that
/// is given it, has the root `/..` or `/../..`.
fn topmost(text: &str, path: &Path) -> Option<PathBuf> {
    let height = |root: &Path| {
        let names = root.components().filter(|component| *component != Component::RootDir);
        let is_above = names.clone().all(|component| component == Component::ParentDir);
        let depth = isize::try_from(names.count()).ok()?;
        match is_above {
            true => Some(depth),
            false => path.starts_with(root).then_some(-depth),
        }
    };
    let mounts = mounts(text).filter_map(|(root, point)| Some((height(&root)?, point)));
    // Of several of the same cgroup, the first.
    mounts.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, point)| point)
}

/// The root and the mount point of each cgroup2 mount.
fn mounts(text: &str) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    text.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        if rest.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        Some((unescape(fields.next()?).into(), unescape(fields.next()?).into()))
    })
}

/// Blanks and backslashes stand as three octal digits in mountinfo.
fn unescape(field: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(field.to_owned(), |field, (code, character)| field.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_others() {
        let hybrid = "9:name=systemd:/\n4:memory:/some/other\n0::/system.slice/steer.service\n";
        assert_eq!(own_path(hybrid), Some("/system.slice/steer.service"));
        assert_eq!(own_path("4:memory:/\n"), None, "cgroup v1 only");
    }

    #[test]
    fn a_mount_shows_what_is_below_its_root() {
        let whole = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let hybrid = "29 23 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      30 29 0:26 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n";
        let part = "30 23 0:26 /docker/ab\\040c /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let found =
            |text, path: &str| directory(text, Path::new(path)).map(|found| found.display().to_string());
        assert_eq!(found(whole, "/a/b").as_deref(), Some("/sys/fs/cgroup/a/b"));
        assert_eq!(found(hybrid, "/").as_deref(), Some("/sys/fs/cgroup/unified/"));
        assert_eq!(found(part, "/docker/ab c/x").as_deref(), Some("/sys/fs/cgroup/x"));
        assert_eq!(found(part, "/elsewhere"), None);
        assert_eq!(found("", "/"), None);
    }

    #[test]
    fn the_topmost_cgroup_is_where_the_most_is_shown() {
        let mount = |root: &str, point: &str| format!("30 23 0:26 {root} {point} rw - cgroup2 cgroup2 rw\n");
        let found =
            |text: &str, path: &str| topmost(text, Path::new(path)).map(|found| found.display().to_string());
        let whole = mount("/", "/sys/fs/cgroup");
        assert_eq!(found(&whole, "/a/b").as_deref(), Some("/sys/fs/cgroup"));
        let part = mount("/docker/ab\\040c", "/sys/fs/cgroup");
        assert_eq!(found(&part, "/docker/ab c/x").as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(found(&part, "/elsewhere"), None, "of others only");
        assert_eq!(found(&mount("/../elsewhere", "/other"), "/"), None, "of others only");
        let both = mount("/", "/sys/fs/cgroup") + &mount("/../../..", "/host/sys/fs/cgroup");
        assert_eq!(found(&both, "/").as_deref(), Some("/host/sys/fs/cgroup"), "the host's, in a container");
        let twice = mount("/a", "/part") + &mount("/", "/first") + &mount("/", "/second");
        assert_eq!(found(&twice, "/a").as_deref(), Some("/first"));
    }
}
