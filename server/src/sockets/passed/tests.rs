//! Descriptors whose close takes long, passed to those who do not want them.

use std::{
    io::{self, IoSlice, Write},
    mem::MaybeUninit,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixDatagram, UnixStream},
    },
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use socket2::SockRef;

use super::*;

/// How long the close of a [`lingering`] socket waits: longer than any test.
pub(crate) const LINGER: Duration = Duration::from_secs(60);
/// Far from it.
const SOON: Duration = Duration::from_secs(20);

/// A socket whose last close waits for its peer, which is to be kept and does not read.
pub(crate) fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 65_536]).is_ok() {}
    SockRef::from(&socket).set_linger(Some(LINGER)).unwrap();
    (socket.into(), peer)
}

/// Has a socket that refuses descriptors take them again, as all do on kernels before 6.16.
pub(crate) fn take_again(socket: impl AsFd) {
    refusal::set_takes_rights(socket, true).unwrap();
}

/// One end of a pipe whose other end is closed.
pub(crate) fn pipe_end() -> OwnedFd {
    rustix::pipe::pipe().unwrap().1
}

/// Sends bytes over a unix socket, and a descriptor with them.
pub(crate) fn pass(socket: impl AsFd, bytes: &[u8], descriptor: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Runs in a thread of its own, and says whether that ended soon. One that does not is left behind.
fn ends_soon(act: impl FnOnce() + Send + 'static) -> bool {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        act();
        let _ = done.send(());
    });
    is_done.recv_timeout(Duration::from_millis(500)).is_ok()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What the others are tested against: without it they would show nothing.
#[test]
fn a_lingering_socket_keeps_who_closes_it() {
    let (socket, peer) = lingering();
    assert!(!ends_soon(move || drop(socket)), "its close waits");
    drop(peer);
    let (socket, _peer) = lingering();
    let (ours, theirs) = UnixStream::pair().unwrap();
    pass(&theirs, b"x", &socket).unwrap();
    drop(socket);
    assert!(!ends_soon(move || drop(ours)), "so does the close of a socket that it was passed to");
}

#[test]
fn the_sender_of_what_cannot_be_closed_waits_and_no_other_does() {
    let closer = Closer::start().unwrap();
    let (hostile, other) = (closer.sender(), closer.sender());
    let (socket, peer) = lingering();
    // A copy of the sender's, with which it undoes what was done about the socket, so that the last close waits all the same.
    let copy = socket.try_clone().unwrap();
    hostile.close(vec![socket]);
    SockRef::from(&copy).set_linger(Some(LINGER)).unwrap();
    hostile.close_as_they_are(vec![copy]);
    hostile.close((0..300).map(|_| pipe_end()).collect());
    other.close(vec![pipe_end()]);
    until("the other's is closed", || other.is_idle());
    assert!(hostile.is_full());
    drop(peer);
    until("the peer's end lets all go on", || hostile.is_idle());
}

#[test]
fn the_last_close_of_a_socket_with_what_was_never_read_is_elsewhere() {
    let closer = Closer::start().unwrap();
    let (socket, _peer) = lingering();
    let (ours, theirs) = UnixStream::pair().unwrap();
    pass(&theirs, b"x", &socket).unwrap();
    drop(socket);
    let last = ClosedElsewhere::new(&ours, closer.sender()).unwrap();
    assert!(ends_soon(move || {
        drop(ours);
        drop(last);
    }));
}

#[test]
fn a_read_brings_bytes_sender_and_descriptors() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    SockRef::from(&ours).set_passcred(true).unwrap();
    pass(&theirs, b"READY=1", &pipe_end()).unwrap();
    let mut bytes = [0; 5];
    let received = receive(&ours, &mut bytes).unwrap();
    assert_eq!((&bytes, received.length, received.is_cut), (b"READY", 5, true));
    assert_eq!(received.sender.unwrap().pid.unsigned_abs(), std::process::id());
    assert_eq!(received.descriptors.len(), 1);
    let none = receive(&ours, &mut bytes).unwrap_err();
    assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_peek_brings_bytes_and_sender_and_leaves_the_descriptors() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    SockRef::from(&ours).set_passcred(true).unwrap();
    pass(&theirs, b"READY=1", &pipe_end()).unwrap();
    theirs.send(b"STATUS=after").unwrap();
    let mut bytes = [0; 7];
    for _ in 0..2 {
        let peeked = peek(&ours, &mut bytes).unwrap();
        assert_eq!((&bytes, peeked.length, peeked.is_cut), (b"READY=1", 7, false));
        assert_eq!(peeked.sender.unwrap().pid.unsigned_abs(), std::process::id());
        assert!(peeked.descriptors.is_empty());
    }
    let received = receive(&ours, &mut bytes).unwrap();
    assert_eq!((&bytes, received.descriptors.len()), (b"READY=1", 1));
    assert!(peek(&ours, &mut bytes).unwrap().is_cut);
    assert_eq!(&bytes, b"STATUS=");
}
