//! The holding listener: connections wait in it while no worker works, and migrate to the first that is ready.
//!
//! It is also the anchor of the kernel's group, which ends with its last member: the program stays attached through a
//! cold start and a crash of all. It gets connections only where a table names it.
//!
//! Ending a hold needs a second holding listener. The half-open handshakes of the first follow it only while it does
//! not listen, so it may not be shut down and opened again; it is replaced, then shut down for good.

use super::{
    effect::Effect,
    event::{Millis, Moved, Slot},
    group::Group,
};

/// How long to wait before the holding listener is tried again.
const RETRY: Millis = 1_000;

/// The holding listeners of a group.
#[derive(Debug, Clone, Default)]
pub(super) struct Hold {
    /// The one that listens.
    pub(super) slot: Option<Slot>,
    /// The one that is being made.
    pub(super) making: Option<Slot>,
    /// Whether a table has sent connections to it since it was made.
    pub(super) is_used: bool,
    /// Those that are replaced, each with the number of the first table that does not name it.
    pub(super) retiring: Vec<(Slot, Option<u64>)>,
    /// When to try again.
    pub(super) retry_at: Option<Millis>,
}

impl Hold {
    fn retire(&mut self) {
        self.retiring.extend(self.slot.take().map(|slot| (slot, None)));
        self.is_used = false;
    }
}

impl Group {
    /// Asks for a holding listener where there is none, or where the one there is has held and is not needed now.
    pub(super) fn step_hold(&mut self, now: Millis) {
        if self.hold.making.is_some() || self.hold.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.hold.retry_at = None;
        let works = self.workers.values().any(|worker| worker.working.is_some());
        if self.hold.slot.is_none() || (self.hold.is_used && works) {
            match self.slots.take() {
                Some(slot) => {
                    self.hold.making = Some(slot);
                    self.effects.push(Effect::MakeHold { slot });
                }
                None => self.hold.retry_at = Some(now + RETRY),
            }
        }
    }

    pub(super) fn hold_made(&mut self, slot: Slot) {
        if self.hold.making != Some(slot) {
            return;
        }
        self.hold.making = None;
        self.hold.retire();
        self.hold.slot = Some(slot);
        self.publication.is_due = true;
    }

    pub(super) fn hold_failed(&mut self, now: Millis, slot: Slot, why: String) {
        if self.hold.making != Some(slot) {
            return;
        }
        self.hold.making = None;
        self.slots.give_back(slot);
        self.hold.retry_at = Some(now + RETRY);
        self.note("hold-failed", None, why);
    }

    /// A table is published: holding listeners that it does not name can go.
    pub(super) fn retire_holds(&mut self, epoch: u64) {
        for (slot, first_without) in &self.hold.retiring {
            if first_without.is_some_and(|first| first <= epoch) {
                self.effects.push(Effect::ShutHold { slot: *slot });
            }
        }
    }

    pub(super) fn hold_shut(&mut self, slot: Slot, moved: &Moved) {
        let before = self.hold.retiring.len();
        self.hold.retiring.retain(|(retiring, _)| *retiring != slot);
        if self.hold.retiring.len() < before {
            self.slots.give_back(slot);
            let held: u64 = moved.values().sum();
            if held > 0 {
                self.note("hold-ended", None, format!("{held} connections that waited have migrated"));
            }
        }
    }
}
