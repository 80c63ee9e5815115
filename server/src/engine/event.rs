//! What can happen to a group: the closed list.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;

use super::reconfigure::Reconfiguration;

/// Time as the engine knows it: milliseconds of a clock that never goes back, from any origin.
pub type Millis = u64;

/// An index in the sockarray.
pub type Slot = u16;

/// Names a request to the engine, so that its answers find whoever asked.
pub type OperationId = u64;

/// One start of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GenerationId {
    /// The worker's index in its group.
    pub worker: u32,
    /// Counted from 1 for each worker.
    pub number: u64,
}

/// What is left at a listener and its processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Half-open handshakes that may be the listener's own.
    pub handshakes: u64,
    /// Connections in its queue.
    pub unaccepted: u64,
    /// UDP flows that are remembered and not idle.
    pub flows: u64,
    /// Datagrams that came by their QUIC connection ID, in as long as a flow can be idle.
    #[serde(default)]
    pub by_id: u64,
    /// Sockets of its own with datagrams that it has not read.
    #[serde(default)]
    pub unread: u64,
    /// Open connections of the worker's processes.
    pub connections: u64,
    /// Whether the handshakes are an estimate: so many at most are the listener's own.
    #[serde(default)]
    pub is_estimate: bool,
}

/// Connections that the kernel migrated, by the slot that received them.
pub type Moved = BTreeMap<Slot, u64>;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Someone asks for a change.
    Command {
        /// The name for the answers, greater than any before; another is ignored.
        operation: OperationId,
        /// What is asked.
        command: Command,
    },
    /// The holding listener for a slot listens and is in its slot.
    HoldMade {
        /// The slot.
        slot: Slot,
    },
    /// It could not be made.
    HoldFailed {
        /// The slot.
        slot: Slot,
        /// Why.
        why: String,
    },
    /// The holding listener that should be in a slot is gone, with what it held.
    HoldLost {
        /// The slot.
        slot: Slot,
    },
    /// A holding listener was shut down; what it held has moved.
    HoldShut {
        /// The slot.
        slot: Slot,
        /// To whom.
        moved: Moved,
    },
    /// A generation's process runs.
    Started {
        /// Which.
        generation: GenerationId,
        /// Its process.
        pid: u32,
    },
    /// A generation could not be started: it has no process.
    StartFailed {
        /// Which.
        generation: GenerationId,
        /// Why.
        why: String,
    },
    /// A generation that has started is to be probed: the table must send it the flow with this hash.
    ProbeWanted {
        /// Which.
        generation: GenerationId,
        /// The hash of the probe's flow.
        hash: u64,
    },
    /// The probe's connection is established, or could not be: the table need not name it any more.
    ProbeEnded {
        /// Which.
        generation: GenerationId,
    },
    /// A generation is ready: its listener is in its slot, and it has said or shown that it accepts.
    Ready {
        /// Which.
        generation: GenerationId,
    },
    /// A generation's process has ended.
    Exited {
        /// Which.
        generation: GenerationId,
        /// How: `exit 0`, `signal 9`.
        exit: String,
    },
    /// A table is published and its grace period over.
    Published {
        /// Its number.
        epoch: u64,
    },
    /// A table could not be published.
    PublishFailed {
        /// Its number.
        epoch: u64,
        /// Why.
        why: String,
    },
    /// What was found for an observation asked for.
    Observed {
        /// Which.
        generation: GenerationId,
        /// The first instant that it was asked with.
        first_instant: Option<Millis>,
        /// What was found.
        observation: Observation,
    },
    /// A generation's listener does not serve any more, though its process may run: it was shut down, closed, or is
    /// held by nobody who could accept. Of one that drains it counts until it is told to stop.
    ListenerLost {
        /// Which.
        generation: GenerationId,
        /// What was seen.
        why: String,
    },
    /// A generation's listener was shut down; what it held has moved.
    ListenerShut {
        /// Which.
        generation: GenerationId,
        /// To whom.
        moved: Moved,
    },
    /// Of a group that adopts: a listener of the server's is there to be taken in by this worker, which begins with it where it is not known.
    Came {
        /// The worker's index.
        worker: u32,
    },
    /// Of a group that adopts: the server has closed the listeners of a generation.
    Left {
        /// Which.
        generation: GenerationId,
        /// What was seen.
        why: String,
    },
    /// Of a group that adopts: whether whoever starts the server is about to start it again, as long as none of its listeners is there.
    Expected {
        /// Whether it is.
        is_coming: bool,
    },
    /// The CPUs that a generation's process is pinned to: none where it may run on all.
    Pinned {
        /// Which.
        generation: GenerationId,
        /// The CPUs, in order.
        cpus: Vec<usize>,
    },
    /// The holding listener holds connections although workers work: the program's last resort took them.
    HoldOccupied,
    /// Time has passed.
    Tick,
}

/// What a new generation gets before it takes over from the old one, to be judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Its part of its worker's buckets, in thousandths: 1 to 999.
    pub permille: u32,
    /// For how long; then it takes over by itself. Until someone decides where it is `None`.
    pub hold: Option<Millis>,
}

/// What someone makes of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It takes over now, and the restart goes on.
    Proceed,
    /// It drains, the old generation gets its buckets back, and the restart ends.
    Abort,
}

/// A change that someone asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Hand over the workers named, one after another.
    Restart {
        /// One worker, or all.
        worker: Option<u32>,
        /// How long each drain may take; the group's own deadline where it is `None`.
        timeout: Option<Millis>,
        /// Whether the first new generation gets only a part of its worker's buckets at first.
        canary: Option<Canary>,
    },
    /// Say how the canary of a restart under way goes on.
    Decide(Decision),
    /// Drain a worker and leave it out.
    Drain {
        /// The worker.
        worker: u32,
        /// How long the drain may take.
        timeout: Option<Millis>,
        /// Of a group that adopts: whether it is back at work with the next listener that comes to it.
        until_replaced: bool,
    },
    /// Drain all workers that work, of a group that adopts: until the server's next listeners come.
    DrainAll {
        /// Only those of these that work.
        workers: Option<Vec<u32>>,
        /// How long the drains may take.
        timeout: Option<Millis>,
    },
    /// Put a drained worker back to work.
    Undrain {
        /// The worker.
        worker: u32,
    },
    /// Decide by another policy.
    SetPolicy(Policy),
    /// Give a worker another weight.
    SetWeight {
        /// The worker.
        worker: u32,
        /// The weight, 0 to [`WEIGHT_MAX`](crate::policy::WEIGHT_MAX). With 0 the worker goes on with what it has, and gets
        /// nothing new.
        weight: u32,
        /// Over how long the weight changes, step by step; at once where it is `None`.
        over: Option<Millis>,
    },
    /// Be as another configuration says.
    Reconfigure(Box<Reconfiguration>),
    /// Have this many workers.
    Scale {
        /// How many; at least 1.
        workers: u32,
        /// How long each drain may take.
        timeout: Option<Millis>,
    },
    /// Drain every worker and end.
    Stop {
        /// How long the drains may take.
        timeout: Option<Millis>,
    },
}
