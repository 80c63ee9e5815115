//! Mounts that only a test sees.

use std::path::{Path, PathBuf};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

/// A mount, undone when dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

/// Moves the calling thread, and what it starts from here on, into a mount namespace of its own.
#[track_caller]
pub fn unshare() {
    // SAFETY: no descriptors are unshared; the file system's root and working directory of this thread alone become its own.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
    unshared.unwrap_or_else(|error| panic!("making a mount namespace: {error}"));
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap_or_else(|error| panic!("making its mounts private: {error}"));
}

impl Mounted {
    /// An empty tmpfs; options such as `size=64k`.
    #[track_caller]
    pub fn tmpfs(path: &Path, options: &str) -> Self {
        let options = std::ffi::CString::new(options).expect("options");
        let mounted = mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str());
        mounted.unwrap_or_else(|error| panic!("mounting a tmpfs at {}: {error}", path.display()));
        Self(path.to_owned())
    }

    /// One file in place of another.
    #[track_caller]
    pub fn bind(file: &Path, over: &Path) -> Self {
        mount_bind(file, over).unwrap_or_else(|error| panic!("mounting over {}: {error}", over.display()));
        Self(over.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The namespace, and all in it, ends with the test.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
