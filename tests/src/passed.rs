//! Descriptors that are passed to those who do not want them.

use std::{
    io::{self, IoSlice, Write},
    mem::MaybeUninit,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use socket2::SockRef;

/// How long the last close of a [`Lingering`] socket waits: longer than a test may take to see that nobody waits for it.
pub const LINGER: Duration = Duration::from_secs(60);

/// A TCP socket whose last close waits, for what its peer does not read.
#[derive(Debug)]
pub struct Lingering {
    socket: OwnedFd,
    peer: TcpStream,
}

impl Lingering {
    /// Makes one, in the calling thread's namespace.
    #[track_caller]
    pub fn make() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let mut socket = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let (peer, _) = listener.accept().expect("one has connected");
        socket.set_nonblocking(true).expect("a socket can be set up");
        while socket.write(&[0; 65_536]).is_ok() {}
        SockRef::from(&socket).set_linger(Some(LINGER)).expect("a socket can be set up");
        Self { socket: socket.into(), peer }
    }

    /// Sends bytes over a unix socket and the socket with them: its last close is the receiver's. Gives its peer, which lets it go
    /// on once it is dropped.
    pub fn pass(self, over: impl AsFd, bytes: &[u8]) -> io::Result<TcpStream> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [self.socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for one");
        match sendmsg(over, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()) {
            Ok(_) => Ok(self.peer),
            Err(error) => {
                // Else it is we who wait.
                SockRef::from(&self.socket).set_linger(None)?;
                Err(error.into())
            }
        }
    }
}
