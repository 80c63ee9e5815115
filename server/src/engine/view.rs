//! What the engine shows of a group.

use std::{collections::BTreeMap, sync::Arc};

use server_common::flow_hash::Seed;

use crate::policy::Policy;

use super::{
    canary::part,
    drain::Shut,
    event::{GenerationId, Millis, Slot},
    group::Group,
    ramp::Ramp,
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
    /// Its buckets in the next table, its canary's included.
    pub buckets: u32,
    /// Its weight, as it was last given.
    pub weight: u32,
    /// Where its weight changes step by step, how far it is.
    pub ramp: Option<RampView>,
    /// Its new generation that is tried beside the working one.
    pub canary: Option<CanaryView>,
    /// The CPUs that that generation's process is pinned to; none where it may run on all.
    pub cpus: Vec<usize>,
    /// What is wrong with it.
    pub message: Option<String>,
}

/// A weight on its way, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RampView {
    /// The weight at its begin.
    pub from: u32,
    /// The weight now.
    pub now: u32,
    /// The weight at its end.
    pub to: u32,
    /// When it ends.
    pub ends_at: Millis,
}

/// A new generation that has a part of its worker's buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanaryView {
    /// Which.
    pub generation: GenerationId,
    /// Its slot.
    pub slot: Slot,
    /// Its process.
    pub pid: Option<u32>,
    /// Its part of the worker's buckets.
    pub buckets: u32,
    /// When it takes over by itself; nothing before the table with it is published, and where someone is to decide.
    pub until: Option<Millis>,
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

/// What a generation needs to be there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// To become ready.
    Starting,
    /// To accept: it has a listener, and somebody who takes what comes there.
    Serving,
    /// For nothing but its end.
    Ending,
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

    /// The seed of the hash.
    pub fn seed(&self) -> Seed {
        self.rules.seed
    }

    /// Whether connections are held while no worker works.
    pub fn holds(&self) -> bool {
        self.may_hold()
    }

    /// The newest table whose grace period is over.
    pub fn epoch(&self) -> u64 {
        self.publication.published
    }

    /// The holding listener's slot.
    pub fn hold_slot(&self) -> Option<Slot> {
        self.hold.slot
    }

    /// Whether no connection waits in a holding listener, as far as tables were published and listeners shut down.
    pub fn is_hold_idle(&self) -> bool {
        !self.hold.is_used && self.hold.making.is_none() && self.hold.retiring.is_empty()
    }

    /// Whether connections are held now.
    pub fn is_holding(&self) -> bool {
        self.may_hold() && !self.workers.values().any(Worker::takes_part)
    }

    /// Who has which bucket, by index, [`NOBODY`](super::assign::NOBODY) where nobody has.
    pub fn owners(&self) -> Arc<[u32]> {
        self.publication.owners.clone()
    }

    /// The slot of each bucket in the table that is published, or about to be; nothing before the first.
    pub fn slots(&self) -> Option<Arc<[Slot]>> {
        (self.publication.last > 0).then(|| self.buckets())
    }

    /// How far each worker is, by index.
    pub fn states(&self) -> impl Iterator<Item = State> {
        self.workers.values().map(state)
    }

    /// All workers, by index.
    pub fn workers(&self) -> Vec<WorkerView> {
        let last = self.workers.keys().next_back().map_or(0, |&index| index as usize);
        let mut buckets = vec![0_u32; last + 1];
        for &owner in self.publication.owners.iter() {
            if let Some(count) = buckets.get_mut(owner as usize) {
                *count += 1;
            }
        }
        let view = |(&index, worker): (&u32, &Worker)| {
            let shown = shown(worker);
            let generation = shown.and_then(|number| worker.generations.get(&number));
            let own = if worker.takes_part() { buckets[index as usize] } else { 0 };
            WorkerView {
                index,
                state: state(worker),
                generation: shown.map(|number| GenerationId { worker: index, number }),
                last_number: worker.last_number,
                slot: generation.map(|generation| generation.slot),
                pid: generation.and_then(|generation| generation.pid),
                buckets: own,
                weight: worker.weight,
                ramp: worker.ramp.map(|Ramp { from, now, to, ends_at, .. }| RampView {
                    from,
                    now,
                    to,
                    ends_at,
                }),
                canary: canary(index, worker, own),
                cpus: generation.map(|generation| generation.cpus.clone()).unwrap_or_default(),
                message: message(worker),
            }
        };
        self.workers.iter().map(view).collect()
    }

    /// The generations whose listeners must have somebody who accepts, with their slots: those that a table names or will
    /// name, and those that drain and have not been told to stop.
    pub fn serving(&self) -> Vec<(GenerationId, Slot)> {
        let serving = self.each_generation().filter(|(_, generation)| stage(generation) == Stage::Serving);
        serving.map(|(id, generation)| (id, generation.slot)).collect()
    }

    /// The workers' indices.
    pub fn workers_by_index(&self) -> impl Iterator<Item = u32> {
        self.workers.keys().copied()
    }

    /// Whether a worker of a group that adopts begins with a listener that comes: one that was drained and is to stay so does not.
    pub fn takes_listeners(&self, index: u32) -> bool {
        !self.stopping
            && self.workers.get(&index).is_none_or(|worker| worker.goal != Goal::Drained || worker.returns)
    }

    /// The generations that are not forgotten.
    pub(super) fn each_generation(&self) -> impl Iterator<Item = (GenerationId, &Generation)> {
        self.workers.iter().flat_map(|(&worker, state)| {
            let generations = state.generations.iter();
            generations.map(move |(&number, generation)| (GenerationId { worker, number }, generation))
        })
    }

    /// What is under way, for people; nothing where every worker works and nothing else has to be looked after.
    pub fn is_busy(&self) -> Option<String> {
        if !self.operations.is_empty() {
            return Some("a change to it is under way".into());
        }
        if self.is_holding() {
            return Some("no worker works, and connections are held".into());
        }
        let generations = self.workers.iter().flat_map(|(index, worker)| {
            worker.generations.values().map(move |generation| (index, generation))
        });
        let mut busy = generations.filter(|(_, generation)| !matches!(generation.phase, Phase::Working));
        busy.next().map(|(index, _)| format!("worker {index} starts or drains"))
    }

    /// What a generation needs to be there for; nothing where it is forgotten.
    pub fn stage(&self, id: GenerationId) -> Option<Stage> {
        Some(stage(self.generation(id)?))
    }

    /// All generations, with their slots and what each needs to be there for.
    pub fn stages(&self) -> Vec<(GenerationId, Slot, Stage)> {
        let all = self.each_generation();
        all.map(|(id, generation)| (id, generation.slot, stage(generation))).collect()
    }

    /// Since when no new flow can have reached a generation that drains.
    pub fn first_instant(&self, id: GenerationId) -> Option<Millis> {
        match &self.generation(id)?.phase {
            Phase::Draining(drain) => drain.first_instant,
            _ => None,
        }
    }

    /// Whether a generation drains.
    pub fn is_draining(&self, id: GenerationId) -> bool {
        let generation = self.workers.get(&id.worker).and_then(|worker| worker.generations.get(&id.number));
        generation.is_some_and(|generation| matches!(generation.phase, Phase::Draining(_)))
    }

    /// The generation that has a slot. For many slots, [`holders`](Self::holders) walks the generations once.
    pub fn holder(&self, slot: Slot) -> Option<GenerationId> {
        self.each_generation().find(|(_, generation)| generation.slot == slot).map(|(id, _)| id)
    }

    /// Whose generation each slot is that is one's.
    pub fn holders(&self) -> BTreeMap<Slot, GenerationId> {
        self.each_generation().map(|(id, generation)| (generation.slot, id)).collect()
    }
}

