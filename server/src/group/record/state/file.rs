//! Where it is written to and read from.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
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
    /// Something that is no file is in its place, and is not followed.
    #[error("the state in {path} is a {found}, not a file")]
    NotAFile {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
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
            Self::NotAFile { .. } => {
                "nothing but the daemon has to write there: remove it, and end the workers of its group"
            }
            Self::Malformed { .. } => "remove it, after ending the workers that it tells of",
            Self::OtherVersion { .. } => {
                "run the version that wrote it once more and give its groups back with `steer release --all`; they go on serving meanwhile"
            }
        }
    }
}

/// The directory of a daemon's states, beside its control socket.
pub(crate) fn directory_beside(control: &Path) -> PathBuf {
    let mut path = control.as_os_str().to_owned();
    path.push(".state");
    path.into()
}

/// One group's file.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// What was written last, so as not to write the same again.
    written: Mutex<Vec<u8>>,
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
    pub(crate) fn new(directory: &Path, group: &GroupName) -> Result<Self, StateError> {
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
        Ok(Self { path: directory.join(format!("{group}.json")), written: Mutex::default() })
    }

    /// Removes the directory where it holds nothing: a start that fails leaves nothing behind.
    pub(crate) fn leave(&self) {
        // There are files of other groups in it, or it is gone already.
        let _ = self.path.parent().map(fs::remove_dir);
    }

    /// The groups that have a file in a directory.
    pub(crate) fn groups(directory: &Path) -> Vec<GroupName> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let name = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok();
        entries.filter_map(name).collect()
    }

    /// Writes it, whole: whoever reads finds the state before or this one.
    ///
    /// It is not forced to the disk: it has to outlive a process, and means nothing after the next boot.
    pub(crate) fn write(&self, saved: &Saved) -> Result<(), StateError> {
        let failed =
            |operation| move |source| StateError::System { operation, path: self.path.clone(), source };
        let bytes = serde_json::to_vec(saved).map_err(|error| failed("put together")(error.into()))?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes == *written {
            return Ok(());
        }
        let aside = self.path.with_extension("json.new");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&aside).map_err(failed("write"))?;
        file.write_all(&bytes).map_err(failed("write"))?;
        fs::rename(&aside, &self.path).map_err(failed("replace"))?;
        *written = bytes;
        Ok(())
    }

    /// Reads what was saved in this boot; nothing where nothing was.
    pub(crate) fn read(&self, boot: &str) -> Result<Option<Saved>, StateError> {
        let failed =
            |operation| move |source| StateError::System { operation, path: self.path.clone(), source };
        let found = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(failed("look at"))?,
        };
        if !found.is_file() {
            let found = if found.is_symlink() { "symbolic link" } else { "special file or directory" };
            return Err(StateError::NotAFile { path: self.path.clone(), found });
        }
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        if owner != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
            return Err(StateError::NotOurs { path: self.path.clone(), owner, mode });
        }
        if found.len() > SIZE_MAX {
            return Err(failed("read")(io::ErrorKind::FileTooLarge.into()));
        }
        let bytes = fs::read(&self.path).map_err(failed("read"))?;
        let saved = understand(&bytes, &self.path)?;
        Ok(Some(saved).filter(|saved| saved.boot == boot))
    }

    /// Removes it, with the group.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::System { operation: "remove", path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// The state that the bytes are. Another version's is not read beyond that.
pub(super) fn understand(bytes: &[u8], path: &Path) -> Result<Saved, StateError> {
    let malformed = |source| StateError::Malformed { path: path.to_owned(), source };
    let Version { format, maps, version } = serde_json::from_slice(bytes).map_err(malformed)?;
    if (format, maps) != (u64::from(FORMAT), u64::from(MAPS)) {
        return Err(StateError::OtherVersion { path: path.to_owned(), version, format, maps });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{
        config,
        daemon::rules::rules,
        engine::{event::Event, group::Group},
        group::totals::Totals,
    };

    fn saved() -> Saved {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("steer.toml");
        fs::write(&file, "[[group]]\nname = 'web'\nlisten = ['127.0.0.1:80']\nworkers = { count = 3 }\n")
            .unwrap();
        let settings = config::load(&file).unwrap().groups.remove(0);
        let mut engine = Group::new(rules(&settings, [1, 2]));
        engine.handle(5, Event::Tick);
        engine.handle(6, Event::HoldMade { slot: engine.hold_slots()[0] });
        Saved {
            format: FORMAT,
            maps: MAPS,
            version: "0.1.0".to_owned(),
            boot: "this".to_owned(),
            settings: settings.into(),
            engine: engine.into(),
            addresses: Vec::new(),
            holders: Vec::new(),
            processes: Vec::new(),
            totals: (&Totals::default()).into(),
            strangers: 0,
            last_operation: 7,
            last_event: 9,
        }
    }

    #[test]
    fn what_was_written_is_read_in_the_same_boot() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("state");
        let saved = saved();
        let file = StateFile::new(&directory, &saved.settings.name).unwrap();
        assert_eq!(file.read("this").unwrap(), None);
        file.write(&saved).unwrap();
        assert_eq!(StateFile::groups(&directory), std::slice::from_ref(&saved.settings.name));
        let read = file.read("this").unwrap().unwrap();
        assert_eq!((&read.settings, read.last_operation), (&saved.settings, 7));
        // What is worked out anew is not in the file.
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&saved).unwrap());
        assert_eq!(file.read("another").unwrap(), None);
        file.leave();
        assert_eq!(StateFile::groups(&directory).len(), 1, "it is not empty");
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(StateFile::groups(&directory), []);
        file.leave();
        assert!(!directory.exists());
    }

    #[test]
    fn another_versions_file_and_what_is_none_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("state");
        let saved = saved();
        let file = StateFile::new(&directory, &saved.settings.name).unwrap();
        let mut value = serde_json::to_value(&saved).unwrap();
        value["maps"] = (MAPS + 1).into();
        value["engine"] = "of another shape".into();
        fs::write(&file.path, value.to_string()).unwrap();
        let error = file.read("this").unwrap_err();
        assert!(matches!(&error, StateError::OtherVersion { version, .. } if version == "0.1.0"), "{error}");
        let begun = format!("{{\"format\":{FORMAT}}}");
        let cut_off = format!("{{\"format\":{FORMAT},\"maps\":{MAPS},\"version\":\"x\"}}");
        for text in ["", "{", "[]", &begun, &cut_off] {
            fs::write(&file.path, text).unwrap();
            assert!(matches!(file.read("this"), Err(StateError::Malformed { .. })), "{text}");
        }
        fs::remove_file(&file.path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &file.path).unwrap();
        assert!(matches!(file.read("this"), Err(StateError::NotAFile { found: "symbolic link", .. })));
        fs::remove_file(&file.path).unwrap();
        file.write(&saved).unwrap();
        fs::set_permissions(&file.path, fs::Permissions::from_mode(0o606)).unwrap();
        assert!(matches!(file.read("this"), Err(StateError::NotOurs { mode: 0o606, .. })));
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(StateFile::new(&directory, &saved.settings.name), Err(StateError::NotOurs { .. })));
    }
}
