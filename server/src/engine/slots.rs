//! Which slots of the sockarray are taken.

use std::collections::{BTreeSet, VecDeque};

use super::event::Slot;

/// Hands out slots, the one longest free first: the later a slot comes back, the easier its counters and logs
/// are told apart from its last holder's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    free: VecDeque<Slot>,
}

impl Slots {
    /// All of `1..count` are free; 0 is where the program counts what it drops.
    pub fn new(count: u32) -> Self {
        let end = Slot::try_from(count).unwrap_or(Slot::MAX);
        Self { free: (server_common::limits::DROPPED_SLOT + 1..end).collect() }
    }

    /// All but 0 and those that somebody has.
    pub fn without(count: u32, taken: &BTreeSet<Slot>) -> Self {
        let mut slots = Self::new(count);
        slots.free.retain(|slot| !taken.contains(slot));
        slots
    }

    /// Takes a free slot.
    pub fn take(&mut self) -> Option<Slot> {
        self.free.pop_front()
    }

    /// Gives a slot back. The caller knows that no table names it and that a grace period has passed since.
    pub fn give_back(&mut self, slot: Slot) {
        debug_assert!(!self.free.contains(&slot), "slot {slot} was given back twice");
        self.free.push_back(slot);
    }

    /// Whether a slot is free.
    pub fn is_free(&self, slot: Slot) -> bool {
        self.free.contains(&slot)
    }
}
