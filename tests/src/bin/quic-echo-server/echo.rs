//! Answers the streams of an endpoint's connections, until it is to stop and the last of them has ended.

use anyhow::{Context, Result};
use quinn::{ConnectionError, Endpoint, Incoming, RecvStream, SendStream};
use tokio::{sync::watch, task::JoinSet};

/// Bytes of one stream, at most.
const STREAM_MAX: usize = 1 << 20;

/// Takes connections until `stopping` says so, refuses them from then on, and ends with the last one.
pub(crate) async fn serve(endpoint: Endpoint, identity: String, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut is_stopping = false;
    while !is_stopping || !connections.is_empty() {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                // At once, so that a client that is sent to a process on its way out shows.
                Some(incoming) if is_stopping => incoming.refuse(),
                Some(incoming) => {
                    connections.spawn(answer(incoming, identity.clone()));
                }
                None => break,
            },
            Some(_) = connections.join_next() => {}
            _ = stopping.changed(), if !is_stopping => is_stopping = true,
        }
    }
}

/// One connection, to its end; an end that its client has not wished for is told.
async fn answer(incoming: Incoming, identity: String) {
    let client = incoming.remote_address();
    if let Err(error) = answer_streams(incoming, &identity).await {
        eprintln!("{identity}: the connection of {client}: {error:#}");
    }
}

async fn answer_streams(incoming: Incoming, identity: &str) -> Result<()> {
    let connection = incoming.await.context("the handshake has failed")?;
    let mut count: u64 = 0;
    loop {
        match connection.accept_bi().await {
            Ok((send, receive)) => {
                count += 1;
                echo(send, receive, format!("{identity} {count}\n")).await?;
            }
            Err(ConnectionError::ApplicationClosed(_)) => return Ok(()),
            Err(error) => return Err(error).context(format!("after {count} streams")),
        }
    }
}

async fn echo(mut send: SendStream, mut receive: RecvStream, line: String) -> Result<()> {
    let asked = receive.read_to_end(STREAM_MAX).await.context("reading a stream")?;
    let answer = [line.into_bytes(), asked].concat();
    send.write_all(&answer).await.context("answering on a stream")?;
    send.finish().context("ending a stream")
}
