//! Listeners of a server whose processes are not ours: they come and go by themselves, and no descriptor of them is kept.

use std::{collections::HashSet, os::fd::RawFd};

use crate::{
    daemon::describe::describe, dataplane::error::DataplaneError, engine::event::Slot,
    workers::process::Process,
};

use super::{Members, endpoint::Endpoint, member::Member};

impl Members {
    /// Forgets the members at an address that are not among these, by cookie: the kernel has taken them out of their slots. Their slots.
    ///
    /// Only of these slots, the server's: a holding listener that was made since the look is not among those present.
    pub(crate) fn leave_gone(
        &mut self,
        address: usize,
        present: &HashSet<u64>,
        of: impl Fn(Slot) -> bool,
    ) -> Vec<Slot> {
        let endpoint = &mut self.endpoints[address];
        endpoint.leave_gone(present, of).unwrap_or_else(|error| {
            tracing::warn!("{}: {}", endpoint.address, describe(&error));
            Vec::new()
        })
    }

    /// Whether a slot has no listener at any address.
    pub(crate) fn is_vacant(&self, slot: Slot) -> bool {
        self.endpoints.iter().all(|endpoint| endpoint.of(slot).is_empty())
    }

    /// The cookies of a slot's listeners.
    pub(crate) fn cookies_of(&self, slot: Slot) -> Vec<u64> {
        let members = self.endpoints.iter().flat_map(|endpoint| endpoint.of(slot));
        members.map(|member| member.cookie).collect()
    }

    /// Closes the daemon's descriptors of a slot's listeners, whatever is seen without them.
    pub(crate) fn let_go_all(&mut self, slot: Slot) {
        let members = self.endpoints.iter_mut().filter_map(|endpoint| endpoint.members.get_mut(&slot));
        members.flatten().for_each(|member| member.descriptor = None);
    }

    /// Notes which process has a listener now, under which number.
    pub(crate) fn note_held(
        &mut self,
        address: usize,
        slot: Slot,
        cookie: u64,
        process: &Process,
        descriptor: RawFd,
    ) {
        let members = self.endpoints[address].members.get_mut(&slot).into_iter().flatten();
        for member in members.filter(|member| member.cookie == cookie) {
            member.note_holder(process, descriptor);
        }
    }
}

impl Endpoint {
    fn leave_gone(
        &mut self,
        present: &HashSet<u64>,
        of: impl Fn(Slot) -> bool,
    ) -> Result<Vec<Slot>, DataplaneError> {
        let mut changed = Vec::new();
        for (&slot, members) in self.members.iter_mut().filter(|(slot, _)| of(**slot)) {
            let is_gone = |member: &&Member| !present.contains(&member.cookie);
            let gone: Vec<u8> = members.iter().filter(is_gone).map(|member| member.place).collect();
            if gone.is_empty() {
                continue;
            }
            gone.iter().try_for_each(|&place| self.kernel.clear_place(slot, u32::from(place)))?;
            members.retain(|member| present.contains(&member.cookie));
            changed.push(slot);
        }
        Ok(changed)
    }
}
