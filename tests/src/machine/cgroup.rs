//! A cgroup for a test, in the unified hierarchy wherever that is mounted.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::wait;

/// How long the kernel may take to end killed processes.
const END: Duration = Duration::from_secs(10);

/// So that each has a name of its own.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A new cgroup below the root. Dropping it removes it, and all below it, once its processes have ended.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes it.
    #[track_caller]
    pub fn make() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc can be read");
        let root = mount_point(&mounts).unwrap_or_else(|| panic!("no cgroup2 is mounted: {mounts}"));
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(root).join(format!("steer-tests-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file to which a process writes its pid to move here.
    pub fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

/// Where the unified hierarchy is mounted, by `/proc/self/mountinfo`.
fn mount_point(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4)).flatten()
    })
}

/// Removes the directories, the deepest first: the files in them are the kernel's.
fn remove(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        wait::until("the cgroup can be removed", END, || {
            remove(&self.path).map_err(|error| error.to_string())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::mount_point;

    #[test]
    fn the_unified_hierarchy_is_found_beside_others() {
        let mounts = "\
25 1 0:23 / /sys rw,relatime - sysfs sysfs rw
31 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
40 31 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("25 1 0:23 / /sys rw,relatime - sysfs sysfs rw\n"), None);
    }
}
