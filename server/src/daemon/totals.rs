//! What was counted for slots that are free again.

use std::collections::BTreeMap;

use server_common::counters::{Asked, SlotCounters};

/// Counters that have outlived their slots.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// By worker's index.
    pub(super) workers: BTreeMap<u32, WorkerTotals>,
    /// Of holding listeners.
    pub(super) held: SlotCounters,
}

/// A worker's.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct WorkerTotals {
    /// Of its forgotten generations.
    pub(super) counters: SlotCounters,
    /// Connections migrated away from its generations.
    pub(super) migrated_out: u64,
}

/// New connections in a set of counters.
pub(super) fn selected(counters: &SlotCounters) -> u64 {
    counters.asked[Asked::Connection as usize]
}

/// Migrated connections in a set of counters.
pub(super) fn migrated_in(counters: &SlotCounters) -> u64 {
    counters.asked[Asked::Migration as usize]
}
