//! A table to publish, as the engine decides it.

use std::sync::Arc;

use server_common::{flow_hash::Seed, limits::NO_SLOT, table::Table};

use super::event::Slot;

/// Everything that one swap changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The number of this publication.
    pub epoch: u64,
    /// The seed of the hash.
    pub seed: Seed,
    /// The holding listener's slot; without one the last resort is to drop.
    pub hold: Option<Slot>,
    /// The flow that a starting worker is probed with, by its hash, and that worker's slot.
    pub probe: Option<(u64, Slot)>,
    /// The slots of the working generations.
    pub working: Vec<Slot>,
    /// The slot of each bucket, [`NO_SLOT`](server_common::limits::NO_SLOT) for none.
    pub buckets: Arc<[Slot]>,
}

impl Layout {
    /// Writes the layout over a table.
    pub fn write(&self, table: &mut Table) {
        table.clear(self.seed, self.epoch);
        table.hold = self.hold.unwrap_or(NO_SLOT);
        if let Some((hash, slot)) = self.probe {
            table.probe_hash = hash;
            table.probe_slot = slot;
        }
        table.working_count = self.working.len() as u16;
        table.working[..self.working.len()].copy_from_slice(&self.working);
        table.buckets.copy_from_slice(&self.buckets);
    }
}
