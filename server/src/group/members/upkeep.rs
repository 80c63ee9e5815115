//! Attaches the program, and puts right what somebody else has undone.

use std::{collections::BTreeSet, os::fd::AsFd as _, os::fd::OwnedFd};

use crate::{
    daemon::describe::describe,
    dataplane::error::DataplaneError,
    engine::event::Slot,
    sockets::{address::ListenAddress, options},
};

use super::{Members, anchor::Anchor, endpoint::Endpoint, error::EndpointError};

/// What was found at a look at what others can take away.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// What was put right, for people.
    pub(crate) repaired: Vec<&'static str>,
    /// Slots whose listeners have to be taken from their processes to be looked after.
    pub(crate) out_of_hand: Vec<Slot>,
}

impl Members {
    /// Restores what others can remove: pins, the program's attachment, and every other slot, by turns.
    pub(crate) fn look_after(
        &mut self,
        hold: Option<Slot>,
        ending: &BTreeSet<Slot>,
    ) -> Vec<(ListenAddress, Upkeep)> {
        self.was_at_odd = !self.was_at_odd;
        let parity = Slot::from(self.was_at_odd);
        let mut found = Vec::new();
        for endpoint in &mut self.endpoints {
            match endpoint.look_after(parity, hold, ending) {
                Ok(upkeep) => found.push((endpoint.address, upkeep)),
                Err(error) => tracing::warn!("cannot look after {}: {}", endpoint.address, describe(&error)),
            }
        }
        found
    }

    /// Puts listeners that were taken back into their slot; the addresses where it had been cleared.
    pub(crate) fn refill(&self, slot: Slot, mut taken: Vec<OwnedFd>) -> Vec<ListenAddress> {
        let mut filled = Vec::new();
        for endpoint in &self.endpoints {
            for (place, listener) in endpoint.sort_taken(slot, &mut taken) {
                match endpoint.fill(slot, place, &listener) {
                    Ok(true) => filled.push(endpoint.address),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!("cannot look after {}: {}", endpoint.address, describe(&error))
                    }
                }
            }
        }
        filled
    }
}

impl Endpoint {
    /// Puts right what somebody else may have undone: pins, the program's attachment, slots.
    ///
    /// The kernel tells nobody of another program, so ours is attached again and again: the last one counts. Of the slots it
    /// looks after the even or the odd ones, by turns of `parity`: with many groups they are most of what a look costs. `hold` is
    /// the holding listener's slot. Slots of generations that are `ending` may have been cleared by ourselves.
    pub(super) fn look_after(
        &mut self,
        parity: Slot,
        hold: Option<Slot>,
        ending: &BTreeSet<Slot>,
    ) -> Result<Upkeep, EndpointError> {
        let mut upkeep = Upkeep::default();
        // Not that anybody has undone it: before the age of an idle flow goes round.
        self.kernel.flows().sweep(self.opening.flows.idle, None);
        if self.is_udp() {
            let slots: Vec<Slot> = self.members.keys().copied().collect();
            slots.into_iter().try_for_each(|slot| self.by_id(slot).map(drop))?;
        }
        if let Some(pins) = &self.opening.pins
            && self.kernel.repin(pins)?
        {
            upkeep.repaired.push("its pins were removed, and are made again");
        }
        let is_looked_at = |slot: Slot| slot % 2 == parity && !ending.contains(&slot);
        for (&slot, members) in self.members.iter().filter(|(slot, _)| is_looked_at(**slot)) {
            for member in members {
                let Some(listener) = member.at_hand() else {
                    upkeep.out_of_hand.push(slot);
                    break;
                };
                if self.fill(slot, member.place, &listener)? {
                    upkeep.repaired.push(CLEARED);
                }
            }
        }
        if self.is_attached {
            self.attach_through(hold)?;
        }
        Ok(upkeep)
    }

    /// A listener to reach the kernel group by.
    ///
    /// One that listens: if a program is attached through one that was shut down, the kernel gives that one a group of its own
    /// (`reuseport_resurrect`), and the half-open handshakes that follow it find nobody there to migrate to. The holding listener
    /// first: nobody else has it who could shut it down meanwhile. A UDP group holds nothing; its anchor comes last.
    pub(super) fn member(&self, hold: Option<Slot>) -> Option<&OwnedFd> {
        let own = hold.and_then(|slot| self.members.get(&slot));
        let anchors = self.anchor.iter().flat_map(Anchor::members);
        let members = own.into_iter().chain(self.members.values()).flatten().chain(anchors);
        let mut at_hand = members.filter_map(|member| member.descriptor.as_ref());
        // A socket of UDP takes what comes for as long as it is bound.
        at_hand.find(|member| self.is_udp() || options::listens(member).unwrap_or(false))
    }

    fn attach_through(&self, hold: Option<Slot>) -> Result<bool, DataplaneError> {
        let Some(member) = self.member(hold) else {
            return if self.is_udp() { self.attach_through_theirs() } else { Ok(false) };
        };
        self.kernel.attach(member.as_fd())?;
        Ok(true)
    }

    /// Attaches the program, once: a table has been published, so it always has an answer.
    pub(super) fn attach(&mut self, hold: Option<Slot>) -> Result<(), DataplaneError> {
        if !self.is_attached {
            self.is_attached = self.attach_through(hold)?;
            // It has taken the other program's place.
            self.is_passed_over &= !self.is_attached;
        }
        if self.is_attached {
            self.complete_anchor();
        }
        Ok(())
    }

    /// Takes the program away from the group, through a listener of it: the kernel's own hash chooses from now on.
    pub(super) fn detach(&mut self, through: Option<&OwnedFd>) -> Result<(), DataplaneError> {
        let anchor = || self.anchor.as_ref()?.members().find_map(|member| member.descriptor.as_ref());
        if let Some(member) = through.or_else(|| self.member(None)).or_else(anchor) {
            self.kernel.detach(member.as_fd())?;
        }
        self.is_attached = false;
        Ok(())
    }
}

/// What is said of a slot that was filled again.
pub(crate) const CLEARED: &str = "a slot of its sockarray was cleared, and is filled again";
