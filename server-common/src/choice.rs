//! The choice chain: which slot a flow gets, down to the last resort.
//!
//! The program never returns with nothing selected: SK_PASS without a selection leaves the choice to the kernel's
//! hash over all members, draining ones and strangers included. So each step of the chain is tried until the kernel
//! takes one, and what is left then is the holding listener or a drop.

use crate::{
    counters::Outcome,
    limits::{BUCKETS, CHOICES, DROPPED_SLOT, NO_SLOT, SCAN_MAX},
    table::{NAMED_MAX, Table},
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

/// Walks the chain for a flow's `hash`. `select` tries a slot and tells whether the kernel took it; it is not
/// asked for a slot that cannot be one.
#[inline(always)]
pub fn choose(table: &Table, hash: u64, mut select: impl FnMut(u16) -> bool) -> Chosen {
    match first(table, hash, &mut select) {
        Some(chosen) => chosen,
        None => further(table, hash, select),
    }
}

/// The first link of the chain, which nearly always holds; by itself, so that the program can have the others out of
/// its way.
///
/// The flow that a starting worker is probed with goes to that worker, which no bucket names yet.
#[inline(always)]
pub fn first(table: &Table, hash: u64, mut select: impl FnMut(u16) -> bool) -> Option<Chosen> {
    if hash == table.probe_hash && table.probe_slot != NO_SLOT && select(table.probe_slot) {
        return Some(Chosen { slot: table.probe_slot, outcome: Outcome::FirstChoice });
    }
    let slot = table.slot(bucket(hash, 0));
    (slot != NO_SLOT && select(slot)).then(|| chosen(table, slot, Outcome::FirstChoice))
}

/// The rest of the chain, for where the first choice could not be selected: the hash's further choices, any working
/// slot, then the holding listener, then nothing.
#[inline(always)]
pub fn further(table: &Table, hash: u64, mut select: impl FnMut(u16) -> bool) -> Chosen {
    let mut choice = 1;
    while choice < CHOICES {
        let slot = table.slot(bucket(hash, choice));
        if slot != NO_SLOT && select(slot) {
            return chosen(table, slot, Outcome::FurtherChoice);
        }
        choice += 1;
    }
    let count = table.working_count as u64;
    let mut tried = 0;
    while count != 0 && tried < SCAN_MAX {
        // The mask is for the verifier, which does not follow the remainder.
        let index = ((hash >> 32) + tried as u64) % count;
        let slot = table.named[index as usize & (NAMED_MAX - 1)];
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

/// A slot that a bucket names: the holding listener counts as that.
#[inline(always)]
fn chosen(table: &Table, slot: u16, outcome: Outcome) -> Chosen {
    Chosen { slot, outcome: if slot == table.hold { Outcome::Held } else { outcome } }
}
