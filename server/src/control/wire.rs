//! One client's connection: framing, bounds and credentials.
//!
//! zlink does the framing of what comes in and fetches the peer's credentials. Three parts of it do not fit, so
//! its pieces are used around them:
//!
//! * its limit for a message is 100 MB and not to be changed; [`BoundedRead`] sits under it and ends a connection
//!   whose message grows beyond ours;
//! * it keeps every descriptor that comes with a message in the making, 253 with each byte, so that one client
//!   could use up the daemon's; [`BoundedRead`] has them closed at once, elsewhere, as no method takes any;
//! * it writes with a serializer of its own that starts again, from the message's begin, for every 256 bytes; we
//!   write with serde_json and use zlink's write half alone.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};
use zlink::{
    Connection,
    connection::{
        ReadConnection,
        socket::{ReadHalf, ReadResult, Socket, UnixSocket, WriteHalf},
    },
    tokio::unix::Stream,
};

use super::access::Peer;
use crate::sockets::passed::{ClosedElsewhere, Closer, Sender};

/// A call as it came, with nothing decided about it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Incoming {
    /// The full name of the method.
    pub(super) method: String,
    /// Its parameters; clients may leave them out.
    #[serde(default)]
    pub(super) parameters: Option<Value>,
}

/// A call with varlink's flags.
pub(super) struct Call {
    pub(super) incoming: Incoming,
    /// The client takes several answers.
    pub(super) more: bool,
    /// The client takes no answer.
    pub(super) oneway: bool,
    /// The client wants to speak another protocol after this.
    pub(super) upgrade: bool,
}

/// Why no call was received.
#[derive(Debug)]
pub(super) enum ReceiveError {
    /// The client has closed, or the connection failed.
    Gone,
    /// No whole message came in time.
    Silent,
    /// The message is larger than the limit.
    TooLarge,
    /// The message is not a call.
    Malformed(String),
}

/// A connection to one client.
pub(super) struct Link {
    reader: ReadConnection<BoundedRead>,
    writer: <Stream as Socket>::WriteHalf,
    peer: Peer,
    patience: Duration,
    /// After both halves: the socket's last close is its.
    _last: ClosedElsewhere,
}

impl Link {
    /// Takes an accepted connection over. No message may be larger than `message_max` bytes, nor take longer than
    /// `patience` to come or to go. What is passed with messages goes to the `closer`.
    pub(super) async fn new(
        stream: UnixStream,
        message_max: usize,
        patience: Duration,
        closer: &Closer,
    ) -> io::Result<Self> {
        let last = ClosedElsewhere::of_connection(&stream, closer.sender())?;
        let stream = Stream::try_from(stream).map_err(|error| match error {
            zlink::Error::Io(error) => error,
            other => io::Error::other(other),
        })?;
        let mut connection = Connection::new(Bounded { stream, message_max, passed: closer.sender() });
        let peer = match connection.peer_credentials().await {
            Ok(credentials) => Peer {
                uid: credentials.unix_user_id().as_raw(),
                gids: [credentials.unix_primary_group_id()]
                    .iter()
                    .chain(credentials.unix_supplementary_group_ids())
                    .map(|gid| gid.as_raw())
                    .collect(),
            },
            // zlink asks for the peer's pidfd too, and kernels before 6.16 refuse it for a client that has ended
            // already (a `oneway` call needs nobody to wait for it). The uid is known all the same.
            Err(_) => {
                let credentials = rustix::net::sockopt::socket_peercred(connection.read().read_half())?;
                Peer { uid: credentials.uid.as_raw(), gids: vec![credentials.gid.as_raw()] }
            }
        };
        let (reader, writer) = connection.split();
        Ok(Self { reader, writer: writer.into_write_half(), peer, patience, _last: last })
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The socket.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.reader.read_half().as_fd()
    }

