//! Serves the control socket: one task per connection, one per call.
//!
//! Every client is bounded in time and memory, so that none harms another: see [`Limits`]. zlink's own server
//! is not used: it ends a connection without an answer when parameters are wrong, and one client that does not
//! read stalls all. What of zlink is used is in the module `wire`.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    AccessInForce, ControlSocket, Controller,
    api::{Fault, FaultKind},
    connection::Conversation,
    dispatch,
    wire::Link,
};
use crate::sockets::passed::Closer;

/// How much a client may take of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time, with the changes that clients have left running.
    pub connections: usize,
    /// The part of them that clients may have who may not change anything, so that there is always room for root.
    pub readers: usize,
    /// The largest message from a client, in bytes.
    pub message: usize,
    /// How long a message may take to come, or an answer to be read; the time to the next call included.
    pub patience: Duration,
    /// Answers of a changing request that wait for a client to read them; with one more, the client is left.
    pub backlog: usize,
    /// How long changes that are being carried out may still take when the server ends, to give their answers.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            readers: 48,
            message: 64 * 1024,
            patience: Duration::from_secs(30),
            backlog: 4096,
            farewell: Duration::from_secs(5),
        }
    }
}

/// The places that connections have left, shared by all.
#[derive(Debug, Clone)]
struct Places {
    all: Arc<Semaphore>,
    readers: Arc<Semaphore>,
}

/// A connection's place. It is free again when the last clone has gone: a change that goes on without its client
/// keeps the client's.
#[derive(Debug, Clone)]
pub(super) struct Place {
    _permits: Arc<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)>,
}

/// Serves `socket` until `shutdown` completes, within the default [`Limits`].
///
/// At its end, connections without a call are closed, requests that read get their last answer, and changes have
/// [`Limits::farewell`] to finish; then the socket is removed. Descriptors that clients pass go to the `closer`. Fails where the listener cannot join the runtime.
pub async fn serve<C: Controller>(
    socket: ControlSocket,
    controller: C,
    access: impl Into<AccessInForce>,
    closer: &Closer,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_within(Limits::default(), socket, controller, access, closer, shutdown).await
}

/// [`serve`] with other limits.
pub async fn serve_within<C: Controller>(
    limits: Limits,
    socket: ControlSocket,
    controller: C,
    access: impl Into<AccessInForce>,
    closer: &Closer,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener()?)?;
    let places = Places {
        all: Arc::new(Semaphore::new(limits.connections)),
        readers: Arc::new(Semaphore::new(limits.readers)),
    };
    let access: AccessInForce = access.into();
    let (close, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Some((link, place)) = admit(stream, &limits, &access, &places, closer).await {
                        let access = access.clone();
                        let conversation =
                            Conversation { link, controller: controller.clone(), access, place, limits };
                        connections.spawn(conversation.hold(closing.clone()));
                    }
                }
                Err(error) => {
                    // Out of descriptors or memory: the connection stays in the backlog, so accepting again at
                    // once would spin, and there is no event to wait for.
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    close.send_replace(true);
    let ended = timeout(limits.farewell, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if ended.await.is_err() {
        tracing::warn!(left = connections.len(), "control connections did not end in time");
        connections.shutdown().await;
    }
    drop(socket);
    Ok(())
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a control connection ended by a panic");
    }
}

/// Gives the client a place, or tells it that there is none.
async fn admit(
    stream: UnixStream,
    limits: &Limits,
    access: &AccessInForce,
    places: &Places,
    closer: &Closer,
) -> Option<(Link, Place)> {
    let mut link = match Link::new(stream, limits.message, limits.patience, closer).await {
        Ok(link) => link,
        Err(error) => {
            tracing::debug!(%error, "a control client's credentials cannot be had");
            return None;
        }
    };
    let (uid, changing) = (link.peer().uid, access.get().may_change(link.peer()));
    if let Some(place) = places.take(changing) {
        return Some((link, place));
    }
    tracing::warn!(uid, "too many control connections: one is turned away");
    let limit = if changing { limits.connections } else { limits.readers };
    let fault =
        Fault::new(FaultKind::Refused, format!("the daemon has all of its {limit} connections in use"))
            .with_hint("try again when one has ended; `steer events --follow` is one while it runs");
    // The buffer of a new socket has room for this, so it goes out at the first attempt or not at all.
    let _ = timeout(Duration::ZERO, link.send(dispatch::encode_fault(&fault))).await;
    None
}

impl Places {
    fn take(&self, changing: bool) -> Option<Place> {
        let reader = match changing {
            true => None,
            false => Some(Arc::clone(&self.readers).try_acquire_owned().ok()?),
        };
        let any = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _permits: Arc::new((any, reader)) })
    }
}
