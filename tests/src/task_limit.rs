//! A limit on how many processes and threads there may be, for a process under test.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::wait;

/// How long the kernel may take to end killed processes.
const END: Duration = Duration::from_secs(10);

static MADE: AtomicU32 = AtomicU32::new(0);

/// A cgroup of the pids controller, of whichever version has that here. Dropping it moves what is in it to the root, and removes it.
#[derive(Debug)]
pub struct TaskLimit {
    root: PathBuf,
    path: PathBuf,
}

impl TaskLimit {
    /// A cgroup without a limit, for the process and what it forks from here on.
    #[track_caller]
    pub fn around(pid: u32) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc can be read");
        let root = mount_point(&mounts, |root| {
            let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            controllers.split_whitespace().any(|controller| controller == "pids")
        });
        let root = root.unwrap_or_else(|| panic!("no hierarchy has the pids controller: {mounts}"));
        let control = root.join("cgroup.subtree_control");
        if control.exists() {
            write(&control, "+pids");
        }
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("steer-tests-pids-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("making {}: {error}", path.display()));
        write(&path.join("cgroup.procs"), &pid.to_string());
        Self { root, path }
    }

    /// From now on nothing in it can fork or make a thread; what is there goes on.
    #[track_caller]
    pub fn reach(&self) {
        write(&self.path.join("pids.max"), "1");
    }

    /// There is no limit any more.
    #[track_caller]
    pub fn lift(&self) {
        write(&self.path.join("pids.max"), "max");
    }
}

impl Drop for TaskLimit {
    fn drop(&mut self) {
        wait::until("the cgroup can be removed", END, || {
            for pid in fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines() {
                // It may have ended meanwhile.
                let _ = fs::write(self.root.join("cgroup.procs"), pid);
            }
            fs::remove_dir(&self.path).map_err(|error| error.to_string())
        });
    }
}

#[track_caller]
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("writing {text:?} to {}: {error}", path.display()));
}

/// Where the hierarchy with the pids controller is mounted, by `/proc/self/mountinfo`.
fn mount_point(mounts: &str, unified_has_it: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let place = PathBuf::from(mount.split(' ').nth(4)?);
        let mut kind = kind.split(' ');
        let found = match kind.next()? {
            "cgroup2" => unified_has_it(&place),
            "cgroup" => kind.nth(1)?.split(',').any(|option| option == "pids"),
            _ => false,
        };
        found.then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::mount_point;

    #[test]
    fn the_hierarchy_with_the_controller_is_found() {
        let mounts = "\
31 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
33 31 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        assert_eq!(mount_point(mounts, |_| false), Some(PathBuf::from("/sys/fs/cgroup/pids")));
        let unified = "40 31 0:35 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(unified, |_| true), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(mount_point(unified, |_| false), None);
    }
}
