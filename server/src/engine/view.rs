//! What the engine shows of a group.

use std::sync::Arc;

use crate::policy::Policy;

use super::{
    drain::Shut,
    event::{GenerationId, Slot},
    group::Group,
    worker::{Generation, Goal, Phase, Worker},
};

/// A worker, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Its index.
    pub index: u32,
    /// Its state.
    pub state: State,
    /// Its working generation, else the one that starts, else the newest that drains.
    pub generation: Option<GenerationId>,
    /// The number of its last generation.
    pub last_number: u64,
    /// That generation's slot.
    pub slot: Option<Slot>,
    /// That generation's process.
    pub pid: Option<u32>,
    /// Its buckets in the next table.
    pub buckets: u32,
    /// What is wrong with it.
    pub message: Option<String>,
}

/// A worker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being started.
    Starting,
    /// It gets new flows.
    Working,
    /// It gets none, and has some left.
    Draining,
    /// It was drained and is left out.
    Drained,
    /// It is lost, and will be started again.
    Lost,
    /// It has left.
    Stopped,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Working => "working",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Lost => "lost",
            Self::Stopped => "stopped",
        }
    }
}

impl Group {
    /// What decides which worker gets a new flow, in the next table.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The newest table whose grace period is over.
    pub fn epoch(&self) -> u64 {
        self.publication.published
    }

    /// The holding listener's slot.
    pub fn hold_slot(&self) -> Option<Slot> {
        self.hold.slot
    }

    /// Whether connections are held now.
    pub fn is_holding(&self) -> bool {
        self.rules.hold && !self.stopping && self.workers.values().all(|worker| worker.working.is_none())
    }

    /// Who has which bucket, by index, [`NOBODY`](super::assign::NOBODY) where nobody has.
    pub fn owners(&self) -> Arc<[u32]> {
        self.publication.owners.clone()
    }

    /// All workers, by index.
    pub fn workers(&self) -> Vec<WorkerView> {
        let mut buckets = std::collections::BTreeMap::<u32, u32>::new();
        for owner in self.publication.owners.iter() {
            *buckets.entry(*owner).or_default() += 1;
        }
        let view = |(&index, worker): (&u32, &Worker)| {
            let shown = shown(worker);
            let generation = shown.and_then(|number| worker.generations.get(&number));
            WorkerView {
                index,
                state: state(worker),
                generation: shown.map(|number| GenerationId { worker: index, number }),
                last_number: worker.last_number,
                slot: generation.map(|generation| generation.slot),
                pid: generation.and_then(|generation| generation.pid),
                buckets: worker.working.and_then(|_| buckets.get(&index).copied()).unwrap_or(0),
                message: worker.message.clone(),
            }
        };
        self.workers.iter().map(view).collect()
    }

    /// The generations whose listeners must have somebody who accepts, with their slots: those that a table names or will
    /// name, and those that drain and have not been told to stop.
    pub fn serving(&self) -> Vec<(GenerationId, Slot)> {
        let serves = |generation: &Generation| match &generation.phase {
            Phase::Ready { .. } | Phase::Working { .. } => true,
            Phase::Draining(drain) => drain.shut == Shut::Not && drain.stop_sent.is_none(),
            Phase::Starting { .. } | Phase::Abandoned { .. } => false,
        };
        let of_worker = |(&worker, state): (&u32, &Worker)| {
            let serving = state.generations.iter().filter(|(_, generation)| serves(generation));
            serving
                .map(|(&number, generation)| (GenerationId { worker, number }, generation.slot))
                .collect::<Vec<_>>()
        };
        self.workers.iter().flat_map(of_worker).collect()
    }

    /// Whose generation a slot is.
    pub fn holder(&self, slot: Slot) -> Option<GenerationId> {
        self.workers.iter().find_map(|(&worker, state)| {
            let number = state.generations.iter().find(|(_, generation)| generation.slot == slot)?.0;
            Some(GenerationId { worker, number: *number })
        })
    }
}

fn shown(worker: &Worker) -> Option<u64> {
    worker.working.or_else(|| worker.starting()).or_else(|| worker.generations.keys().next_back().copied())
}

fn state(worker: &Worker) -> State {
    let is_draining =
        worker.generations.values().any(|generation| matches!(generation.phase, Phase::Draining(_)));
    match (worker.working, worker.goal) {
        (Some(_), _) if worker.is_published() => State::Working,
        (Some(_), _) => State::Starting,
        (None, _) if worker.starting().is_some() => State::Starting,
        (None, _) if is_draining => State::Draining,
        (None, Goal::Drained) => State::Drained,
        (None, Goal::Leave) => State::Stopped,
        (None, Goal::Work) if worker.last_number == 0 => State::Starting,
        (None, Goal::Work) => State::Lost,
    }
}
