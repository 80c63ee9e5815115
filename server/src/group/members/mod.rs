//! The members of a group: its listen addresses with their kernel groups, and the listeners in them.

mod adopted;
mod anchor;
mod by_id;
mod cells;
mod counts;
mod datagrams;
mod endpoint;
mod error;
mod leaving;
mod member;
mod passed_over;
mod publication;
mod reader;
mod readings;
mod stopping;
mod upkeep;

use std::{collections::HashSet, io, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use server_common::{counters::SlotCounters, load::Shown};

use crate::{
    daemon::describe::describe,
    dataplane::{cells::WorkerCell, error::DataplaneError},
    engine::{
        event::{GenerationId, Moved, Slot},
        layout::Layout,
    },
    sockets::{address::ListenAddress, options::SocketError, pidfd},
    threads::{Pool, Threads},
    workers::{
        discover::{Discovered, Membership},
        process::Process,
    },
};

use super::{
    message::{Inbox, Message},
    observer::QueueLooks,
    record::SavedAddress,
};

use self::{cells::CellPublisher, publication::Publication};
pub(crate) use self::{
    counts::Seen,
    endpoint::{Endpoint, Opening},
    error::EndpointError,
    reader::Reader,
    readings::Target,
    upkeep::{CLEARED, Upkeep},
};

/// A group's members.
#[derive(Debug)]
pub(crate) struct Members {
    endpoints: Vec<Endpoint>,
    cells: CellPublisher,
    publishing: Pool,
    inbox: Inbox,
    looks: Option<Arc<QueueLooks>>,
    /// Whether the kernel migrates what a listener holds that closes: then no duplicate of a worker's is kept.
    migrates: bool,
    /// Whether the last look at what others can take away was at the odd slots.
    was_at_odd: bool,
}

/// What a worker that binds its listeners itself has not bound yet at one address.
#[derive(Debug)]
pub(crate) struct Wanting {
    /// The place of the address in the group's list.
    pub(crate) address: usize,
    pub(crate) membership: Membership,
    /// The cookies of the listeners that are known already.
    pub(crate) known: HashSet<u64>,
    /// How many more there is room for.
    pub(crate) room: usize,
}

impl Members {
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        threads: &Threads,
        inbox: Inbox,
        looks: Option<Arc<QueueLooks>>,
        migrates: bool,
    ) -> Self {
        let cells = endpoints.iter().map(|endpoint| endpoint.kernel.cells()).collect();
        Self {
            endpoints,
            cells: CellPublisher::new(cells, threads.publishing.clone()),
            publishing: threads.publishing.clone(),
            inbox,
            looks,
            migrates,
            was_at_odd: false,
        }
    }

    /// The listen addresses, in their order.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = ListenAddress> {
        self.endpoints.iter().map(|endpoint| endpoint.address)
    }

    /// The first TCP address, where there is one.
    pub(crate) fn first_tcp(&self) -> Option<SocketAddr> {
        Some(self.endpoints.iter().find(|endpoint| !endpoint.is_udp())?.address.address)
    }

    /// What others read that is counted and shown of these members.
    pub(crate) fn readers(&self) -> Vec<Reader> {
        self.endpoints.iter().map(Reader::of).collect()
    }

    /// What the next daemon has to know, in the addresses' order.
    pub(crate) fn saved(&self) -> Vec<SavedAddress> {
        self.endpoints.iter().map(Endpoint::saved).collect()
    }

    /// Makes the daemon's own holding listeners for a slot. Of datagrams none is held: they would never migrate. Returns them, by the
    /// place of their address, for the keeper.
    pub(crate) fn make_hold(&mut self, slot: Slot) -> Result<Vec<(usize, OwnedFd)>, EndpointError> {
        let mut made = Vec::new();
        for (index, endpoint) in self.endpoints.iter_mut().enumerate().filter(|(_, it)| !it.is_udp()) {
            endpoint.make(slot)?;
            for member in endpoint.of(slot) {
                if let Some(descriptor) = &member.descriptor {
                    made.push((index, descriptor.try_clone().map_err(duplicate)?));
                }
            }
        }
        Ok(made)
    }

    /// Whether a slot has a holding listener at every TCP address.
    pub(crate) fn has_hold(&self, slot: Slot) -> bool {
        self.endpoints
            .iter()
            .filter(|endpoint| !endpoint.is_udp())
            .all(|endpoint| !endpoint.of(slot).is_empty())
    }

    /// Whether a slot has a listener at an address.
    pub(crate) fn has_listener(&self, address: usize, slot: Slot) -> bool {
        !self.endpoints[address].of(slot).is_empty()
    }

    /// Makes a generation's listeners and puts them into its slot; returns what is to be passed to its process, with names.
    pub(crate) fn make(
        &mut self,
        slot: Slot,
        generation: GenerationId,
    ) -> Result<Vec<(OwnedFd, String)>, EndpointError> {
        let mut passed = Vec::new();
        for endpoint in &mut self.endpoints {
            endpoint.make(slot)?;
            endpoint.name(slot, generation);
            if let Some(descriptor) = endpoint.of(slot).first().and_then(|member| member.descriptor.as_ref())
            {
                passed.push((descriptor.try_clone().map_err(duplicate)?, endpoint.address.to_string()));
            }
        }
        Ok(passed)
    }

    /// Notes that a process was passed a slot's listeners, from this descriptor on.
    pub(crate) fn note_passed(&mut self, slot: Slot, process: &Process, first: i32) {
        for (endpoint, descriptor) in self.endpoints.iter_mut().zip(first..) {
            if let Some(member) = endpoint.members.get_mut(&slot).and_then(|members| members.first_mut()) {
                member.note_holder(process, descriptor);
            }
        }
    }

    /// Takes in a listener that a generation has bound itself; whether that is news.
    pub(crate) fn take_in(
        &mut self,
        address: usize,
        slot: Slot,
        generation: GenerationId,
        found: Discovered,
    ) -> Result<bool, EndpointError> {
        let endpoint = &mut self.endpoints[address];
        // Somebody else may have put it in meanwhile: a second look at the same worker.
        if endpoint.room(slot) == 0 || endpoint.known().contains(&found.cookie) {
            return Ok(false);
        }
        endpoint.put(slot, found.listener)?;
        endpoint.name(slot, generation);
        if let (Some(member), Ok(process)) = (
            endpoint.members.get_mut(&slot).and_then(|members| members.last_mut()),
            Process::open(found.pid, None),
        ) {
            member.note_holder(&process, found.descriptor);
        }
        Ok(true)
    }

    /// Takes in a listener that a slot has had all along, in a place at an address.
    pub(crate) fn adopt(
        &mut self,
        address: usize,
        slot: Slot,
        place: u8,
        listener: OwnedFd,
    ) -> Result<(), EndpointError> {
        self.endpoints[address].adopt(slot, place, listener)
    }

    /// Goes on with the anchor that was kept of an address.
    pub(crate) fn adopt_anchor(&mut self, address: usize, kept: impl FnOnce() -> Option<OwnedFd>) {
        if let Some(anchor) = &mut self.endpoints[address].anchor {
            anchor.adopt(kept());
        }
    }

    /// Closes the descriptors of a generation's listeners that are not needed any more now that it serves: a duplicate would have
    /// connections come to them after the worker's death. Where the kernel migrates nothing it is what keeps them alive. They also stay
    /// where they could not be taken from the process again, and those of UDP: what nobody has read is counted by them.
    pub(crate) fn let_go(&mut self, slot: Slot, process: Option<&Process>) {
        if !self.migrates || !process.is_some_and(|process| pidfd::may_take(process.pidfd())) {
            return;
        }
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.is_udp()) {
            endpoint.members.get_mut(&slot).into_iter().flatten().for_each(member::Member::let_go);
        }
    }

    /// The anchors that the keeper is to have, by the place of their address.
    pub(crate) fn anchors_to_keep(&mut self) -> Vec<(usize, OwnedFd)> {
        let anchors = self.endpoints.iter_mut().enumerate();
        anchors
            .filter_map(|(index, endpoint)| Some((index, endpoint.anchor.as_mut()?.for_keeper()?)))
            .collect()
    }

    /// Whether a slot has a listener at every address.
    pub(crate) fn is_complete(&self, slot: Slot) -> bool {
        self.lacking(slot).next().is_none()
    }

    /// The addresses at which a slot has no listener.
    pub(crate) fn lacking(&self, slot: Slot) -> impl Iterator<Item = ListenAddress> {
        let lacking = self.endpoints.iter().filter(move |endpoint| endpoint.of(slot).is_empty());
        lacking.map(|endpoint| endpoint.address)
    }

    /// How many listeners a slot has at each address.
    pub(crate) fn sockets(&self, slot: Slot) -> Vec<(ListenAddress, usize)> {
        self.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.of(slot).len())).collect()
    }

    /// What a worker may still bind for its slot, `most` sockets at each address; they are to be this user's. `is_passed`: what the slot has
    /// are listeners that the worker was passed, and all may be bound instead.
    pub(crate) fn wanting(&self, slot: Slot, most: usize, owner_uid: u32, is_passed: bool) -> Vec<Wanting> {
        let wanting = self.endpoints.iter().enumerate().map(|(address, endpoint)| {
            let (sockets, has) = (endpoint.kernel.sockets() as usize, endpoint.of(slot).len());
            let room = sockets.min(most).saturating_sub(if is_passed { 0 } else { has });
            let membership =
                Membership { address: endpoint.address, owner_uid, v6_only: endpoint.is_v6_only() };
            Wanting { address, membership, known: endpoint.known(), room }
        });
        wanting.filter(|wanting| wanting.room > 0).collect()
    }

    /// Has a layout be published on every address; the task is told. What it is told at once, where that cannot be begun, is
    /// returned.
    pub(crate) fn publish(&mut self, layout: Layout) -> Option<Message> {
        let publication = Publication::new(layout.epoch, self.endpoints.len(), self.inbox.clone());
        let layout = Arc::new(layout);
        // Side by side: each waits for a grace period of its own.
        let mut told = None;
        for endpoint in &self.endpoints {
            let at_once = publication.hand_in(&self.publishing, endpoint.publication(layout.clone()));
            told = at_once.or(told);
        }
        told
    }

    /// Attaches the programs, where they are not yet; `hold` is the holding listener's slot.
    pub(crate) fn attach(&mut self, hold: Option<Slot>) -> Result<(), DataplaneError> {
        self.endpoints.iter_mut().try_for_each(|endpoint| endpoint.attach(hold))
    }

    /// Shuts down a slot's listeners; false where some are out of hand and have to be taken from the processes that hold them.
    pub(crate) fn shut(&self, slot: Slot) -> bool {
        let mut are_all_reached = true;
        for endpoint in &self.endpoints {
            match endpoint.shut(slot) {
                Ok(reached) => are_all_reached &= reached,
                Err(error) => tracing::error!("{}: {}", endpoint.address, describe(&error)),
            }
        }
        are_all_reached
    }

    /// Shuts down listeners of a slot that were taken from the processes that hold them.
    pub(crate) fn shut_taken(&self, listeners: &[OwnedFd]) {
        for listener in listeners {
            if let Err(error) = stopping::shut(listener) {
                tracing::error!("{}", describe(&error));
            }
        }
    }

    /// What the kernel has migrated since this was asked last, by the slot that received it.
    pub(crate) fn moved(&mut self) -> Moved {
        let mut moved = Moved::new();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.is_udp()) {
            match endpoint.moved() {
                Ok(part) => {
                    part.into_iter().for_each(|(slot, count)| *moved.entry(slot).or_default() += count)
                }
                Err(error) => tracing::error!("{}: {}", endpoint.address, describe(&error)),
            }
        }
        moved
    }

    /// Wakes who serves a slot's listeners: kernels with CVE-2026-46015 forget to, after a migration. False where some are out of
    /// hand.
    pub(crate) fn wake(&self, slot: Slot) -> bool {
        let woken = |endpoint: &Endpoint| match endpoint.wake(slot) {
            Ok(reached) => reached,
            Err(error) => {
                tracing::warn!("{}: {}", endpoint.address, describe(&error));
                true
            }
        };
        self.endpoints.iter().filter(|endpoint| !endpoint.is_udp()).all(woken)
    }

    /// Takes out and counts the datagrams that nobody will read any more from a slot's sockets.
    pub(crate) fn unread(&self, slot: Slot) -> u64 {
        let counted = self.endpoints.iter().map(|endpoint| {
            endpoint.unread(slot).unwrap_or_else(|error| {
                tracing::warn!("{}: {}", endpoint.address, describe(&error));
                0
            })
        });
        counted.sum()
    }

    /// Takes out and resets what waits at a slot's listeners that no table has named: probes.
    pub(crate) fn discard_unaccepted(&self, slot: Slot) {
        self.endpoints
            .iter()
            .filter(|endpoint| !endpoint.is_udp())
            .for_each(|endpoint| endpoint.discard_unaccepted(slot));
    }

    /// Clears a slot and forgets its listeners; what was counted for it.
    pub(crate) fn forget(&mut self, slot: Slot) -> SlotCounters {
        let mut sum = SlotCounters::default();
        for endpoint in &mut self.endpoints {
            match endpoint.forget(slot) {
                Ok(counted) => sum = sum.plus(&counted),
                Err(error) => tracing::error!("{}: {}", endpoint.address, describe(&error)),
            }
        }
        sum
    }

    /// Shows the programs what the kernel shows of a slot's listeners.
    pub(crate) fn show(&self, slot: Slot, shown: Shown) {
        self.endpoints.iter().for_each(|endpoint| endpoint.kernel.show(slot, shown));
    }

    /// Has a slot's worker be known by its cell, or by none.
    pub(crate) fn put_cell(&self, slot: Slot, cell: Option<Arc<WorkerCell>>) {
        self.cells.put(slot, cell);
    }

    /// Gives the group to the kernel's own hash, whole or not at all: anchors leave and programs are detached, each through a listener
    /// that was taken or is at hand.
    pub(crate) fn release(
        &mut self,
        taken: &mut Vec<OwnedFd>,
    ) -> Result<(), Box<(ListenAddress, DataplaneError)>> {
        for index in 0..self.endpoints.len() {
            let endpoint = &mut self.endpoints[index];
            let slots: Vec<Slot> = endpoint.members.keys().copied().collect();
            let through =
                slots.into_iter().find_map(|slot| endpoint.sort_taken(slot, taken).into_values().next());
            // While the program still keeps datagrams from it: the kernel's hash would give it its part.
            if let Some(anchor) = endpoint.anchor.as_ref().filter(|_| through.is_some()) {
                anchor.retire();
            }
            if let Err(error) = endpoint.detach(through.as_ref()) {
                let failed = (endpoint.address, error);
                endpoint.anchor.iter_mut().for_each(anchor::Anchor::renew);
                // Those before it are managed again.
                for endpoint in &mut self.endpoints[..index] {
                    if let Err(error) = endpoint.attach(None) {
                        tracing::error!("{} is not steered: {}", endpoint.address, describe(&error));
                    }
                    endpoint.anchor.iter_mut().for_each(anchor::Anchor::renew);
                }
                return Err(Box::new(failed));
            }
        }
        self.release_passed_over(taken);
        let anchors = self.endpoints.iter_mut().filter_map(|endpoint| endpoint.anchor.as_mut());
        anchors.for_each(anchor::Anchor::release);
        Ok(())
    }
}

/// The sum of what was counted.
pub(crate) fn sum(parts: impl IntoIterator<Item = SlotCounters>) -> SlotCounters {
    parts.into_iter().fold(SlotCounters::default(), |sum, part| sum.plus(&part))
}

fn duplicate(source: io::Error) -> EndpointError {
    EndpointError::Socket(SocketError { operation: "duplicate the listener", source })
}
