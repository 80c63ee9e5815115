//! What there is: the daemon, groups, workers, and what the program counted.

use serde::{Deserialize, Serialize};

use crate::names::{GroupName, WorkerName};

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
    /// What became of groups that nobody looks after any more, by a fault of the daemon; they serve on.
    #[serde(default)]
    pub unattended: Vec<String>,
}

/// The state of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: GroupName,
    /// Its listen addresses, as `tcp://127.0.0.1:8080`.
    pub listen: Vec<String>,
    /// Its policy: `hash`, `source:ipv4=24,ipv6=64`, `least-loaded`, `cpu`.
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
    /// How many times one more of them was seen than before.
    #[serde(default)]
    pub strangers_total: u64,
    /// Drains that have ended, of all workers that there are or were.
    #[serde(default)]
    pub drains: Drains,
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
    /// UDP flows that it has: remembered, and not idle.
    #[serde(default)]
    pub flows: u64,
    /// New connections that the program selected it for.
    pub selected: u64,
    /// Connections that the kernel migrated to it.
    pub migrated_in: u64,
    /// Connections that the kernel migrated away from it.
    pub migrated_out: u64,
    /// Whether it looks as if it took nothing, under the policy `least-loaded`.
    #[serde(default)]
    pub stalled: bool,
    /// The new generation that is being tried, where one is.
    #[serde(default)]
    pub canary: Option<CanaryStatus>,
    /// Processes started beyond the first.
    pub restarts: u64,
    /// Drains that have ended, one for each receipt.
    #[serde(default)]
    pub drains: Drains,
    /// What is wrong, or what it waits for.
    pub message: Option<String>,
}

/// A new generation that has a part of its worker's buckets: what to judge it by. The worker's own counts include it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// Its number.
    pub generation: u64,
    /// Its process.
    pub pid: Option<u32>,
    /// Its slot.
    pub slot: u32,
    /// Its part of all buckets, 0 to 1.
    pub share: f64,
    /// Unaccepted connections in its listener's queue.
    pub queue: u64,
    /// Open connections of its processes.
    pub connections: u64,
    /// New connections that the program selected it for.
    pub selected: u64,
    /// Until it takes over by itself, in milliseconds; nothing where someone is to decide.
    pub remaining_ms: Option<u64>,
}

/// Drains that have ended, by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drains {
    /// Nothing was left.
    pub drained: u64,
    /// The deadline came first.
    pub deadline: u64,
    /// The process or its listener was lost.
    pub lost: u64,
}

/// The daemon's metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The exposition in the text format of OpenMetrics 1.0, which Prometheus reads.
    pub exposition: String,
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
    /// UDP flows.
    #[serde(default)]
    pub flows: FlowEvents,
    /// Datagrams that do not go by their QUIC connection ID, under the policy `quic-cid`: each is one of these.
    #[serde(default)]
    pub ids: IdEvents,
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
    /// Another slot, by load: what the table names was clearly more loaded, or took nothing.
    #[serde(default)]
    pub less_loaded: u64,
    /// A worker on the CPU that took the packet.
    #[serde(default)]
    pub own_cpu: u64,
    /// The slot that the UDP flow went to before.
    #[serde(default)]
    pub kept: u64,
    /// The slot of the generation that the QUIC connection ID names.
    #[serde(default)]
    pub by_id: u64,
}

/// What became of UDP flows that began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEvents {
    /// One is remembered: it has begun, or was at another worker before.
    pub remembered: u64,
    /// One is not: too many established flows share its part of the flow table.
    pub not_remembered: u64,
    /// One that was not idle is forgotten in favour of another.
    pub forgotten: u64,
}

/// Datagrams that do not go by their QUIC connection ID, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdEvents {
    /// They begin a connection, by an ID that the client has made up.
    pub opening: u64,
    /// Their ID names a generation that is not there any more.
    pub gone: u64,
    /// Their ID names nobody, or they are no packets of QUIC.
    pub unknown: u64,
}
