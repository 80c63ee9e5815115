//! The choice chain: which slot a flow gets, down to the last resort.
//!
//! The program never returns with nothing selected: SK_PASS without a selection leaves the choice to the kernel's
//! hash over all members, draining ones and strangers included. So each step of the chain is tried until the kernel
//! takes one, and what is left then is the holding listener or a drop.

use crate::{
    counters::Outcome,
    limits::{BUCKETS, CHOICES, DROPPED_SLOT, NO_SLOT, SCAN_MAX},
    table::Table,
};

/// What the chain ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// The slot selected; [`DROPPED_SLOT`] where none was.
    pub slot: u16,
    /// How it was found.
    pub outcome: Outcome,
}

/// The bucket that a flow's `choice` (0 for the first, below [`CHOICES`]) falls into.
#[inline(always)]
pub fn bucket(hash: u64, choice: u32) -> usize {
    (hash >> (choice * BUCKETS.ilog2())) as usize & (BUCKETS - 1)
}

/// Walks the chain for a flow's `hash`. The flow that a starting worker is probed with goes to that worker, which no
/// bucket names yet. `select` tries a slot and tells whether the kernel took it; it is not
/// asked for a slot that cannot be one.
#[inline(always)]
pub fn choose(table: &Table, hash: u64, mut select: impl FnMut(u16) -> bool) -> Chosen {
    if hash == table.probe_hash && table.probe_slot != NO_SLOT && select(table.probe_slot) {
        return Chosen { slot: table.probe_slot, outcome: Outcome::FirstChoice };
    }
    let mut outcome = Outcome::FirstChoice;
    let mut choice = 0;
    while choice < CHOICES {
        let slot = table.buckets[bucket(hash, choice)];
        if slot != NO_SLOT && select(slot) {
            return Chosen { slot, outcome: if slot == table.hold { Outcome::Held } else { outcome } };
        }
        outcome = Outcome::FurtherChoice;
        choice += 1;
    }
    any_working(table, hash, select)
}

/// The rare end of the chain: any working slot, then the holding listener, then nothing.
#[inline(always)]
fn any_working(table: &Table, hash: u64, mut select: impl FnMut(u16) -> bool) -> Chosen {
    let count = table.working_count as u64;
    let mut tried = 0;
    while count != 0 && tried < SCAN_MAX {
        // The mask is for the verifier, which does not follow the remainder.
        let index = ((hash >> 32) + tried as u64) % count;
        let slot = table.working[index as usize & (table.working.len() - 1)];
        if slot != NO_SLOT && select(slot) {
            return Chosen { slot, outcome: Outcome::FurtherChoice };
        }
        tried += 1;
    }
    if table.hold != NO_SLOT && select(table.hold) {
        return Chosen { slot: table.hold, outcome: Outcome::Held };
    }
    Chosen { slot: DROPPED_SLOT, outcome: Outcome::Dropped }
}
