//! The cgroup of a group's workers: what the bind hook is attached to.
//!
//! A child of the daemon's own cgroup, `steer.GROUP.TAG`, with no controllers: limits and accounting stay the daemon's cgroup's. It needs
//! the right to make directories there: root on most hosts, `Delegate=yes` in a unit, a writable cgroup in a container. On a host with
//! cgroup v1 beside it, the cgroup2 mount is found where it is.
//!
//! The directory outlives its daemon, as its workers may. An empty one that no daemon has open is removed by the next daemon that starts in
//! the same cgroup.

pub mod proof;
mod top;

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

pub use self::top::TopCgroup;
use crate::{names::GroupName, sockets::cgroups};

/// What begins the name of each.
const PREFIX: &str = "steer.";

/// There is no cgroup for workers.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// No cgroup2 file system is mounted, or this process's cgroup is not in what is mounted.
    #[error("this process's cgroup is in no cgroup2 mount")]
    NotMounted,
    /// It could not be made or opened.
    #[error("cannot {operation} {}", path.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotMounted => "mount cgroup2 (mount -t cgroup2 none /sys/fs/cgroup), or into the container",
            Self::System { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                "mount the container's cgroup writable (docker: --cgroupns=private, and /sys/fs/cgroup:rw)"
            }
            Self::System { .. } => "run as root, or with Delegate=yes in the unit",
        }
    }
}

/// An open cgroup. Dropping it leaves it where it is.
#[derive(Debug)]
pub struct WorkersCgroup {
    directory: File,
    path: PathBuf,
    /// Its number, as the kernel tells of it in links and records.
    pub id: u64,
}

impl WorkersCgroup {
    /// Makes the cgroup of a group's workers, or opens it where it is there. `tag` tells it from those of other daemons, for a group of the
    /// same name.
    pub fn make(group: &GroupName, tag: &str) -> Result<Self, CgroupError> {
        let own = cgroups::own().ok_or(CgroupError::NotMounted)?;
        remove_empty(&own);
        let path = own.join(format!("{PREFIX}{group}.{tag}"));
        let system = |operation| {
            let path = path.clone();
            move |source| CgroupError::System { operation, path, source }
        };
        loop {
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(system("make the cgroup")(error));
                }
                _ => {}
            }
            // Another daemon may remove it until it is locked: see `remove_empty`.
            let directory = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(system("open the cgroup"))?,
            };
            flock(&directory, FlockOperation::LockShared)
                .map_err(|errno| system("lock the cgroup")(errno.into()))?;
            let id = directory.metadata().map_err(system("look at the cgroup"))?.ino();
            if fs::metadata(&path).is_ok_and(|found| found.ino() == id) {
                return Ok(Self { directory, path, id });
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a cgroup of this path, as `/proc/PID/cgroup` has it, is this one or in it.
    pub fn holds(&self, path: &str) -> bool {
        let own = self.path.file_name();
        Path::new(path).components().any(|component| Some(component.as_os_str()) == own)
    }

    /// Removes it. While a process is in it that is refused; a later daemon removes it then.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.path)
    }
}

impl AsFd for WorkersCgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Removes cgroups for workers that nobody is in and no daemon has open.
fn remove_empty(own: &Path) {
    let Ok(entries) = fs::read_dir(own) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let Ok(directory) = File::open(entry.path()) else { continue };
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // EBUSY: its workers live.
            let _ = fs::remove_dir(entry.path());
        }
    }
}
