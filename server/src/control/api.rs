//! What clients of the control socket see: the wire types, schema 1. The engine has types of its own.
//!
//! Every struct here is part of the promise made by `--json`: fields are added, never renamed or removed,
//! without a new schema number.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::names::{GroupName, WorkerName};

/// The version of the shapes in this file; `--json` prints it as `"schema"`.
pub const SCHEMA: u32 = 1;

/// The varlink interface that the methods and errors of this file belong to.
pub const INTERFACE: &str = "io.steer.Control";

/// The names of all methods, without [`INTERFACE`]. Each is a variant of [`Request`].
pub const METHODS: [&str; 9] =
    ["Info", "Status", "Table", "Events", "Restart", "Drain", "Undrain", "Scale", "Stop"];

/// Whether the method sends answers before its last one to a client that sets varlink's `more`. The name is
/// full: with the interface.
pub fn streams(method: &str) -> bool {
    method
        .strip_prefix(INTERFACE)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|name| matches!(name, "Events" | "Restart" | "Drain" | "Scale" | "Stop"))
}

/// What a client can ask. The varlink method is `io.steer.Control.` and the variant's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Request {
    /// The daemon's version, pid and uptime.
    #[serde(rename = "io.steer.Control.Info")]
    Info {},
    /// Groups and their workers; of one group, or of all.
    #[serde(rename = "io.steer.Control.Status")]
    Status {
        /// The group, or all of them.
        #[serde(default)]
        group: Option<GroupName>,
    },
    /// The published steering table of a group.
    #[serde(rename = "io.steer.Control.Table")]
    Table {
        /// The group.
        group: GroupName,
    },
    /// The daemon's events: those it remembers from `since` on and, with `follow`, each as it happens (`more`).
    #[serde(rename = "io.steer.Control.Events")]
    Events {
        /// Only this group's events.
        #[serde(default)]
        group: Option<GroupName>,
        /// The first sequence number wanted.
        #[serde(default)]
        since: u64,
        /// Whether to stay and send each new event.
        #[serde(default)]
        follow: bool,
    },
    /// Hand over one worker or, one after another, all; answers with one receipt per worker (`more`).
    #[serde(rename = "io.steer.Control.Restart")]
    Restart {
        /// The group.
        group: GroupName,
        /// The worker's index; without it, every worker.
        #[serde(default)]
        worker: Option<u32>,
        /// How long each drain may take, in milliseconds; without it, the group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Take a worker out of the table, to the proven end of what it holds; answers with its receipt.
    #[serde(rename = "io.steer.Control.Drain")]
    Drain {
        /// The worker.
        worker: WorkerName,
        /// How long the drain may take, in milliseconds; without it, the group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Put a drained (or draining) worker back to work; answers when it works.
    #[serde(rename = "io.steer.Control.Undrain")]
    Undrain {
        /// The worker.
        worker: WorkerName,
    },
    /// Change the number of workers; answers with a receipt per worker removed (`more`).
    #[serde(rename = "io.steer.Control.Scale")]
    Scale {
        /// The group.
        group: GroupName,
        /// The number of workers wanted.
        workers: u32,
        /// How long each drain may take, in milliseconds; without it, the group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Stop: drain every worker, release the groups, end the daemon; answers with the receipts (`more`).
    #[serde(rename = "io.steer.Control.Stop")]
    Stop {
        /// How long the drains may take, in milliseconds; without it, each group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
}

impl Request {
    /// Whether the request changes anything; reading needs less privilege.
    pub fn changes(&self) -> bool {
        match self {
            Self::Info {} | Self::Status { .. } | Self::Table { .. } | Self::Events { .. } => false,
            Self::Restart { .. }
            | Self::Drain { .. }
            | Self::Undrain { .. }
            | Self::Scale { .. }
            | Self::Stop { .. } => true,
        }
    }

    /// The full name of the varlink method.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Info {} => "io.steer.Control.Info",
            Self::Status { .. } => "io.steer.Control.Status",
            Self::Table { .. } => "io.steer.Control.Table",
            Self::Events { .. } => "io.steer.Control.Events",
            Self::Restart { .. } => "io.steer.Control.Restart",
            Self::Drain { .. } => "io.steer.Control.Drain",
            Self::Undrain { .. } => "io.steer.Control.Undrain",
            Self::Scale { .. } => "io.steer.Control.Scale",
            Self::Stop { .. } => "io.steer.Control.Stop",
        }
    }

    /// Whether there are answers before the last one, for a client that sets varlink's `more`.
    pub fn streams(&self) -> bool {
        streams(self.method())
    }
}

/// One answer. A request that streams sends several, each but the last marked as continued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// To `Info`.
    Info(Info),
    /// To `Status`.
    Status(Status),
    /// To `Table`.
    Table(Table),
    /// To `Events`, one each.
    Event(Event),
    /// To `Restart`, `Drain`, `Scale`, `Stop`: one each.
    Receipt(Receipt),
    /// The end of a stream, or of a request with nothing else to say.
    Done(Done),
}

