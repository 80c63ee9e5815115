//! What the engine wants done: the closed list.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    event::{GenerationId, Millis, Observation, OperationId, Slot},
    layout::Layout,
};

/// One effect. Effects are carried out in order; those that take time answer with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make a holding listener and put it into the slot: answers `HoldMade` or `HoldFailed`.
    MakeHold {
        /// The slot.
        slot: Slot,
    },
    /// Shut the holding listener of a slot down, wake who received its connections, close it: answers `HoldShut`.
    ShutHold {
        /// The slot.
        slot: Slot,
    },
    /// Start a generation with this slot for its listener: answers `Started` or `StartFailed`, later `Ready` and
    /// `Exited`.
    Start {
        /// Which.
        generation: GenerationId,
        /// Its slot.
        slot: Slot,
    },
    /// Connect to a generation with the flow that the published table has for it: answers `ProbeEnded`.
    Probe {
        /// Which.
        generation: GenerationId,
    },
    /// Publish a table: answers `Published` or `PublishFailed`.
    Publish(Layout),
    /// Look what is left at a generation: answers `Observed`.
    Observe {
        /// Which.
        generation: GenerationId,
        /// Since when no new flow can have reached it; handshakes that began later are another's.
        first_instant: Option<Millis>,
    },
    /// Send a signal.
    Signal {
        /// To whom.
        generation: GenerationId,
        /// Which.
        signal: Signal,
    },
    /// Shut a generation's listener down, so that the kernel migrates what it holds, and wake who received it: answers
    /// `ListenerShut`.
    ShutListener {
        /// Which.
        generation: GenerationId,
        /// Its slot.
        slot: Slot,
    },
    /// Forget a generation: clear its slot, close its listener, keep its counters for its worker.
    Forget {
        /// Which.
        generation: GenerationId,
        /// Its slot.
        slot: Slot,
    },
    /// A drain has ended.
    Receipt {
        /// Who waits for it.
        operation: Option<OperationId>,
        /// The proof.
        receipt: Receipt,
    },
    /// An operation has ended.
    Finished {
        /// Which.
        operation: OperationId,
        /// How.
        result: Result<(), Failure>,
    },
    /// Something that people should know of.
    Note(Note),
}

/// A signal to a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The group's stop signal, to the worker's process.
    Stop,
    /// SIGKILL, to all of the worker's processes.
    Kill,
}

/// The proof of a drain's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What was drained.
    pub generation: GenerationId,
    /// The generation that took over.
    pub successor: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// As found when the drain began.
    pub began: Observation,
    /// As found when it ended.
    pub ended: Observation,
    /// What the kernel migrated when the listener was shut down, by receiver: a worker's index, or the hold.
    pub migrated: BTreeMap<Receiver, u64>,
    /// How the process ended.
    pub exit: Option<String>,
    /// What was done, in order, and how long it took.
    pub steps: Vec<(&'static str, Millis)>,
    /// What the reader should know beyond the counts.
    pub message: Option<String>,
}

/// Who received migrated connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Receiver {
    /// A worker, by index.
    Worker(u32),
    /// The holding listener.
    Hold,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was left.
    Drained,
    /// Its deadline came first.
    Deadline,
    /// The worker was gone, or had given up its listener, before it was told to stop.
    Lost,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort.
    pub kind: FailureKind,
    /// Operation, object and both values.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

/// The sorts of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// There is no such worker.
    NoSuch,
    /// Something else is under way, or the state does not allow it.
    Refused,
    /// It did not work.
    Failed,
}

/// A remark for the log and for `steer events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What happened, in one word.
    pub kind: &'static str,
    /// To whom.
    pub generation: Option<GenerationId>,
    /// What is known of its process by then.
    pub process: AboutProcess,
    /// The rest.
    pub detail: String,
}

/// What is known of a generation's process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AboutProcess {
    /// Its number.
    pub pid: Option<u32>,
    /// How it has ended.
    pub exit: Option<String>,
    /// Whether it was told to stop.
    pub was_told: bool,
}
