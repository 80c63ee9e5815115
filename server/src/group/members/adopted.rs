//! Listeners of a server whose processes are not ours: they come and go by themselves, and no descriptor of them is kept.

use std::{
    collections::{BTreeSet, HashSet},
    os::fd::RawFd,
};

use crate::{
    daemon::describe::describe, dataplane::error::DataplaneError, engine::event::Slot,
    workers::process::Process,
};

use super::{Members, endpoint::Endpoint, member::Member};

impl Members {
    /// Forgets the members with these cookies: the kernel has taken them out of their slots. Returns those slots.
    pub(crate) fn leave_gone(&mut self, gone: &HashSet<u64>) -> BTreeSet<Slot> {
        let mut changed = BTreeSet::new();
        for endpoint in self.endpoints.iter_mut().filter(|_| !gone.is_empty()) {
            match endpoint.leave_gone(gone) {
                Ok(slots) => changed.extend(slots),
                Err(error) => tracing::warn!("{}: {}", endpoint.address, describe(&error)),
            }
        }
        changed
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
    fn leave_gone(&mut self, gone: &HashSet<u64>) -> Result<Vec<Slot>, DataplaneError> {
        let mut changed = Vec::new();
        for (&slot, members) in &mut self.members {
            let is_gone = |member: &&Member| gone.contains(&member.cookie);
            let places: Vec<u8> = members.iter().filter(is_gone).map(|member| member.place).collect();
            if places.is_empty() {
                continue;
            }
            places.iter().try_for_each(|&place| self.kernel.clear_place(slot, u32::from(place)))?;
            members.retain(|member| !gone.contains(&member.cookie));
            changed.push(slot);
        }
        Ok(changed)
    }
}
