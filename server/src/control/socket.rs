//! The control socket's place in the file system: its directory, its lock, its mode, its end.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use thiserror::Error;

use super::{lock, unix_group};
use crate::sockets::passed;

/// The longest path that fits into `sun_path` with its final NUL.
const PATH_MAX: usize = 107;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// The bound control socket, the only one at its path: a lock beside it keeps a second daemon out.
///
/// Dropping it removes the socket from the file system and lets the lock go. The lock's file stays: removing it
/// would let two daemons hold two locks of the same name.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    directory: OwnedFd,
    listener: UnixListener,
    /// Device and inode of the socket that was bound here, so that no other is removed.
    identity: (u64, u64),
    /// Held for as long as this value lives.
    _lock: fs::File,
}

/// Why the control socket could not be bound.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon holds the lock.
    #[error("a daemon already runs at {}{}", path.display(), process(*pid))]
    AlreadyRuns {
        /// The socket's path.
        path: PathBuf,
        /// The process that holds the lock, where it has said so.
        pid: Option<u32>,
    },
    /// A program that does not take the lock listens there.
    #[error("{} is in use: some other program listens there", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something that is no socket is there; it is left alone.
    #[error("{} is a {found}, not a socket", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The path does not fit into a socket address.
    #[error("{} is {length} bytes long; a socket's path has at most {PATH_MAX}", path.display())]
    TooLong {
        /// The socket's path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// A system call failed.
    #[error("cannot {operation} {}", path.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

impl BindError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::AlreadyRuns { .. } => {
                Some("end it with `steer stop`, or choose another path with --socket".to_owned())
            }
            Self::InUse { .. } | Self::TooLong { .. } => Some("choose another path with --socket".to_owned()),
            Self::NotASocket { found: "symbolic link", .. } => {
                Some("symbolic links are not followed: name the place itself with --socket".to_owned())
            }
            Self::NotASocket { .. } => Some("remove it, or choose another path with --socket".to_owned()),
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as root, or choose a path of your own with --socket".to_owned())
            }
            Self::System { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("make the directory above it first".to_owned())
            }
            Self::System { .. } => None,
        }
    }
}

impl ControlSocket {
    /// Takes the lock `PATH.lock`, then binds and listens at `path`.
    ///
    /// Makes the directory (0755) where it is missing, and replaces a socket that nobody listens on any more. The
    /// socket has mode 0660 and, where it exists and may be given, the group `steer`; nobody can connect before it
    /// has them. Symbolic links are refused, for the directory, the lock and the socket.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let length = path.as_os_str().len();
        if length > PATH_MAX {
            return Err(BindError::TooLong { path: path.to_owned(), length });
        }
        let system = |operation, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| BindError::System { operation, path, source }
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from(Errno::ISDIR))
            .map_err(system("bind the socket", path))?;

        let directory = open_directory(parent)?;
        let mut lock_name = name.to_owned();
        lock_name.push(".lock");
        let lock = lock::take(&directory, Path::new(&lock_name), path)?;
        remove_stale(&directory, Path::new(name), path)?;

        let socket = stream_socket().map_err(|errno| system("make a socket for", path)(errno.into()))?;
        SocketAddrUnix::new(path)
            .and_then(|address| rustix::net::bind(&socket, &address))
            .map_err(|errno| system("bind the socket", path)(errno.into()))?;
        // Between bind and listen nobody can connect, so the mode is right from the first connection on.
        set_owner_and_mode(&directory, Path::new(name))
            .map_err(|errno| system("set the mode of", path)(errno.into()))?;
        let stat = rustix::fs::statat(&directory, Path::new(name), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| system("look at", path)(errno.into()))?;
        // No method takes descriptors, and to close them may take as long as their sender likes.
        passed::refuse(&socket).map_err(system("set up the socket", path))?;
        rustix::net::listen(&socket, BACKLOG).map_err(|errno| system("listen at", path)(errno.into()))?;
        Ok(Self {
            path: path.to_owned(),
            directory,
            listener: UnixListener::from(socket),
            identity: (stat.st_dev, stat.st_ino),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, non-blocking; for the server, which hands it to its runtime.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // `bind` has refused a path without a last part.
        let Some(name) = self.path.file_name().map(Path::new) else { return };
        let Ok(stat) = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        if (stat.st_dev, stat.st_ino) == self.identity
            && let Err(errno) = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())
        {
            tracing::warn!(path = %self.path.display(), %errno, "cannot remove the socket");
        }
    }
}

fn open_directory(parent: &Path) -> Result<OwnedFd, BindError> {
    let system = |operation, source| BindError::System { operation, path: parent.to_owned(), source };
    match fs::DirBuilder::new().mode(0o755).create(parent) {
        // The umask may have taken bits away that members of the group `steer` need.
        Ok(()) => fs::set_permissions(parent, fs::Permissions::from_mode(0o755))
            .map_err(|source| system("set the mode of", source))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(system("make the directory", source)),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(directory) => Ok(directory),
        // ENOTDIR is the answer to O_DIRECTORY with O_NOFOLLOW on a link, and to anything else that is no directory.
        Err(Errno::NOTDIR | Errno::LOOP) if parent.is_symlink() => {
            Err(BindError::NotASocket { path: parent.to_owned(), found: "symbolic link" })
        }
        Err(errno) => Err(system("open the directory", errno.into())),
    }
}

