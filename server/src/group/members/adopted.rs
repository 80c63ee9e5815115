//! Listeners of a server whose processes are not ours: they come and go by themselves, and no descriptor of them is kept.

use std::{collections::HashSet, os::fd::RawFd};

use crate::{
    daemon::describe::describe, dataplane::error::DataplaneError, engine::event::Slot,
    workers::process::Process,
};

use super::{Members, endpoint::Endpoint, member::Member};

impl Members {
    /// Forgets the members at an address that are not among these, by cookie: the kernel has taken them out of their slots. Their slots.
    /// The daemon's own stay: a holding listener may be younger than the look that does not have it.
    pub(crate) fn leave_gone(&mut self, address: usize, present: &HashSet<u64>) -> Vec<Slot> {
        let endpoint = &mut self.endpoints[address];
        endpoint.leave_gone(present).unwrap_or_else(|error| {
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
    fn leave_gone(&mut self, present: &HashSet<u64>) -> Result<Vec<Slot>, DataplaneError> {
        let mut changed = Vec::new();
        for (&slot, members) in &mut self.members {
            let is_there = |member: &Member| member.descriptor.is_some() || present.contains(&member.cookie);
            let gone: Vec<u8> =
                members.iter().filter(|member| !is_there(member)).map(|member| member.place).collect();
            if gone.is_empty() {
                continue;
            }
            gone.iter().try_for_each(|&place| self.kernel.clear_place(slot, u32::from(place)))?;
            members.retain(is_there);
            changed.push(slot);
        }
        Ok(changed)
    }
}