    /// The next call. The time limit is for the whole message, so one byte now and then does not lengthen it.
    pub(super) async fn receive(&mut self) -> Result<Call, ReceiveError> {
        match timeout(self.patience, self.reader.receive_call::<Incoming>()).await {
            Err(_) => Err(ReceiveError::Silent),
            Ok(Ok((call, _no_descriptors))) => {
                let (more, oneway, upgrade) = (call.more(), call.oneway(), call.upgrade());
                Ok(Call { incoming: call.method().clone(), more, oneway, upgrade })
            }
            Ok(Err(zlink::Error::BufferOverflow)) => Err(ReceiveError::TooLarge),
            Ok(Err(zlink::Error::Json(error))) => Err(ReceiveError::Malformed(error.to_string())),
            Ok(Err(_)) => Err(ReceiveError::Gone),
        }
    }

    /// Sends one message, as [`reply`] or [`error`] made it. After a failure, or when the client does not read it
    /// in time, the connection is of no more use: a part of the message may be on its way.
    pub(super) async fn send(&mut self, message: Vec<u8>) -> io::Result<()> {
        match timeout(self.patience, self.writer.write(&message, &[] as &[OwnedFd], None)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(zlink::Error::Io(error))) => Err(error),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// A successful reply, with its final NUL.
pub(super) fn reply(parameters: &impl Serialize, continues: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct Reply<'a, P> {
        parameters: &'a P,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        continues: bool,
    }
    encode(&Reply { parameters, continues })
}

/// An error reply, with its final NUL.
pub(super) fn error(name: &str, parameters: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Error<'a, P> {
        error: &'a str,
        parameters: &'a P,
    }
    encode(&Error { error: name, parameters })
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    // Our own types have string keys and finite numbers only; these are all that serde_json cannot write.
    let mut bytes = serde_json::to_vec(message).unwrap_or_else(|error| {
        tracing::error!(%error, "a reply cannot be written as JSON");
        br#"{"error":"io.steer.Control.Failed","parameters":{"message":"the answer cannot be written as JSON"}}"#
            .to_vec()
    });
    bytes.push(0);
    bytes
}

/// A socket whose messages are bounded.
#[derive(Debug)]
struct Bounded {
    stream: Stream,
    message_max: usize,
    passed: Sender,
}

impl Socket for Bounded {
    type ReadHalf = BoundedRead;
    type WriteHalf = <Stream as Socket>::WriteHalf;

    fn split(self) -> (Self::ReadHalf, Self::WriteHalf) {
        let (inner, writer) = self.stream.split();
        (BoundedRead { inner, message_max: self.message_max, unfinished: 0, passed: self.passed }, writer)
    }
}

/// Counts the bytes since the last NUL and fails when they are too many; has descriptors closed that come along, and fails when more
/// come than can be closed.
#[derive(Debug)]
struct BoundedRead {
    inner: <Stream as Socket>::ReadHalf,
    message_max: usize,
    unfinished: usize,
    passed: Sender,
}

impl ReadHalf for BoundedRead {
    async fn read(&mut self, buffer: &mut [u8]) -> zlink::Result<ReadResult> {
        let mut result = self.inner.read(buffer).await?;
        self.passed.close(result.take_fds());
        if self.passed.is_full() {
            return Err(zlink::Error::Io(io::Error::other("more descriptors come than can be closed")));
        }
        let read = &buffer[..result.bytes_read()];
        let begun = match read.iter().rposition(|byte| *byte == 0) {
            Some(end) => read.len() - end - 1,
            None => self.unfinished + read.len(),
        };
        // A message that ends in this very read can be over the limit by what was read at once; zlink's buffer is
        // never more than 256 bytes longer than the longest message it has held.
        if begun > self.message_max {
            return Err(zlink::Error::BufferOverflow);
        }
        self.unfinished = begun;
        Ok(result)
    }
}

impl AsFd for BoundedRead {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl UnixSocket for BoundedRead {}
