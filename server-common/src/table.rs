//! The steering table: bucket to slot, with the seed that finds the bucket. One map value, swapped whole.

use crate::{
    flow_hash::Seed,
    limits::{BUCKETS, NO_SLOT, WORKERS_MAX},
};

/// A published table, as the program reads it.
///
/// It lives in an inner array of an ARRAY_OF_MAPS; publishing swaps the inner array, so a run of the program sees
/// the whole of one table or the whole of the next. A bucket names a slot and not a worker: that is one
/// memory access less per packet, and a handover rewrites the table in any case.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// The seed of the hash that finds a flow's bucket.
    pub seed: Seed,
    /// The number of this publication.
    pub epoch: u64,
    /// The hash of the one flow that a starting worker is probed with; it counts only with `probe_slot`.
    pub probe_hash: u64,
    /// The holding listener's slot, the last resort; [`NO_SLOT`] where the last resort is to drop.
    pub hold: u16,
    /// How many of `working` are filled.
    pub working_count: u16,
    /// The slot that the probe's flow gets; [`NO_SLOT`] while nobody is probed.
    pub probe_slot: u16,
    /// Keeps `buckets` at a multiple of 8.
    padding: u16,
    /// The slots of the working generations, for when a flow's own choices cannot be selected.
    pub working: [u16; WORKERS_MAX],
    /// The slot for each bucket; [`NO_SLOT`] where nothing is to be selected.
    pub buckets: [u16; BUCKETS],
}

const _: () = assert!(size_of::<Table>() == 40 + 2 * WORKERS_MAX + 2 * BUCKETS);
const _: () = assert!(core::mem::offset_of!(Table, working) == 40);
const _: () = assert!(core::mem::offset_of!(Table, buckets).is_multiple_of(8));

impl Table {
    /// A table that selects nothing, in `place` of whatever was there. Tables are too large for the stack.
    pub fn clear(&mut self, seed: Seed, epoch: u64) {
        self.seed = seed;
        self.epoch = epoch;
        self.probe_hash = 0;
        self.hold = NO_SLOT;
        self.working_count = 0;
        self.probe_slot = NO_SLOT;
        self.padding = 0;
        self.working.fill(NO_SLOT);
        self.buckets.fill(NO_SLOT);
    }
}

// SAFETY: `repr(C)` of integers, without implicit padding, as the size asserted above shows: every bit pattern is a
// value.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for Table {}
