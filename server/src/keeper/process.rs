//! The keeper's own process.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
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
    let result = serve_all(&listener);
    // Its socket's path leads nowhere from here on.
    if let Ok(Some(path)) = getsockname(&listener).map(SocketAddrUnix::try_from).map(Result::ok)
        && let Some(path) = path.path_bytes()
    {
        let _ = rustix::fs::unlink(path);
    }
    result
}

/// Serves one daemon after another.
pub(super) fn serve_all(listener: &OwnedFd) -> io::Result<()> {
    let mut kept = BTreeMap::new();
    loop {
        let peer = accept_with(listener, SocketFlags::CLOEXEC)?;
        let own = rustix::process::geteuid();
        if !socket_peercred(&peer).is_ok_and(|peer| peer.uid == own || peer.uid.is_root()) {
            continue;
        }
        match serve(peer.as_fd(), &mut kept) {
            Ok(Ended::Told) => return Ok(()),
            // A daemon that was killed may leave anything behind but an orderly end.
            Ok(Ended::Gone) | Err(_) if kept.is_empty() => return Ok(()),
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
