//! What was counted for slots that are free again.

use std::collections::BTreeMap;

use server_common::counters::{Asked, SlotCounters};

use crate::{control::api::Drains, engine::effect::Outcome};

/// Counters that have outlived their slots.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    /// By worker's index.
    pub(crate) workers: BTreeMap<u32, WorkerTotals>,
    /// Of holding listeners.
    pub(crate) held: SlotCounters,
    /// How many times one more stranger was seen than before.
    pub(crate) strangers: u64,
}

/// A worker's.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct WorkerTotals {
    /// Of its forgotten generations.
    pub(crate) counters: SlotCounters,
    /// Connections migrated away from its generations.
    pub(crate) migrated_out: u64,
    /// Its drains that have ended.
    pub(crate) drains: Drains,
}

impl Totals {
    /// The drains of all workers that there are or were.
    pub(crate) fn drains(&self) -> Drains {
        self.workers.values().fold(Drains::default(), |sum, worker| Drains {
            drained: sum.drained + worker.drains.drained,
            deadline: sum.deadline + worker.drains.deadline,
            lost: sum.lost + worker.drains.lost,
        })
    }
}

/// Counts a drain that has ended.
pub(crate) fn count_drain(drains: &mut Drains, outcome: Outcome) {
    *match outcome {
        Outcome::Drained => &mut drains.drained,
        Outcome::Deadline => &mut drains.deadline,
        Outcome::Lost => &mut drains.lost,
    } += 1;
}

/// New connections in a set of counters.
pub(crate) fn selected(counters: &SlotCounters) -> u64 {
    counters.asked[Asked::Connection as usize]
}

/// Migrated connections in a set of counters.
pub(crate) fn migrated_in(counters: &SlotCounters) -> u64 {
    counters.asked[Asked::Migration as usize]
}
