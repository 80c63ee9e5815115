//! Pins: the files under which program and maps of one kernel group can be found again by another process.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FsWord, statfs};
use thiserror::Error;

use super::object::names;

/// Where bpffs is, by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// What `statfs` says of a bpffs (`BPF_FS_MAGIC`).
const BPFFS_MAGIC: FsWord = 0xcafe_4a11;

/// The maps that are pinned, each under its own name.
pub(super) const MAPS: [&str; 9] = [
    names::LISTENERS,
    names::TABLE,
    names::COUNTERS,
    names::SHOWN,
    names::INDIRECTION,
    names::CELLS,
    names::FLOWS,
    names::FLOW_ENDS,
    names::ROUTES,
];

/// Pins could not be made or found.
#[derive(Debug, Error)]
pub enum PinsError {
    /// The place is none for pins, and can be made none.
    #[error("cannot keep pins in {path}: it is in no bpffs")]
    NotInBpffs {
        /// Where the pins were to be.
        path: PathBuf,
    },
    /// There is no bpffs, and it could not be mounted.
    #[error("cannot keep pins in {path}: it is not in a bpffs, and none can be mounted at {BPFFS}")]
    NoBpffs {
        /// Where the pins were to be.
        path: PathBuf,
        /// The kernel's answer to the mount.
        #[source]
        source: io::Error,
    },
    /// A directory could not be made, read or removed.
    #[error("cannot {operation} {path}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The directory is another user's, or may be written by others: what is in it could be anybody's.
    #[error("{path} is not root's alone (owner {owner}, mode {mode:o})")]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
}

impl PinsError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotInBpffs { .. } => {
                "name a directory below a bpffs, such as /sys/fs/bpf/steer; `findmnt -t bpf` shows where there is one"
            }
            Self::NoBpffs { .. } => "mount it: mount -t bpf bpf /sys/fs/bpf",
            Self::System { .. } => {
                "the daemon needs the right to write there; pins can be put elsewhere in a bpffs"
            }
            Self::NotOurs { .. } => "remove it, or give it to root with mode 700",
        }
    }
}

fn system(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinsError {
    let path = path.to_owned();
    move |source| PinsError::System { operation, path, source }
}

/// Makes the directory that a daemon's pins are under, for the daemon's user alone, and mounts bpffs where it is missing.
pub fn prepare(root: &Path) -> Result<(), PinsError> {
    let parent = root.parent().unwrap_or(Path::new("/"));
    if !is_bpffs(parent) {
        mount(root)?;
    }
    make(root)?;
    let found = fs::symlink_metadata(root).map_err(system("look at", root))?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let own = rustix::process::geteuid().as_raw();
    if !found.is_dir() || owner != own || mode & 0o022 != 0 {
        return Err(PinsError::NotOurs { path: root.to_owned(), owner, mode });
    }
    Ok(())
}

/// Makes a directory for pins, where there is none.
pub fn make(directory: &Path) -> Result<(), PinsError> {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(directory).map_err(system("make", directory))
}

/// A name for a directory of pins, of no other for as long as it is there.
pub fn identity(directory: &Path) -> Result<String, PinsError> {
    let found = fs::metadata(directory).map_err(system("look at", directory))?;
    Ok(format!("{:x}-{:x}", found.dev(), found.ino()))
}

/// Removes a directory of pins with everything in it. What was pinned lives on where something else holds it.
pub fn remove(directory: &Path) -> Result<(), PinsError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove", directory)(error)),
        _ => Ok(()),
    }
}

/// Whether a directory of pins has to be looked through for what was removed: to look at each pin is a walk of its path.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The directory's number and the time of its last change.
    seen: Option<(u64, i64, i64)>,
    /// Whether that was the same at the look before.
    is_settled: bool,
}

impl Changes {
    /// Whether something of it may have been added or removed since it was looked through last.
    pub(super) fn are_possible(&mut self, directory: &Path) -> bool {
        let found = fs::symlink_metadata(directory).ok();
        let found = found.map(|found| (found.ino(), found.mtime(), found.mtime_nsec()));
        let is_same = found.is_some() && found == self.seen;
        self.seen = found;
        // The clock of these times is coarse: a change in the same tick as the one before does not show. It is there a look later.
        let was_settled = std::mem::replace(&mut self.is_settled, is_same);
        !(is_same && was_settled)
    }
}

fn is_bpffs(path: &Path) -> bool {
    path.ancestors().find_map(|path| statfs(path).ok()).is_some_and(|found| found.f_type == BPFFS_MAGIC)
}

/// Mounts bpffs where it is by convention, for pins that are to be there. Needs CAP_SYS_ADMIN.
fn mount(root: &Path) -> Result<(), PinsError> {
    let refused = |source| PinsError::NoBpffs { path: root.to_owned(), source };
    let is_below = root.starts_with(BPFFS) && root != Path::new(BPFFS);
    // A second one over the first would hide everybody's pins.
    if !is_below || is_bpffs(Path::new(BPFFS)) {
        return Err(PinsError::NotInBpffs { path: root.to_owned() });
    }
    rustix::mount::mount("bpf", BPFFS, "bpf", rustix::mount::MountFlags::empty(), None)
        .map_err(|errno| refused(errno.into()))?;
    tracing::info!("mounted bpffs at {BPFFS}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_looked_through_twice_after_each_change_and_not_again() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        fs::write(&first, "").unwrap();
        let mut changes = Changes::default();
        let mut looks = || [(); 4].map(|()| changes.are_possible(directory.path()));
        assert_eq!(looks(), [true, true, false, false]);
        // So that the clock of the time stamps has gone on, whatever its tick.
        let before = fs::metadata(directory.path()).unwrap().modified().unwrap();
        while fs::metadata(directory.path()).unwrap().modified().unwrap() == before {
            fs::write(&second, "").unwrap();
            fs::remove_file(&second).unwrap();
        }
        assert_eq!(looks(), [true, true, false, false]);
        fs::remove_dir_all(directory.path()).unwrap();
        assert_eq!(looks(), [true; 4], "it is gone");
    }
}
