//! The cgroup above all programs.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use super::CgroupError;
use crate::sockets::cgroups;

/// The topmost cgroup that this process is in and sees, open: what a hook for programs that steer did not start is attached to. A unit's
/// own cgroup is made anew with each of its starts. In a container that is not shown the host's hierarchy it is the container's.
#[derive(Debug)]
pub struct TopCgroup {
    directory: File,
    path: PathBuf,
}

impl TopCgroup {
    /// Opens it. Needs no right to write there: a mount that is read-only will do.
    pub fn open() -> Result<Self, CgroupError> {
        let path = cgroups::top().ok_or(CgroupError::NotMounted)?;
        let failed = |source| CgroupError::System { operation: "open", path: path.clone(), source };
        let directory = File::open(&path).map_err(failed)?;
        Ok(Self { directory, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for TopCgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
