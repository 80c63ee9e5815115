//! The keeper's own process.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::PathBuf,
};

use rustix::net::{SocketAddrUnix, SocketFlags, accept_with, getsockname, sockopt::socket_peercred};

use super::wire::{Answer, Request, receive, send};

/// The most descriptors that are kept: more than a daemon can have groups and addresses for.
const KEPT_MAX: usize = 65_536;

/// Keeps, until it is told to end or has nothing left to keep. The listening socket is its standard input.
///
/// One daemon at a time is served: the next has its turn when the connection of the one before ends, with its process.
pub fn keep() -> io::Result<()> {
    // A session of its own: no terminal's signal ends it, as it would the daemon.
    let _ = rustix::process::setsid();
    // SAFETY: standard input is open, as whoever starts a keeper makes it; nothing else in this process uses it.
    let listener = unsafe { OwnedFd::from_raw_fd(0) };
    let place = Place::of(&listener);
    let result = serve_all(&listener);
    // Its socket's path leads nowhere before any connection, accepted or not, is closed: whoever is hung up on can start another.
    if let Some(place) = place.filter(Place::is_own) {
        let _ = fs::remove_file(place.path);
    }
    // The kernel closes it: the daemon waits for the end of the process.
    result.map(std::mem::forget)
}

/// Where the keeper's socket is, in the file system.
struct Place {
    path: PathBuf,
    inode: u64,
}

impl Place {
    /// Nothing where the socket has no path.
    fn of(listener: &OwnedFd) -> Option<Self> {
        let address = SocketAddrUnix::try_from(getsockname(listener).ok()?).ok()?;
        let path = PathBuf::from(OsStr::from_bytes(address.path_bytes()?));
        let inode = fs::symlink_metadata(&path).ok()?.ino();
        Some(Self { path, inode })
    }

    /// Whether the path leads to it still, and not to another keeper's socket.
    fn is_own(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }
}

/// Serves one daemon after another, until another keeper has its place: a daemon that had waited in vain for an answer has
/// given what was kept to that, and nobody would ever ask this one for it. Returns the connection of the last daemon.
pub(super) fn serve_all(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let place = Place::of(listener);
    let is_replaced = || place.as_ref().is_some_and(|place| !place.is_own());
    let mut kept = BTreeMap::new();
    loop {
        let peer = accept_with(listener, SocketFlags::CLOEXEC)?;
        let own = rustix::process::geteuid();
        if !socket_peercred(&peer).is_ok_and(|peer| peer.uid == own || peer.uid.is_root()) {
            continue;
        }
        match serve(peer.as_fd(), &mut kept) {
            Ok(Ended::Told) => return Ok(peer),
            // A daemon that was killed may leave anything behind but an orderly end.
            Ok(Ended::Gone) | Err(_) if kept.is_empty() || is_replaced() => return Ok(peer),
            Ok(Ended::Gone) | Err(_) => {}
        }
    }
}

enum Ended {
    Told,
    Gone,
}

fn serve(peer: BorrowedFd<'_>, kept: &mut BTreeMap<String, OwnedFd>) -> io::Result<Ended> {
    while let Some((bytes, descriptor)) = receive(peer)? {
        let answer = match (Request::decode(&bytes), descriptor) {
            (Some(Request::Keep(name)), Some(descriptor)) if kept.len() < KEPT_MAX => {
                kept.insert(name, descriptor);
                Answer::Done
            }
            (Some(Request::Drop(name)), None) => {
                kept.remove(&name);
                Answer::Done
            }
            (Some(Request::List), None) => {
                for (name, descriptor) in &*kept {
                    send(peer, &Answer::Kept(name.clone()).encode(), Some(descriptor.as_fd()))?;
                }
                Answer::Done
            }
            (Some(Request::End), None) => {
                send(peer, &Answer::Done.encode(), None)?;
                return Ok(Ended::Told);
            }
            _ => Answer::Refused,
        };
        send(peer, &answer.encode(), None)?;
    }
    Ok(Ended::Gone)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use rustix::net::{AddressFamily, SocketType, bind, connect, listen, socket};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn bound(address: &SocketAddrUnix) -> OwnedFd {
        let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        bind(&listener, address).unwrap();
        listen(&listener, 1).unwrap();
        listener
    }

    #[test]
    fn a_keeper_whose_place_another_has_taken_ends_with_its_daemon_s_connection() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keeper");
        let address = SocketAddrUnix::new(&path).unwrap();
        let listener = bound(&address);
        let (ending, ended) = mpsc::channel();
        thread::spawn(move || ending.send(serve_all(&listener).map(drop)));
        let connect_and_keep = || {
            let daemon = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            connect(&daemon, &address).unwrap();
            let kept = fs::File::open("/dev/null").unwrap();
            send(&daemon, &Request::Keep("a".to_owned()).encode(), Some(kept.as_fd())).unwrap();
            let (answer, _) = receive(&daemon).unwrap().unwrap();
            assert_eq!(Answer::decode(&answer), Some(Answer::Done));
            daemon
        };
        // While the place is its own, it goes on to keep what it has for the next daemon.
        drop(connect_and_keep());
        let daemon = connect_and_keep();
        fs::remove_file(&path).unwrap();
        let _another = bound(&address);
        drop(daemon);
        ended.recv_timeout(SOON).expect("it ends").unwrap();
    }
}
