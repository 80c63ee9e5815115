//! The holding listener: connections wait in it while no worker works, and migrate to the first that is ready.
//!
//! It is also the anchor of the kernel's group, which ends with its last member: the program stays attached through a
//! cold start and a crash of all. It gets connections only where a table names it.
//!
//! Ending a hold needs a second holding listener. The half-open handshakes of the first follow it only while it does
//! not listen, so it may not be shut down and opened again; it is replaced, then shut down for good.

use serde::{Deserialize, Serialize};

use super::{
    effect::Effect,
    event::{Millis, Moved, Slot},
    group::Group,
    worker::Worker,
};

/// How long to wait before the holding listener is tried again.
const RETRY: Millis = 1_000;

/// How long connections are held for a server that nobody is about to start: whoever stops it and starts it by hand takes about so long.
const GRACE: Millis = 3_000;

/// The holding listeners of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hold {
    /// The one that listens.
    pub(super) slot: Option<Slot>,
    /// The one that is being made.
    pub(super) making: Option<Slot>,
    /// Whether a table has sent connections to it since it was made.
    pub(super) is_used: bool,
    /// Those that are replaced.
    pub(super) retiring: Vec<Retiring>,
    /// When to try again.
    pub(super) retry_at: Option<Millis>,
    /// Since when no worker works, where none does.
    #[serde(default)]
    empty_since: Option<Millis>,
    /// Since when nobody is about to start the server, where that is known.
    #[serde(default)]
    unexpected_since: Option<Millis>,
    /// Whether connections have been held for as long as they may be: they are refused until a worker works.
    #[serde(default)]
    is_over: bool,
}

/// A holding listener that is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retiring {
    pub(super) slot: Slot,
    /// The number of the first table that does not name it, once it has one.
    pub(super) first_without: Option<u64>,
    /// Whether it was asked to be shut down: once, as its slot may be another's right after.
    is_being_shut: bool,
}

impl Hold {
    /// Notes whether the server is about to be started again.
    pub(super) fn expected(&mut self, now: Millis, is_coming: bool) {
        self.unexpected_since = (!is_coming).then(|| self.unexpected_since.unwrap_or(now));
    }

    /// When holding ends, where no worker works until then.
    fn ends_at(&self, hold_max: Option<Millis>) -> Option<Millis> {
        let empty_since = self.empty_since?;
        let at_most = hold_max.map(|most| empty_since + most);
        let unexpected = self.unexpected_since.map(|since| since.max(empty_since) + GRACE);
        at_most.into_iter().chain(unexpected).min()
    }

    fn retire(&mut self) {
        let retiring = |slot| Retiring { slot, first_without: None, is_being_shut: false };
        self.retiring.extend(self.slot.take().map(retiring));
        self.is_used = false;
    }
}

impl Group {
    /// Where no worker has worked for too long, ends the holding; and begins it anew once one works.
    pub(super) fn step_hold_end(&mut self, now: Millis) {
        let works = self.workers.values().any(Worker::takes_part);
        let has_end = self.rules.hold_max.is_some() || self.hold.unexpected_since.is_some();
        self.hold.empty_since = (!works && has_end).then(|| self.hold.empty_since.unwrap_or(now));
        let is_over = self.hold.ends_at(self.rules.hold_max).is_some_and(|at| now >= at);
        if is_over != self.hold.is_over {
            self.hold.is_over = is_over;
            self.publication.is_due = true;
            if is_over && self.rules.hold && !self.stopping {
                self.note(
                    "hold-over",
                    None,
                    "no worker has come in time: connections are refused until one works",
                );
            }
        }
    }

    /// When the holding ends by itself.
    pub(super) fn hold_ends_at(&self) -> Option<Millis> {
        self.hold.ends_at(self.rules.hold_max).filter(|_| !self.hold.is_over)
    }

    /// Whether connections are held for as long as no worker works.
    pub(super) fn may_hold(&self) -> bool {
        self.rules.hold && !self.stopping && !self.hold.is_over
    }

    /// Asks for a holding listener where there is none, or where the one there is has held and is not needed now.
    pub(super) fn step_hold(&mut self, now: Millis) {
        if self.hold.making.is_some() || self.hold.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.hold.retry_at = None;
        let is_needed = self.may_hold() && !self.workers.values().any(Worker::takes_part);
        if self.hold.slot.is_none() || (self.hold.is_used && !is_needed) {
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

    /// The listener is gone: another takes its place, in another slot, as tables name this one.
    pub(super) fn hold_lost(&mut self, slot: Slot) {
        if self.hold.slot == Some(slot) {
            self.hold.retire();
            self.publication.is_due = true;
            self.note("hold-lost", None, "the holding listener is gone, and is made anew");
        }
    }

    /// Asks again for what was asked for by a daemon that is gone.
    pub(super) fn resume_hold(&mut self) {
        self.effects.extend(self.hold.making.map(|slot| Effect::MakeHold { slot }));
        let being_shut = self.hold.retiring.iter().filter(|retiring| retiring.is_being_shut);
        self.effects.extend(being_shut.map(|retiring| Effect::ShutHold { slot: retiring.slot }));
    }

    /// The slots that holding listeners have, or will.
    pub fn hold_slots(&self) -> Vec<Slot> {
        let retiring = self.hold.retiring.iter().map(|retiring| retiring.slot);
        self.hold.slot.into_iter().chain(self.hold.making).chain(retiring).collect()
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

    /// What a listener held has moved: where it could go nowhere but into the holding listener, that holds now, whatever
    /// the table says.
    pub(super) fn hold_received(&mut self, moved: &Moved) {
        if self.hold.slot.is_some_and(|slot| moved.contains_key(&slot)) {
            self.hold.is_used = true;
        }
    }

    /// A table is published: holding listeners that it does not name can go.
    pub(super) fn retire_holds(&mut self, epoch: u64) {
        for retiring in &mut self.hold.retiring {
            let is_unnamed = retiring.first_without.is_some_and(|first| first <= epoch);
            if is_unnamed && !retiring.is_being_shut {
                retiring.is_being_shut = true;
                self.effects.push(Effect::ShutHold { slot: retiring.slot });
            }
        }
    }

    pub(super) fn hold_shut(&mut self, slot: Slot, moved: &Moved) {
        let before = self.hold.retiring.len();
        self.hold.retiring.retain(|retiring| retiring.slot != slot || !retiring.is_being_shut);
        if self.hold.retiring.len() < before {
            self.slots.give_back(slot);
            self.hold_received(moved);
            let held: u64 = moved.values().sum();
            if held > 0 {
                self.note("hold-ended", None, format!("{held} connections that waited have migrated"));
            }
        }
    }
}
