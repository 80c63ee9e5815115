//! Where it is written to and read from.

use std::{
    cell::RefCell,
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::names::GroupName;

use super::saved::{FORMAT, MAPS, Saved};

/// A larger file is nobody's state, in bytes: 1,024 workers, each with two generations, take a quarter of it.
const SIZE_MAX: u64 = 16 << 20;

/// The state could not be written or read.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file system refused.
    #[error("cannot {operation} the state in {path}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else may write there.
    #[error("the state in {path} is not this user's alone (owner {owner}, mode {mode:o})")]
    NotOurs {
        /// Where.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// It is no state.
    #[error("the state in {path} cannot be understood")]
    Malformed {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It is of another version of this program.
    #[error(
        "the state in {path} is of steer {version} (format {format}, maps {maps}), and this one reads format {FORMAT} with maps {MAPS}"
    )]
    OtherVersion {
        /// Where.
        path: PathBuf,
        /// Who wrote it.
        version: String,
        /// The version of the file's shape.
        format: u64,
        /// The version of the maps'.
        maps: u64,
    },
}

impl StateError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::System { .. } => "the directory must be writable, and its disk not full",
            Self::NotOurs { .. } => {
                "give it to the daemon's user with mode 700, or remove it: its groups then have to be stopped by hand"
            }
            Self::Malformed { .. } => "remove it, after ending the workers that it tells of",
            Self::OtherVersion { .. } => {
                "run the version that wrote it once more and give its groups back with `steer release --all`; they go on serving meanwhile"
            }
        }
    }
}

/// The directory of a daemon's states, beside its control socket.
pub(in crate::daemon) fn directory_beside(control: &Path) -> PathBuf {
    let mut path = control.as_os_str().to_owned();
    path.push(".state");
    path.into()
}

/// One group's file.
#[derive(Debug)]
pub(in crate::daemon) struct StateFile {
    path: PathBuf,
    /// What was written last, so as not to write the same again.
    written: RefCell<Vec<u8>>,
}

/// Just enough of any version's file to say which it is.
#[derive(serde::Deserialize)]
struct Version {
    format: u64,
    maps: u64,
    version: String,
}

impl StateFile {
    /// A group's file in a directory, which is made where it is missing.
    pub(in crate::daemon) fn new(directory: &Path, group: &GroupName) -> Result<Self, StateError> {
        let failed =
            |operation| move |source| StateError::System { operation, path: directory.to_owned(), source };
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make")(error)),
            _ => {}
        }
        let found = fs::symlink_metadata(directory).map_err(failed("look at"))?;
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        if !found.is_dir() || owner != rustix::process::geteuid().as_raw() || mode & 0o077 != 0 {
            return Err(StateError::NotOurs { path: directory.to_owned(), owner, mode });
        }
        Ok(Self { path: directory.join(format!("{group}.json")), written: RefCell::default() })
    }

    /// The groups that have a file in a directory.
    pub(in crate::daemon) fn groups(directory: &Path) -> Vec<GroupName> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let name = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok();
        entries.filter_map(name).collect()
    }

    /// Writes it, whole: whoever reads finds the state before or this one.
    ///
    /// It is not forced to the disk: it has to outlive a process, and means nothing after the next boot.
    pub(in crate::daemon) fn write(&self, saved: &Saved) -> Result<(), StateError> {
        let failed =
            |operation| move |source| StateError::System { operation, path: self.path.clone(), source };
        let bytes = serde_json::to_vec(saved).map_err(|error| failed("put together")(error.into()))?;
        if bytes == *self.written.borrow() {
            return Ok(());
        }
        let aside = self.path.with_extension("json.new");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&aside).map_err(failed("write"))?;
        file.write_all(&bytes).map_err(failed("write"))?;
        fs::rename(&aside, &self.path).map_err(failed("replace"))?;
        self.written.replace(bytes);
        Ok(())
    }

    /// Reads what was saved in this boot; nothing where nothing was.
    pub(in crate::daemon) fn read(&self, boot: &str) -> Result<Option<Saved>, StateError> {
        let failed =
            |operation| move |source| StateError::System { operation, path: self.path.clone(), source };
        let found = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(failed("look at"))?,
        };
        if !found.is_file() || found.len() > SIZE_MAX {
            return Err(failed("read")(io::ErrorKind::InvalidData.into()));
        }
        let bytes = fs::read(&self.path).map_err(failed("read"))?;
        let saved = understand(&bytes, &self.path)?;
        Ok(Some(saved).filter(|saved| saved.boot == boot))
    }

    /// Removes it, with the group.
    pub(in crate::daemon) fn remove(&self) -> Result<(), StateError> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::System { operation: "remove", path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// The state that the bytes are. Another version's is not read beyond that.
fn understand(bytes: &[u8], path: &Path) -> Result<Saved, StateError> {
    let malformed = |source| StateError::Malformed { path: path.to_owned(), source };
    let Version { format, maps, version } = serde_json::from_slice(bytes).map_err(malformed)?;
    if (format, maps) != (u64::from(FORMAT), u64::from(MAPS)) {
        return Err(StateError::OtherVersion { path: path.to_owned(), version, format, maps });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}
