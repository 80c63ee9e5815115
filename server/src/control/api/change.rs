//! The policy, and what a change of it or of a weight moves.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::table::Placed;
use crate::{
    names::{GroupName, WorkerName},
    policy::Policy,
};

/// A group's policy, and why each worker has the share that it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The group.
    pub group: GroupName,
    /// The policy.
    pub policy: Policy,
    /// What it means, in a sentence.
    pub meaning: String,
    /// The number of the published table.
    pub epoch: u64,
    /// The workers, by index.
    pub members: Vec<WorkerPolicy>,
}

/// Why a worker has the share that it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerPolicy {
    /// The worker.
    pub worker: WorkerName,
    /// Its state.
    pub state: String,
    /// Its weight, as last given.
    pub weight: u32,
    /// Where its weight changes step by step, how far it is.
    pub ramp: Option<Ramp>,
    /// Its part of the buckets, 0 to 1.
    pub share: f64,
    /// What it has in hand, as the policy `least-loaded` sees it; nothing under the others.
    pub load: Option<u64>,
    /// Whether it publishes its load and its beat itself, and the program sees it.
    pub publishes: bool,
    /// Whether it looks as if it took nothing, under the policy `least-loaded`.
    pub stalled: bool,
    /// The CPUs that it is pinned to, under the policy `cpu`; none where it may run on all.
    pub cpus: Vec<u32>,
    /// Why it has its share.
    pub why: String,
}

/// A weight on its way from one value to another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ramp {
    /// The weight at its begin.
    pub from: f64,
    /// The weight now.
    pub now: f64,
    /// The weight at its end.
    pub to: f64,
    /// Until its end, in milliseconds.
    pub remaining_ms: u64,
}

/// What a change of policy or weight moves; or would move, where it was only asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The group.
    pub group: GroupName,
    /// Whether it was carried out: false for a dry run.
    pub applied: bool,
    /// The policy before.
    pub policy_before: Policy,
    /// The policy after.
    pub policy_after: Policy,
    /// Whether flows find their buckets by another key: then each is placed anew, whatever its bucket.
    pub rekeyed: bool,
    /// Buckets that another worker has afterwards.
    pub moved_buckets: u32,
    /// The part of all possible flows, 0 to 1, whose first choice is another worker afterwards.
    pub moved_share: f64,
    /// The open connections' 4-tuples: how many there are, and of how many a new connection would go to another worker.
    pub open: FlowsMoved,
    /// The workers, by index.
    pub shares: Vec<ShareChange>,
    /// What becomes of the clients that were asked for.
    pub clients: Vec<PlacedAnew>,
    /// From the command to the end of the grace period after the last swap, from when on nothing reads the table before; 0 for a
    /// dry run.
    pub milliseconds: u64,
}

/// Flows that are known now, and how many of them a change concerns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsMoved {
    /// How many there are.
    pub known: u64,
    /// How many would go to another worker.
    pub moved: u64,
}

/// One worker's part of the buckets, before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareChange {
    /// The worker.
    pub worker: WorkerName,
    /// Its weight before.
    pub weight_before: u32,
    /// Its weight after.
    pub weight_after: u32,
    /// Its buckets before.
    pub buckets_before: u32,
    /// Its buckets after.
    pub buckets_after: u32,
    /// Its part of all buckets before, 0 to 1.
    pub share_before: f64,
    /// Its part of all buckets after, 0 to 1.
    pub share_after: f64,
}

/// One client's flow, before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlacedAnew {
    /// The client.
    pub client: SocketAddr,
    /// Where it goes before.
    pub before: Placed,
    /// Where it goes after.
    pub after: Placed,
}
