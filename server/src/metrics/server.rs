//! Serves metrics over HTTP/1.1: one request for each connection, few connections, and none for long.
//!
//! Whoever may connect may ask: so what a client can take is bounded, and the rest of the daemon does not wait for any.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{MetricsListener, Source, answer};

/// How long to wait when no connection can be accepted for want of descriptors or memory: no event tells of room.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// The most of a request that is read before its end, in bytes; the smallest that hyper takes.
const REQUEST_MAX: usize = 8 * 1024;

/// How much clients may take of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time; more wait to be accepted.
    pub connections: usize,
    /// From a connection's begin to the end of its request's headers.
    pub request: Duration,
    /// From a connection's begin to its end.
    pub connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 16, request: Duration::from_secs(5), connection: Duration::from_secs(15) }
    }
}

/// Serves until it is dropped, which ends the connections that are left too and removes a unix socket.
pub async fn serve<S: Source>(limits: Limits, listener: MetricsListener, source: S) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // It is never closed, so there is no error.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok(stream) => {
                let source = source.clone();
                connections.spawn(async move {
                    // One that breaks off, sends nonsense or takes too long is its own affair.
                    let _ = timeout(limits.connection, serve_one(limits, stream, source)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for metrics");
                sleep(FULL_PAUSE).await;
            }
        }
    }
}

async fn serve_one<S: Source>(
    limits: Limits,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    source: S,
) -> hyper::Result<()> {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(answer::answer(request.method(), request.uri().path(), &source).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(REQUEST_MAX)
        // A connection that is kept keeps its place from others.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
