//! Notices that a client has gone while nothing is read from it.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream as BlockingStream},
};

use tokio::{io::Interest, net::UnixStream};

/// Watches a connection for its peer's close.
///
/// The end of the stream is not asked for: a client may have shut down its writing half and still wait for
/// answers (`socat` does). EPOLLHUP tells the two apart, and reading ahead would pull in the client's next calls.
pub(super) struct Hangup(UnixStream);

impl Hangup {
    /// Watches a duplicate of `socket`, a non-blocking one, in the current runtime.
    pub(super) fn new(socket: impl AsFd) -> io::Result<Self> {
        let duplicate = socket.as_fd().try_clone_to_owned()?;
        Ok(Self(UnixStream::from_std(BlockingStream::from(duplicate))?))
    }

    /// Returns when the peer has closed its socket, or the connection has failed. Can be dropped and called again.
    pub(super) async fn gone(&self) {
        // Hang-ups come with any interest, but some interest there must be. An error is the runtime's end.
        while let Ok(ready) = self.0.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() || ready.is_error() {
                return;
            }
            // Forgets that it is writable. Events are edge-triggered, so the next `ready` waits for a change.
            let _ = self.0.try_io(Interest::WRITABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Shutdown, os::unix::net::UnixStream, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_close_is_noticed_and_a_half_close_is_not() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let hangup = Hangup::new(&ours).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), hangup.gone()).await;
        assert!(early.is_err(), "a client that has finished writing still listens");
        drop(theirs);
        tokio::time::timeout(Duration::from_secs(5), hangup.gone()).await.unwrap();
    }
}