/// The end of a request: how many answers came before it, in how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// The number of receipts or events sent before.
    pub answers: u64,
    /// From the request to its end, in milliseconds.
    pub milliseconds: u64,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The daemon's version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Time since it started, in milliseconds.
    pub uptime_ms: u64,
    /// `select-or-migrate`, or `select` on kernels before 5.14.
    pub program: String,
}

/// The state of every group asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The groups, by name.
    pub groups: Vec<GroupStatus>,
}

/// The state of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: GroupName,
    /// Its listen addresses, as `tcp://127.0.0.1:8080`.
    pub listen: Vec<String>,
    /// Its policy: `hash`.
    pub policy: String,
    /// Its mode: `inherit` or `own`.
    pub mode: String,
    /// How it restarts a worker: `surge` or `replace`.
    pub restart: String,
    /// What happens to connections while no worker works: `hold` or `refuse`.
    pub when_empty: String,
    /// Whether connections are being held now.
    pub holding: bool,
    /// Connections that wait in the holding listener now.
    pub held: u64,
    /// The number of the published table; each publication has the next.
    pub epoch: u64,
    /// Its workers, by index.
    pub workers: Vec<WorkerStatus>,
    /// What the program counted since the group was made.
    pub counters: Counters,
    /// Sockets of others that have joined the kernel's group unasked; they get nothing.
    pub strangers: u64,
}

/// The state of one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name, `web/0`.
    pub name: WorkerName,
    /// `starting`, `working`, `draining`, `drained`, `lost` or `stopped`.
    pub state: String,
    /// The process of its working generation, or of the one that starts.
    pub pid: Option<u32>,
    /// Its working generation, or the one that starts; counted from 1.
    pub generation: u64,
    /// The slot of that generation's listener.
    pub slot: Option<u32>,
    /// Its weight in the table.
    pub weight: u32,
    /// Its part of the buckets, 0 to 1.
    pub share: f64,
    /// Unaccepted connections in its listener's queue.
    pub queue: u64,
    /// Open connections of its processes.
    pub connections: u64,
    /// New connections that the program selected it for.
    pub selected: u64,
    /// Connections that the kernel migrated to it.
    pub migrated_in: u64,
    /// Connections that the kernel migrated away from it.
    pub migrated_out: u64,
    /// Processes started beyond the first.
    pub restarts: u64,
    /// What is wrong, or what it waits for.
    pub message: Option<String>,
}

/// What the program counted. In each of the two stages every run is counted exactly once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// All runs of the program.
    pub runs: u64,
    /// First stage: what was asked.
    pub asked: Asked,
    /// Second stage: what came of it.
    pub outcome: Outcomes,
}

/// The first stage: what the kernel asked the program for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// A SYN without ACK: a new connection.
    pub connection: u64,
    /// Any other TCP segment: SYN-cookie ACKs, stray ACKs.
    pub segment: u64,
    /// A UDP datagram.
    pub datagram: u64,
    /// A half-open or unaccepted connection whose listener has stopped.
    pub migration: u64,
}