fn stage(generation: &Generation) -> Stage {
    match &generation.phase {
        Phase::Starting { .. } => Stage::Starting,
        Phase::Canary(_) | Phase::Ready { .. } | Phase::Working => Stage::Serving,
        Phase::Draining(drain) if drain.shut == Shut::Not && drain.stop_sent.is_none() => Stage::Serving,
        Phase::Draining(_) | Phase::Abandoned { .. } => Stage::Ending,
    }
}

fn canary(index: u32, worker: &Worker, buckets: u32) -> Option<CanaryView> {
    let (number, trial) = worker.canary()?;
    let Generation { slot, pid, .. } = worker.generations[&number];
    Some(CanaryView {
        generation: GenerationId { worker: index, number },
        slot,
        pid,
        buckets: part(buckets as usize, trial.canary.permille) as u32,
        until: trial.until(),
    })
}

fn shown(worker: &Worker) -> Option<u64> {
    worker.working.or_else(|| worker.starting()).or_else(|| worker.generations.keys().next_back().copied())
}

/// Whether it works without a weight: a drain that stays.
fn is_idle(worker: &Worker) -> bool {
    worker.is_published() && !worker.takes_part()
}

fn message(worker: &Worker) -> Option<String> {
    let idle = is_idle(worker).then_some("weight 0: it keeps what it has and gets nothing new");
    let parts: Vec<&str> = idle.into_iter().chain(worker.message.as_deref()).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn state(worker: &Worker) -> State {
    let is_draining =
        worker.generations.values().any(|generation| matches!(generation.phase, Phase::Draining(_)));
    match (worker.working, worker.goal) {
        (Some(_), _) if is_idle(worker) => State::Draining,
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