/// Removes what a daemon that was killed has left; the lock is held, so no living daemon's socket is touched.
fn remove_stale(directory: &OwnedFd, name: &Path, path: &Path) -> Result<(), BindError> {
    let system = |operation, source| BindError::System { operation, path: path.to_owned(), source };
    let found = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(system("look at", errno.into())),
    };
    let found = match found {
        FileType::Socket => match try_connect(path) {
            // EAGAIN: there is a listener, and its backlog is full.
            Ok(()) | Err(Errno::AGAIN) => return Err(BindError::InUse { path: path.to_owned() }),
            Err(Errno::CONNREFUSED) => {
                return rustix::fs::unlinkat(directory, name, AtFlags::empty())
                    .map_err(|errno| system("remove the stale socket", errno.into()));
            }
            Err(errno) => return Err(system("find out who listens at", errno.into())),
        },
        FileType::Symlink => "symbolic link",
        FileType::Directory => "directory",
        FileType::RegularFile => "file",
        _ => "special file",
    };
    Err(BindError::NotASocket { path: path.to_owned(), found })
}

/// Whether somebody listens. It does not block, as a connect to a listener with a full backlog otherwise would.
fn try_connect(path: &Path) -> Result<(), Errno> {
    rustix::net::connect(stream_socket()?, &SocketAddrUnix::new(path)?)
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn set_owner_and_mode(directory: &OwnedFd, name: &Path) -> Result<(), Errno> {
    match unix_group::number_of(unix_group::READERS) {
        Ok(Some(gid)) => {
            let group = Some(Gid::from_raw(gid));
            match rustix::fs::chownat(directory, name, None, group, AtFlags::SYMLINK_NOFOLLOW) {
                // A daemon without privilege may give it only to groups of its own.
                Err(Errno::PERM) => tracing::warn!("the control socket cannot be given to the group steer"),
                other => other?,
            }
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the group steer cannot be looked up"),
    }
    rustix::fs::chmodat(directory, name, Mode::from_raw_mode(0o660), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt, net::UnixStream};

    use super::*;

    #[test]
    fn it_is_bound_with_its_mode_and_gone_after_drop() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run/steer.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        assert_eq!(fs::metadata(place.path().join("run")).unwrap().mode() & 0o7777, 0o755);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
        ControlSocket::bind(&path).unwrap();
    }

    #[test]
    fn a_second_daemon_is_refused_and_told_who_is_first() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("steer.sock");
        let first = ControlSocket::bind(&path).unwrap();
        let error = ControlSocket::bind(&path).unwrap_err();
        let own = std::process::id();
        assert!(matches!(&error, BindError::AlreadyRuns { pid: Some(pid), .. } if *pid == own));
        assert_eq!(error.to_string(), format!("a daemon already runs at {} (pid {own})", path.display()));
        assert!(error.hint().unwrap().contains("steer stop"));
        assert!(path.exists(), "the refusal left the first one's socket alone");
        drop(first);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("steer.sock");
        let other = UnixListener::bind(&path).unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(BindError::InUse { .. })));
        drop(other);
        assert!(path.exists());
        ControlSocket::bind(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("steer.sock");
        fs::write(&path, "precious").unwrap();
        let error = ControlSocket::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { found: "file", .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn symbolic_links_are_refused_wherever_they_are() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("target");
        fs::create_dir(&target).unwrap();
        let link = |name: &str, to: &Path| {
            let path = place.path().join(name);
            std::os::unix::fs::symlink(to, &path).unwrap();
            path
        };
        let socket = link("a.sock", &target.join("victim"));
        link("b.sock.lock", &target.join("victim"));
        let directory = link("run", &target);
        for path in [socket, place.path().join("b.sock"), directory.join("c.sock")] {
            let error = ControlSocket::bind(&path).unwrap_err();
            assert!(matches!(error, BindError::NotASocket { found: "symbolic link", .. }), "{error}");
            assert!(error.hint().unwrap().contains("not followed"));
        }
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "nothing was made through the links");
    }

    #[test]
    fn a_path_that_is_too_long_or_has_no_directory_says_so() {
        let long = Path::new("/tmp").join("x".repeat(120));
        assert!(matches!(ControlSocket::bind(&long), Err(BindError::TooLong { length: 125, .. })));
        let place = tempfile::tempdir().unwrap();
        let error = ControlSocket::bind(&place.path().join("a/b/steer.sock")).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("make the directory above it first"));
    }

    #[test]
    fn dropping_leaves_a_socket_that_another_has_put_there() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("steer.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
