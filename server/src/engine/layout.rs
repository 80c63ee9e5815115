//! A table to publish, as the engine decides it.

use std::sync::Arc;

use server_common::flow_hash::Seed;

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
