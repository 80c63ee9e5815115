//! Where this process's cgroup is.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The directory of this process's cgroup, in the cgroup2 file system; nothing where that is not mounted.
pub(super) fn own() -> Option<PathBuf> {
    let path = own_path(&fs::read_to_string("/proc/self/cgroup").ok()?)?.to_owned();
    directory(&fs::read_to_string("/proc/self/mountinfo").ok()?, Path::new(&path))
}

/// From `/proc/self/cgroup`: the line of the unified hierarchy, `0::PATH`.
fn own_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// From `/proc/self/mountinfo`: the directory that shows a cgroup. A container's mount may show a part of the hierarchy only.
fn directory(text: &str, path: &Path) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        if rest.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
        let below = path.strip_prefix(&root).ok()?;
        Some(Path::new(&point).join(below))
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
}
