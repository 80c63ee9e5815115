//! A worker and its generations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    backoff::Backoff,
    drain::Drain,
    event::{Canary, Millis, OperationId, Slot},
    ramp::Ramp,
};

/// The unit of weights in the table: a ramp goes through their fractions.
pub const THOUSANDTHS: u32 = 1_000;

/// What a worker is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// At work; started again when it is lost.
    Work,
    /// Out of the table, without a process, until it is undrained.
    Drained,
    /// Out of the group once it is drained.
    Leave,
}

/// A member of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// What it is to be.
    pub goal: Goal,
    /// Its part of the buckets, relative to the others', as it was last given; with 0 it is to have none.
    pub weight: u32,
    /// The way from the weight before to this one, where it is gone step by step.
    pub ramp: Option<Ramp>,
    /// The generation that gets new flows.
    pub working: Option<u64>,
    /// All generations that are not forgotten.
    pub generations: BTreeMap<u64, Generation>,
    /// The number of the last generation.
    pub last_number: u64,
    /// The operation that has it in hand.
    pub operation: Option<OperationId>,
    /// When it may be started again.
    pub backoff: Backoff,
    /// What is wrong with it.
    pub message: Option<String>,
    /// Of a group that adopts, since when it has no listener.
    #[serde(default)]
    pub vacant_since: Option<Millis>,
    /// Of a group that adopts, whether the next listener that comes ends its drain.
    #[serde(default)]
    pub returns: bool,
}

/// One start of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Where its listener is.
    pub slot: Slot,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its process.
    pub pid: Option<u32>,
    /// How its process ended.
    pub exit: Option<String>,
    /// The CPUs that its process is pinned to, in order; none where it may run on all.
    pub cpus: Vec<usize>,
}

/// How a canary is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// What it gets, and for how long.
    pub canary: Canary,
    /// The number of the first table with it, once it has one.
    pub epoch: Option<u64>,
    /// Since when that table is published.
    pub since: Option<Millis>,
}

/// Where a generation is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Started, not yet ready.
    Starting {
        /// When it is given up.
        deadline: Millis,
    },
    /// Given up before it was ready: told to die.
    Abandoned {
        /// When its process is waited for no longer.
        until: Millis,
    },
    /// Ready, with a part of its worker's buckets, beside the working generation.
    Canary(Trial),
    /// Ready; the first table that names it has this number, once it has one.
    Ready {
        /// The table's number.
        epoch: Option<u64>,
    },
    /// Named by the published table.
    Working,
    /// On its way out.
    Draining(Box<Drain>),
}

impl Worker {
    /// A worker that has not been started.
    pub fn new(weight: u32) -> Self {
        Self {
            goal: Goal::Work,
            weight,
            ramp: None,
            working: None,
            generations: BTreeMap::new(),
            last_number: 0,
            operation: None,
            backoff: Backoff::default(),
            message: None,
            vacant_since: None,
            returns: false,
        }
    }

    /// The generation that starts, where one does.
    pub fn starting(&self) -> Option<u64> {
        let starting = |generation: &Generation| {
            matches!(generation.phase, Phase::Starting { .. } | Phase::Abandoned { .. })
        };
        self.generations.iter().find(|(_, generation)| starting(generation)).map(|(&number, _)| number)
    }

    /// Its new generation that is tried beside the working one, where there is one.
    pub fn canary(&self) -> Option<(u64, &Trial)> {
        self.generations.iter().find_map(|(&number, generation)| match &generation.phase {
            Phase::Canary(trial) => Some((number, trial)),
            _ => None,
        })
    }

    /// Its drains under way.
    pub(super) fn drains_mut(&mut self) -> impl Iterator<Item = &mut Drain> {
        self.generations.values_mut().filter_map(|generation| match &mut generation.phase {
            Phase::Draining(drain) => Some(&mut **drain),
            _ => None,
        })
    }

    /// Whether a process of it runs, or may yet.
    pub fn is_running(&self) -> bool {
        self.generations.values().any(|generation| generation.exit.is_none())
    }

    /// Whether its one generation works and nothing is to become of it by itself: no start, no drain, no canary. So nearly all of
    /// a large group are, and need not be looked into at each event.
    pub(super) fn is_steady(&self) -> bool {
        self.goal == Goal::Work && self.working.is_some() && self.generations.len() == 1
    }

    /// Its weight now, in thousandths.
    pub fn effective_weight(&self) -> u32 {
        self.ramp.map_or(self.weight * THOUSANDTHS, |ramp| ramp.now)
    }

    /// Whether it has buckets in the next table: one that works without a weight keeps what it has.
    pub fn takes_part(&self) -> bool {
        self.working.is_some() && self.effective_weight() > 0
    }

    /// Whether its working generation was ready when the published table was given out.
    pub fn is_published(&self) -> bool {
        self.working
            .and_then(|number| self.generations.get(&number))
            .is_some_and(|generation| matches!(generation.phase, Phase::Working))
    }
}