/// The second stage: what the program answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// The slot that the table names.
    pub first_choice: u64,
    /// A slot found by hashing again: the first could not be selected.
    pub further_choice: u64,
    /// The holding listener, as the table or the last resort names it.
    pub held: u64,
    /// Nothing could be selected, so the packet was dropped.
    pub dropped: u64,
}

/// A published table, by worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The group.
    pub group: GroupName,
    /// The number of this publication.
    pub epoch: u64,
    /// How many buckets there are.
    pub buckets: u32,
    /// What a packet gets when its choices are gone: `hold` or `drop`.
    pub last_resort: String,
    /// Who has which part, by index; a worker with none is listed with 0.
    pub shares: Vec<TableShare>,
    /// Buckets that the holding listener has.
    pub held_buckets: u32,
}

/// One worker's part of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableShare {
    /// The worker.
    pub worker: WorkerName,
    /// Its working generation's slot.
    pub slot: Option<u32>,
    /// Its weight.
    pub weight: u32,
    /// Its buckets.
    pub buckets: u32,
    /// Its part of all buckets, 0 to 1.
    pub share: f64,
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
    /// Connections that it had not accepted.
    pub unaccepted: Count,
    /// Tracked UDP flows.
    pub flows: Count,
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

/// Why a request failed. Its kind decides the exit code of the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What sort of failure.
    pub kind: FaultKind,
    /// Operation, object and both values, in one line.
    pub message: String,
    /// The way out.
    #[serde(default)]
    pub hint: Option<String>,
}

/// The sorts of failure; each is a varlink error `io.steer.Control.` and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// It did not work. Exit 1.
    Failed,
    /// The request is malformed. Exit 2.
    Usage,
    /// There is no such group or worker. Exit 4.
    NoSuch,
    /// Refused: a conflict, or not allowed. Exit 5.
    Refused,
    /// Its deadline came first. Exit 6.
    TimedOut,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Failed, Self::Usage, Self::NoSuch, Self::Refused, Self::TimedOut];

    /// The name of its varlink error, without [`INTERFACE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "Failed",
            Self::Usage => "Usage",
            Self::NoSuch => "NoSuch",
            Self::Refused => "Refused",
            Self::TimedOut => "TimedOut",
        }
    }

    /// The kind that a varlink error's full name stands for.
    pub fn from_error_name(error: &str) -> Option<Self> {
        let name = error.strip_prefix(INTERFACE)?.strip_prefix('.')?;
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Fault {
    /// A fault without a way out.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same fault with a way out.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// So that a fault can be carried, unchanged, by any error up to the edge that prints it.
impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_request() -> Vec<Request> {
        let group: GroupName = "web".parse().unwrap();
        let worker = group.worker(0);
        vec![
            Request::Info {},
            Request::Status { group: None },
            Request::Table { group: group.clone() },
            Request::Events { group: None, since: 0, follow: true },
            Request::Restart { group: group.clone(), worker: None, timeout_ms: Some(5) },
            Request::Drain { worker: worker.clone(), timeout_ms: None },
            Request::Undrain { worker },
            Request::Scale { group, workers: 4, timeout_ms: None },
            Request::Stop { timeout_ms: None },
        ]
    }

    #[test]
    fn a_request_is_written_under_the_name_it_says_it_has() {
        let requests = every_request();
        let names: Vec<String> = requests.iter().map(|request| request.method().to_owned()).collect();
        assert_eq!(names, METHODS.map(|method| format!("{INTERFACE}.{method}")));
        for request in requests {
            let written = serde_json::to_value(&request).unwrap();
            assert_eq!(written["method"], request.method());
            assert_eq!(serde_json::from_value::<Request>(written).unwrap(), request);
        }
    }

    #[test]
    fn every_kind_of_fault_is_found_again_by_its_error_name() {
        for kind in FaultKind::ALL {
            assert_eq!(FaultKind::from_error_name(&format!("{INTERFACE}.{}", kind.name())), Some(kind));
        }
        assert_eq!(FaultKind::from_error_name("Refused"), None);
        assert_eq!(FaultKind::from_error_name("io.steer.Control.Other"), None);
    }
}
