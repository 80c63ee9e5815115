//! What was counted for slots that are free again.

use std::collections::BTreeMap;

use server_common::counters::{Asked, SlotCounters};

use crate::{control::api::Drains, engine::effect::Outcome};

/// Counters that have outlived their slots.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// By worker's index.
    pub(super) workers: BTreeMap<u32, WorkerTotals>,
    /// Of holding listeners.
    pub(super) held: SlotCounters,
    /// How many times one more stranger was seen than before.
    pub(super) strangers: u64,
}

/// A worker's.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct WorkerTotals {
    /// Of its forgotten generations.
    pub(super) counters: SlotCounters,
    /// Connections migrated away from its generations.
    pub(super) migrated_out: u64,
    /// Its drains that have ended.
    pub(super) drains: Drains,
}

impl Totals {
    /// The drains of all workers that there are or were.
    pub(super) fn drains(&self) -> Drains {
        self.workers.values().fold(Drains::default(), |sum, worker| Drains {
            drained: sum.drained + worker.drains.drained,
            deadline: sum.deadline + worker.drains.deadline,
            lost: sum.lost + worker.drains.lost,
        })
    }
}

/// Counts a drain that has ended.
pub(super) fn count_drain(drains: &mut Drains, outcome: Outcome) {
    *match outcome {
        Outcome::Drained => &mut drains.drained,
        Outcome::Deadline => &mut drains.deadline,
        Outcome::Lost => &mut drains.lost,
    } += 1;
}

/// New connections in a set of counters.
pub(super) fn selected(counters: &SlotCounters) -> u64 {
    counters.asked[Asked::Connection as usize]
}

/// Migrated connections in a set of counters.
pub(super) fn migrated_in(counters: &SlotCounters) -> u64 {
    counters.asked[Asked::Migration as usize]
}
