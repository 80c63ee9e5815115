//! What happens: events, receipts, and the end of a request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{GroupName, WorkerName};

/// The end of a request: how many answers came before it, in how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// The number of receipts or events sent before.
    pub answers: u64,
    /// From the request to its end, in milliseconds.
    pub milliseconds: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counted from 1 since the daemon started; no number is left out.
    pub sequence: u64,
    /// Wall-clock time, milliseconds since the epoch of Unix.
    pub unix_ms: u64,
    /// What happened, in one word: `started`, `working`, `draining`, `drained`, `exited`, …
    pub kind: String,
    /// The group it happened in.
    pub group: Option<GroupName>,
    /// The worker it happened to.
    pub worker: Option<WorkerName>,
    /// The generation it happened to.
    pub generation: Option<u64>,
    /// The rest, for people.
    pub detail: String,
}

/// The proof of a drain's end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The worker that was drained.
    pub worker: WorkerName,
    /// The generation that was drained.
    pub generation: u64,
    /// The generation that has taken over from it, where one has.
    pub successor: Option<u64>,
    /// `drained`, `deadline` or `lost`.
    pub outcome: String,
    /// Half-open handshakes that were its own.
    pub handshakes: Count,
    /// Whether the handshakes are an estimate, where the kernel does not tell whose they are: its own are at most so many.
    #[serde(default)]
    pub handshakes_estimated: bool,
    /// Connections that it had not accepted.
    pub unaccepted: Count,
    /// UDP flows that were not idle: those that are left at the end go by the table from then on.
    pub flows: Count,
    /// Datagrams that came by their QUIC connection ID, in as long as a flow can be idle.
    #[serde(default)]
    pub by_id: Count,
    /// Datagrams that were left unread in its sockets, and are lost with them.
    #[serde(default)]
    pub datagrams: u64,
    /// Open connections of its processes.
    pub connections: Count,
    /// Connections that the kernel migrated away from it.
    pub migrated: u64,
    /// To whom, by worker's name, or `hold`.
    pub migrated_to: BTreeMap<String, u64>,
    /// How its process ended: `exit 0`, `signal 15`; nothing where it was left running.
    pub exit: Option<String>,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// What the reader should know beyond the counts.
    pub message: Option<String>,
}

/// A count at the two ends of a drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// As found when the drain began.
    pub began: u64,
    /// As found when it ended.
    pub ended: u64,
}

/// One step of a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// `publish`, `queue`, `settle`, `connections`, `stop`, `shutdown`, ….
    pub name: String,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}
