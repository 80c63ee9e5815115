//! The lock beside the control socket: one daemon at a path.

use std::{
    fs,
    io::{Read, Seek, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
    time::Timespec,
};

use super::socket::BindError;
use crate::sockets::pidfd;

/// How long to wait for a lock whose daemon has ended. A worker that it had forked and not yet let go to its `exec` has
/// the lock, too, and ends when it sees that nobody will: at once, where it gets a processor.
const LEFT_BEHIND_MAX: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);

/// Takes the lock `name` in the directory, for the daemon whose socket is `socket`; it is held until the file is closed.
///
/// # Errors
/// [`BindError::AlreadyRuns`] where another process has it, with the number that it has written there where that one runs.
pub(super) fn take(directory: &OwnedFd, name: &Path, socket: &Path) -> Result<fs::File, BindError> {
    let path = socket.with_file_name(name);
    let system = |operation, source| BindError::System { operation, path: path.clone(), source };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut lock = match rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(lock) => fs::File::from(lock),
        Err(Errno::LOOP) => return Err(BindError::NotASocket { path, found: "symbolic link" }),
        Err(errno) => return Err(system("open the lock", errno.into())),
    };
    let since = Instant::now();
    while let Err(errno) = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        if errno != Errno::WOULDBLOCK {
            return Err(system("take the lock", errno.into()));
        }
        // Not one that has ended: what holds the lock then has not said who it is.
        let pid = holder(&mut lock).filter(|pid| is_running(*pid));
        if pid.is_some() || since.elapsed() >= LEFT_BEHIND_MAX {
            return Err(BindError::AlreadyRuns { path: PathBuf::from(socket), pid });
        }
        thread::sleep(PAUSE);
    }
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .map_err(|source| system("write to the lock", source))?;
    Ok(lock)
}

/// The process that has written its number into the lock. It may not have come to that yet, or have no right to say.
fn holder(lock: &mut fs::File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().and_then(|()| lock.read_to_string(&mut text)).ok()?;
    text.trim().parse().ok()
}

fn is_running(pid: u32) -> bool {
    let Ok(process) = pidfd::open(pid) else { return false };
    // Readable once it has ended, also where nobody has waited for it yet.
    matches!(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&Timespec::default())), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_lock_that_a_dead_daemon_has_left_with_a_child_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let (name, socket) = (Path::new("steer.sock.lock"), place.path().join("steer.sock"));
        let directory = OwnedFd::from(fs::File::open(place.path()).unwrap());
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        fs::write(place.path().join(name), format!("{}\n", ended.id())).unwrap();
        let left = fs::File::open(place.path().join(name)).unwrap();
        rustix::fs::flock(&left, FlockOperation::NonBlockingLockExclusive).unwrap();
        thread::scope(|scope| {
            let next = scope.spawn(|| take(&directory, name, &socket));
            while !next.is_finished() && opened(&place.path().join(name)) < 2 {
                thread::yield_now();
            }
            drop(left);
            next.join().unwrap().unwrap();
        });
        let own = fs::read_to_string(place.path().join(name)).unwrap();
        assert_eq!(own, format!("{}\n", std::process::id()));
    }

    /// How many descriptors of this process are of the file.
    fn opened(path: &Path) -> usize {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        descriptors
            .filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|file| file == path))
            .count()
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_runs_no_more() {
        assert!(is_running(std::process::id()));
        let mut child = Command::new("true").spawn().unwrap();
        let process = pidfd::open(child.id()).unwrap();
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
        assert!(!is_running(child.id()));
        child.wait().unwrap();
        assert!(!is_running(child.id()));
    }
}
