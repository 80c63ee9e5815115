//! How long a client waits for a daemon that may be stopped, or hang.
//!
//! What only reads is answered at once, so its answer itself is bounded. A change may take as long as its drains do: while its
//! answer is out, the daemon is asked on a second connection for what costs it nothing, and only its silence there ends the wait.

use std::{future::Future, io, path::Path, pin::pin, time::Duration};

use serde_json::Value;
use tokio::time::{sleep, timeout};
use zlink::{Call, tokio::unix};

use super::api::Request;

/// Between two attempts to connect to a socket whose backlog is full: there is no event to wait for.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// A method that every varlink service answers by itself, and allows everybody.
const PROBE: &str = "org.varlink.service.GetInfo";

/// How long a client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, for each answer to what only reads, and for the sign of life of a daemon that is at a change.
    pub answer: Duration,
    /// For the next answer of a change, or the first of a stream that is followed, before a sign of life is asked for.
    pub quiet: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_secs(10), quiet: Duration::from_secs(5) }
    }
}

/// What bounds the wait for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// Time: it comes at once.
    Answer,
    /// The daemon's life.
    Life,
    /// Nothing, once anything has come: a stream that is followed is silent where nothing happens.
    LifeOnce,
    /// Nothing.
    Endless,
}

/// No sign of life in time.
#[derive(Debug)]
pub(super) struct Silence;

impl Bound {
    /// For the first answer to a request.
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Events { follow: true, .. } => Self::LifeOnce,
            request if request.changes() => Self::Life,
            _ => Self::Answer,
        }
    }

    /// The same for a call of any method; what is not known is left to the daemon to refuse, which it does at once.
    pub(super) fn of_call(method: &str, parameters: &Value) -> Self {
        let request = serde_json::json!({ "method": method, "parameters": parameters });
        serde_json::from_value(request).map_or(Self::Answer, |request| Self::of(&request))
    }

    /// For the answer after one that has come.
    pub(super) fn next(self) -> Self {
        match self {
            Self::LifeOnce => Self::Endless,
            same => same,
        }
    }

    /// Waits for an answer of the daemon at `path`.
    pub(super) async fn wait<T>(
        self,
        patience: Patience,
        path: &Path,
        answer: impl Future<Output = T>,
    ) -> Result<T, Silence> {
        let mut answer = pin!(answer);
        loop {
            let limit = match self {
                Self::Endless => return Ok(answer.await),
                Self::Answer => patience.answer,
                Self::Life | Self::LifeOnce => patience.quiet,
            };
            match timeout(limit, &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if self == Self::Answer => return Err(Silence),
                Err(_) => {}
            }
            tokio::select! {
                answer = &mut answer => return Ok(answer),
                lives = lives(patience, path) => match lives {
                    false => return Err(Silence),
                    true if self == Self::LifeOnce => return Ok(answer.await),
                    true => {}
                },
            }
        }
    }
}

/// Connects, and waits for room where the backlog is full: a daemon that is busy accepts soon, one that is stopped never.
pub(super) async fn connect(
    patience: Patience,
    path: &Path,
) -> Result<zlink::Result<unix::Connection>, Silence> {
    let attempts = async {
        loop {
            match unix::connect(path).await {
                Err(zlink::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    sleep(FULL_PAUSE).await;
                }
                connected => return connected,
            }
        }
    };
    timeout(patience.answer, attempts).await.map_err(|_| Silence)
}

/// Whether the daemon does anything for a client. A refusal, an error and a closed socket are done by somebody too: what has become
/// of the answer that is waited for, its own connection tells.
async fn lives(patience: Patience, path: &Path) -> bool {
    let asked = async {
        let Ok(mut connection) = connect(patience, path).await? else { return Ok(()) };
        let call = Call::new(serde_json::json!({ "method": PROBE }));
        if connection.send_call(&call, Vec::new()).await.is_ok() {
            let _ = connection.receive_reply::<Value, Value>().await;
        }
        Ok::<_, Silence>(())
    };
    matches!(timeout(patience.answer, asked).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_reads_is_bounded_by_time_and_a_change_by_life() {
        let bound =
            |method: &str, parameters| Bound::of_call(&format!("io.steer.Control.{method}"), &parameters);
        assert_eq!(bound("Status", json!({})), Bound::Answer);
        assert_eq!(bound("Events", json!({})), Bound::Answer);
        assert_eq!(bound("Events", json!({ "follow": true })), Bound::LifeOnce);
        assert_eq!(bound("Drain", json!({ "worker": "web/0" })), Bound::Life);
        assert_eq!(bound("Stop", json!({})), Bound::Life);
        let policy = |dry_run| json!({ "group": "web", "policy": "cpu", "dry_run": dry_run });
        assert_eq!(
            [true, false].map(|dry_run| bound("SetPolicy", policy(dry_run))),
            [Bound::Answer, Bound::Life]
        );
        assert_eq!(bound("Nonsense", json!({})), Bound::Answer);
        assert_eq!(Bound::LifeOnce.next(), Bound::Endless);
        assert_eq!(Bound::Life.next(), Bound::Life);
    }
}
