//! The choice chain: which slot a flow gets, down to the last resort.
//!
//! The program never returns with nothing selected: SK_PASS without a selection leaves the choice to the kernel's
//! hash over all members, draining ones and strangers included. So each step of the chain is tried until the kernel
//! takes one, and what is left then is the holding listener or a drop.

use crate::{
    counters::Outcome,
    limits::{BUCKETS, CHOICES, DROPPED_SLOT, NO_SLOT, SCAN_MAX},
    load::Load,
    policy::Rule,
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

/// What the chain asks of its surroundings: the kernel's helpers and maps in the program, a model of them in a test.
pub trait Surroundings {
    /// Tries a slot; whether the kernel took it. It is not asked for a slot that cannot be one.
    fn select(&mut self, slot: u16) -> bool;
    /// The load of the worker in a slot. Asked for under the policy `least-loaded` only.
    fn load(&self, slot: u16) -> Load;
    /// Whether that load is bad, where nothing else of it counts.
    fn is_bad(&self, slot: u16) -> bool {
        self.load(slot).is_bad
    }
    /// The CPU that took the packet; `None` where there is no packet. Asked for under the policy `cpu` only.
    fn cpu(&self) -> Option<u32>;
}

/// Whoever takes slots and has no loads and no CPUs to tell of: enough where the table alone decides.
impl<F: FnMut(u16) -> bool> Surroundings for F {
    #[inline(always)]
    fn select(&mut self, slot: u16) -> bool {
        self(slot)
    }

    #[inline(always)]
    fn load(&self, _: u16) -> Load {
        Load::default()
    }

    #[inline(always)]
    fn cpu(&self) -> Option<u32> {
        None
    }
}

/// The bucket that a flow's `choice` (0 for the first, below [`CHOICES`]) falls into.
///
/// Different choices are different bits of a pseudo-random function's value: independent hashes, without hashing again.
#[inline(always)]
pub fn bucket(key: u64, choice: u32) -> usize {
    (key >> (choice * BUCKETS.ilog2())) as usize & (BUCKETS - 1)
}

/// The index in the sockarray of one of a slot's `sockets` places: a slot has them in a row.
#[inline(always)]
pub fn index(slot: u16, sockets: u32, place: u32) -> u32 {
    slot as u32 * sockets + place
}

/// Whether this is the flow that a starting worker is probed with: by its whole 4-tuple, whatever the key is of.
#[inline(always)]
pub fn is_probe(table: &Table, tuple_hash: u64) -> bool {
    tuple_hash == table.probe_hash && table.probe_slot != NO_SLOT
}

/// Walks the chain for a flow with this key.
#[inline(always)]
pub fn choose(table: &Table, key: u64, surroundings: &mut impl Surroundings) -> Chosen {
    match first(table, key, surroundings) {
        Some(chosen) => chosen,
        None => further(table, key, surroundings),
    }
}

/// The first link of the chain, which nearly always holds; by itself, so that the program can have the others out of
/// its way.
#[inline(always)]
pub fn first(table: &Table, key: u64, surroundings: &mut impl Surroundings) -> Option<Chosen> {
    let slot = table.slot(bucket(key, 0));
    if table.is_read_by(Rule::LeastLoaded) && slot != NO_SLOT && !surroundings.load(slot).is_light(table.tie)
    {
        // Out of the way as well.
        return None;
    }
    if table.is_read_by(Rule::Cpu)
        && let Some(cpu) = surroundings.cpu()
    {
        let slot = table.on_cpu(cpu, key);
        if slot != NO_SLOT && surroundings.select(slot) {
            return Some(Chosen { slot, outcome: Outcome::OwnCpu });
        }
    }
    (slot != NO_SLOT && surroundings.select(slot)).then(|| chosen(table, slot, Outcome::FirstChoice))
}

/// The chain for where the first choice is loaded or could not be selected: the less loaded of two, where that is the
/// rule; then the key's choices, any working slot, the holding listener, nothing. It begins with the first choice again:
/// the table may be the next one by now.
#[inline(always)]
pub fn further(table: &Table, key: u64, surroundings: &mut impl Surroundings) -> Chosen {
    if table.is_read_by(Rule::LeastLoaded) {
        let first = table.slot(bucket(key, 0));
        let slot = less_loaded(table, key, first, surroundings);
        if slot != NO_SLOT && surroundings.select(slot) {
            let outcome = if slot == first { Outcome::FirstChoice } else { Outcome::LessLoaded };
            return chosen(table, slot, outcome);
        }
    }
    let mut choice = 0;
    while choice < CHOICES {
        let slot = table.slot(bucket(key, choice));
        if slot != NO_SLOT && surroundings.select(slot) {
            let outcome = if choice == 0 { Outcome::FirstChoice } else { Outcome::FurtherChoice };
            return chosen(table, slot, outcome);
        }
        choice += 1;
    }
    let mut tried = 0;
    while table.working_count != 0 && tried < SCAN_MAX {
        let slot = working(table, key, tried);
        if slot != NO_SLOT && surroundings.select(slot) {
            return Chosen { slot, outcome: Outcome::FurtherChoice };
        }
        tried += 1;
    }
    if table.hold != NO_SLOT && surroundings.select(table.hold) {
        return Chosen { slot: table.hold, outcome: Outcome::Held };
    }
    Chosen { slot: DROPPED_SLOT, outcome: Outcome::Dropped }
}

/// The less loaded of a flow's first choice and its second, which is the next of its choices that is another worker's and not
/// bad; where all of them are bad, any working slot that is not. If all look bad, all are used: by the first choice.
#[inline(always)]
fn less_loaded(table: &Table, key: u64, first: u16, surroundings: &impl Surroundings) -> u16 {
    let load = if first == NO_SLOT { Load { count: 0, is_bad: true } } else { surroundings.load(first) };
    let mut choice = 1;
    while choice < CHOICES {
        let second = table.slot(bucket(key, choice));
        choice += 1;
        if second == first || second == NO_SLOT {
            continue;
        }
        let other = surroundings.load(second);
        if load.yields_to(&other, table.tie) {
            return second;
        }
        if !other.is_bad {
            return first;
        }
    }
    let mut tried = 0;
    while load.is_bad && table.working_count != 0 && tried < SCAN_MAX {
        let slot = working(table, key, tried);
        if slot != NO_SLOT && !surroundings.is_bad(slot) {
            return slot;
        }
        tried += 1;
    }
    first
}

/// A working slot, for the `tried`th attempt of a flow. There is at least one.
#[inline(always)]
fn working(table: &Table, key: u64, tried: u32) -> u16 {
    let count = table.working_count as u64;
    // The mask is for the verifier, which does not follow the remainder.
    let index = ((key >> 32) + tried as u64) % count;
    table.named[index as usize & (NAMED_MAX - 1)]
}

/// A slot that a bucket names: the holding listener counts as that.
#[inline(always)]
fn chosen(table: &Table, slot: u16, outcome: Outcome) -> Chosen {
    Chosen { slot, outcome: if slot == table.hold { Outcome::Held } else { outcome } }
}
