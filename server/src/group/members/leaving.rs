//! Listeners that a worker closes by itself while it serves: the others get their part.

use std::collections::HashSet;

use crate::{
    daemon::describe::describe, dataplane::error::DataplaneError, engine::event::Slot,
    group::observer::TimedLook, sockets::address::ListenAddress,
};

use super::{Members, endpoint::Endpoint, member::Member};

impl Members {
    /// Has those of a slot's listeners go that its worker has closed or shut down, but for the last at an address. How many, where some
    /// did.
    pub(crate) fn leave_stopped(&mut self, slot: Slot) -> Vec<(ListenAddress, usize)> {
        let look = self.looks.as_ref().and_then(|looks| looks.now().ok());
        self.leave(|endpoint| {
            let stopped = endpoint.stopped(slot, look.as_deref());
            endpoint.leave(slot, |member| stopped.contains(&member.cookie))
        })
    }

    /// Has those of a slot's listeners go that have these inodes, but for the last at an address. How many, where some did.
    pub(crate) fn leave_unattended(
        &mut self,
        slot: Slot,
        inodes: &HashSet<u64>,
    ) -> Vec<(ListenAddress, usize)> {
        self.leave(|endpoint| endpoint.leave(slot, |member| inodes.contains(&member.inode)))
    }

    /// Whether all of a slot's listeners at some address have one of these inodes.
    pub(crate) fn are_all_at_one(&self, slot: Slot, inodes: &HashSet<u64>) -> bool {
        let mut members = self.endpoints.iter().map(|endpoint| endpoint.of(slot));
        members.any(|all| !all.is_empty() && all.iter().all(|member| inodes.contains(&member.inode)))
    }

    /// Frees those of a slot's first places at an address in which nothing was found again.
    pub(crate) fn free_places(&self, address: usize, slot: Slot, used: usize) {
        let endpoint = &self.endpoints[address];
        if let Err(error) = endpoint.free_places(slot, used) {
            tracing::warn!("{}: {}", endpoint.address, describe(&error));
        }
    }

    fn leave(
        &mut self,
        leave: impl Fn(&mut Endpoint) -> Result<usize, DataplaneError>,
    ) -> Vec<(ListenAddress, usize)> {
        let mut all = Vec::new();
        for endpoint in &mut self.endpoints {
            match leave(endpoint) {
                Ok(0) => {}
                Ok(count) => all.push((endpoint.address, count)),
                Err(error) => tracing::warn!("{}: {}", endpoint.address, describe(&error)),
            }
        }
        all
    }
}

impl Endpoint {
    /// The cookies of a slot's listeners that do not listen any more.
    fn stopped(&self, slot: Slot, look: Option<&TimedLook>) -> HashSet<u64> {
        let has_stopped = |member: &&Member| {
            self.seen_of(member, look).is_ok_and(|seen| seen.is_some_and(|seen| seen.stopped > 0))
        };
        self.of(slot).iter().filter(has_stopped).map(|member| member.cookie).collect()
    }

    /// Has those of a slot's members go that are to, and spreads their part of its flows over the others; how many went. Without others, none
    /// goes.
    fn leave(&mut self, slot: Slot, goes: impl Fn(&Member) -> bool) -> Result<usize, DataplaneError> {
        let places = |is_wanted: bool| {
            let members = self.of(slot).iter().filter(|member| goes(member) == is_wanted);
            members.map(|member| member.place).collect::<Vec<u8>>()
        };
        let (gone, left) = (places(true), places(false));
        if gone.is_empty() || left.is_empty() {
            return Ok(0);
        }
        // First of all: what the table names takes flows.
        self.kernel.spread(slot, &left);
        gone.iter().try_for_each(|&place| self.kernel.clear_place(slot, u32::from(place)))?;
        self.members.entry(slot).or_default().retain(|member| left.contains(&member.place));
        Ok(gone.len())
    }

    fn free_places(&self, slot: Slot, used: usize) -> Result<(), DataplaneError> {
        let left = self.places(slot);
        self.kernel.spread(slot, &left);
        let mut free = (0..=u8::MAX).take(used).filter(|place| !left.contains(place));
        free.try_for_each(|place| self.kernel.clear_place(slot, u32::from(place)))
    }
}
