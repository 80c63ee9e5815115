//! How listeners of an address stop: shut down, cleared, forgotten; and what the kernel migrated.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
};

use server_common::{
    counters::{Asked, SlotCounters},
    load::Shown,
};

use crate::{
    dataplane::error::DataplaneError,
    engine::event::{Moved, Slot},
    sockets::options,
};

use super::{endpoint::Endpoint, error::EndpointError};

impl Endpoint {
    /// Shuts down those of a slot's listeners that are at hand, and has the kernel migrate what they hold; whether those are all.
    pub(super) fn shut(&self, slot: Slot) -> Result<bool, EndpointError> {
        if self.is_udp() {
            // Its flows go by the table from now on; what it has received, its worker may still read.
            self.kernel.clear(slot)?;
            return Ok(true);
        }
        let mut are_all_reached = true;
        for member in self.of(slot) {
            match member.at_hand() {
                Some(listener) => shut(&listener)?,
                None => are_all_reached = false,
            }
        }
        Ok(are_all_reached)
    }

    /// What the kernel has migrated and nobody was told of yet, by the slot that received it.
    ///
    /// A listener that closes by itself migrates when it does, unasked; so all that was counted since the last time is what came
    /// from the listeners that have stopped since. Half-open connections of an earlier one that complete meanwhile are counted
    /// here too; in the sum of all receipts they are in their place.
    pub(super) fn moved(&mut self) -> Result<Moved, DataplaneError> {
        let mut moved = Moved::new();
        for &slot in self.members.keys() {
            let now = self.kernel.counters(slot)?.asked[Asked::Migration as usize];
            let told = self.told.insert(slot, now).unwrap_or(now);
            if now > told {
                moved.insert(slot, now - told);
            }
        }
        Ok(moved)
    }

    /// Wakes who serves those of a slot's listeners that are at hand; whether those are all.
    pub(super) fn wake(&self, slot: Slot) -> Result<bool, EndpointError> {
        let mut are_all_reached = true;
        for member in self.of(slot) {
            match member.at_hand() {
                Some(listener) => options::wake_receivers(&*listener)?,
                None => are_all_reached = false,
            }
        }
        Ok(are_all_reached)
    }

    /// Counts the datagrams that nobody has read from a slot's sockets, and takes them out. No more come: the slot is empty.
    pub(super) fn unread(&self, slot: Slot) -> Result<u64, EndpointError> {
        if !self.is_udp() || self.of(slot).is_empty() {
            return Ok(0);
        }
        self.kernel.clear(slot)?;
        let at_hand = self.of(slot).iter().filter_map(|member| member.descriptor.as_ref());
        at_hand.map(|socket| Ok(options::discard_datagrams(socket)?)).sum()
    }

    /// Takes out of the listeners of a slot, and resets, what waits there: of a generation that no table named that is its probes.
    pub(super) fn discard_unaccepted(&self, slot: Slot) {
        for listener in self.of(slot).iter().filter_map(|member| member.descriptor.as_ref()) {
            // One that does not listen has nothing.
            let _ = options::reset_unaccepted(listener);
        }
    }

    /// Clears a slot and forgets its members. Returns what was counted for it.
    pub(super) fn forget(&mut self, slot: Slot) -> Result<SlotCounters, DataplaneError> {
        let counted = self.counters(slot)?;
        // Now, and not when the slot is used again: whoever adds what was counted to its totals records both at once.
        self.counted_before.insert(slot, self.kernel.counters(slot)?);
        self.kernel.clear(slot)?;
        self.kernel.unroute(slot);
        // Before another worker has the slot.
        self.kernel.flows().sweep(self.opening.flows.idle, Some(slot));
        self.kernel.show(slot, Shown::default());
        self.members.remove(&slot);
        self.left.remove(&slot);
        self.told.remove(&slot);
        self.by_id.remove(&slot);
        Ok(counted)
    }

    /// Descriptors that were taken of a slot's listeners, by whose socket each is: those of other sockets are left out.
    pub(super) fn sort_taken(&self, slot: Slot, taken: &mut Vec<OwnedFd>) -> BTreeMap<usize, OwnedFd> {
        let mut sorted = BTreeMap::new();
        for (place, member) in self.of(slot).iter().enumerate() {
            let is_its =
                |socket: &OwnedFd| options::socket_cookie(socket).is_ok_and(|it| it == member.cookie);
            if let Some(at) = taken.iter().position(is_its) {
                sorted.insert(place, taken.swap_remove(at));
            }
        }
        sorted
    }

    /// Puts a slot's listener back where somebody has cleared its place; whether it was.
    pub(super) fn fill(&self, slot: Slot, place: usize, listener: &OwnedFd) -> Result<bool, DataplaneError> {
        self.kernel.fill(slot, place as u32, listener.as_fd())
    }
}

/// Shuts a listener down. One that its worker has shut down already has nothing left: what it held has moved before.
pub(super) fn shut(listener: &OwnedFd) -> Result<(), EndpointError> {
    match options::shut_listener(listener) {
        Err(error) if !error.is_not_listening() => Err(error.into()),
        _ => Ok(()),
    }
}
