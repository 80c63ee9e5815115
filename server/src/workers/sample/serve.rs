//! Accepting and serving connections, and ending both without losing a request.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsRawFd, RawFd},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use super::answer::Identity;

/// How long to wait for a connection to end when no more can be accepted for want of descriptors or memory. The
/// kernel tells nobody when there is room again.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// What all connections share.
#[derive(Clone)]
pub(super) struct Shared {
    identity: Arc<Identity>,
    draining: watch::Receiver<bool>,
}

impl Shared {
    pub(super) fn new(identity: Identity, draining: watch::Receiver<bool>) -> Self {
        Self { identity: Arc::new(identity), draining }
    }

    /// Ends when draining begins.
    async fn draining(&mut self) {
        // Its sender lives until every connection has ended, so there is no error.
        let _ = self.draining.wait_for(|draining| *draining).await;
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }
}

/// Every connection holds one until it ends.
pub(super) type Open = mpsc::Sender<Infallible>;

/// What to do after a failed accept.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The next may succeed.
    Next,
    /// There is nothing to take now.
    Empty,
    /// No room: wait for some.
    Full,
    /// The listener has been shut down under this process, or is none.
    Ended,
}

fn classify(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => Failure::Empty,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Failure::Full,
        Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK | libc::EOPNOTSUPP) => Failure::Ended,
        // ECONNABORTED, and the network errors that Linux passes on from the new connection.
        _ => Failure::Next,
    }
}

/// Accepts until draining begins, then what is queued, and closes the listener. Also ends when the listener is shut
/// down, or after `close_after`: then what is queued is left to its fate.
pub(super) async fn accept(listener: TcpListener, shared: Shared, open: Open, close_after: Option<Duration>) {
    let mut drain = shared.clone();
    let mut draining = pin!(drain.draining());
    let mut closing = pin!(async {
        match close_after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    });
    loop {
        tokio::select! {
            biased;
            () = &mut draining => break,
            () = &mut closing => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => start(stream, &shared, &open),
                Err(error) => match classify(&error) {
                    Failure::Next | Failure::Empty => {}
                    Failure::Full => tokio::time::sleep(FULL_PAUSE).await,
                    Failure::Ended => return,
                },
            },
        }
    }
    accept_queued(listener, &shared, &open).await;
}

/// Accepts all that the kernel has queued. Through the plain listener: tokio's knows only of what its poller was
/// told, which may be less.
async fn accept_queued(listener: TcpListener, shared: &Shared, open: &Open) {
    let Ok(listener) = listener.into_std() else { return };
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                if let Ok(stream) = stream {
                    start(stream, shared, open);
                }
            }
            Err(error) => match classify(&error) {
                Failure::Next => {}
                Failure::Full => tokio::time::sleep(FULL_PAUSE).await,
                Failure::Empty | Failure::Ended => return,
            },
        }
    }
}

fn start(stream: TcpStream, shared: &Shared, open: &Open) {
    tokio::spawn(serve(stream, shared.clone(), open.clone()));
}

/// Serves one connection to its end. Once draining has begun its next answer is its last.
async fn serve(stream: TcpStream, mut shared: Shared, _open: Open) {
    let descriptor = stream.as_raw_fd();
    let asked = AtomicBool::new(false);
    let answering = shared.clone();
    let service = service_fn(|request| {
        asked.store(true, Ordering::Relaxed);
        answering.identity.answer(request, || answering.is_draining())
    });
    let mut builder = http1::Builder::new();
    // Without a timer there is none, and no slow client is held against anybody here.
    builder.header_read_timeout(None).pipeline_flush(true);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        biased;
        // A client that breaks off is its own affair.
        _ = connection.as_mut() => return,
        () = shared.draining() => {}
    }
    // A connection that was asked nothing yet has its request on the way: a client connects in order to ask. An idle
    // one that was asked before is closed, unless its next request is here already; `Connection: close` then goes with
    // the answer. A request that comes just after is lost, as HTTP has it.
    if asked.load(Ordering::Relaxed) && !has_unread(descriptor) {
        connection.as_mut().graceful_shutdown();
    }
    let _ = connection.await;
}

/// Whether the kernel has bytes of this socket that were not read.
fn has_unread(socket: RawFd) -> bool {
    let mut length: libc::c_int = 0;
    // SAFETY: the request writes one int; the descriptor is open, since its connection has not ended.
    unsafe { libc::ioctl(socket, libc::FIONREAD, &mut length) == 0 && length > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_accept_ends_only_what_has_ended() {
        let of = |errno| classify(&io::Error::from_raw_os_error(errno));
        assert_eq!(of(libc::EINVAL), Failure::Ended);
        assert_eq!(of(libc::ECONNABORTED), Failure::Next);
        assert_eq!(of(libc::EPROTO), Failure::Next);
        assert_eq!(of(libc::EMFILE), Failure::Full);
        assert_eq!(of(libc::EAGAIN), Failure::Empty);
    }
}
