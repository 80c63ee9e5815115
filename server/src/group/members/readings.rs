//! What a group's members show: queues, counts, who is among them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    dataplane::{error::DataplaneError, flow_table::FlowTable, looks::Watched},
    engine::event::Slot,
    group::neighbours::Neighbours,
    sockets::{address::ListenAddress, options::SocketError},
};

use super::{Endpoint, Members, Seen};

/// How old a look may be by which listeners are supervised: groups look at the same instants, and share one.
const LOOK_AGE_MAX: Duration = Duration::from_millis(4);

/// What each slot's listeners show, address by address.
pub(crate) type SeenAt = Vec<(ListenAddress, Vec<(Slot, Seen)>)>;

/// What is looked at for one slot at one TCP address.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: ListenAddress,
    /// The slot's listeners, by cookie.
    pub(crate) cookies: Vec<u64>,
    /// What exact looks know them by; fewer than the cookies where they are not to be had.
    pub(crate) watched: Vec<Arc<Watched>>,
}

impl Members {
    /// The inodes of a slot's TCP listeners.
    pub(crate) fn inodes(&self, slot: Slot) -> Vec<u64> {
        let endpoints = self.endpoints.iter().filter(|endpoint| !endpoint.is_udp());
        endpoints.flat_map(|endpoint| endpoint.of(slot)).map(|member| member.inode).collect()
    }

    /// The inodes of the sockets that a slot's worker was passed and does not take from.
    pub(crate) fn inodes_passed_over(&self, slot: Slot) -> Vec<u64> {
        let passed_over = self.endpoints.iter().filter_map(|endpoint| endpoint.passed_over.get(&slot));
        passed_over.flatten().map(|socket| socket.inode).collect()
    }

    /// The inodes of all of a slot's listeners.
    pub(crate) fn all_inodes(&self, slot: Slot) -> Vec<u64> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.of(slot)).map(|member| member.inode).collect()
    }

    /// Whether a descriptor of any of a slot's listeners is kept, so that it stays open without its worker.
    pub(crate) fn keeps(&self, slot: Slot) -> bool {
        self.endpoints.iter().flat_map(|endpoint| endpoint.of(slot)).any(|member| member.descriptor.is_some())
    }

    /// The same of those at one address.
    pub(crate) fn keeps_at(&self, address: ListenAddress, slot: Slot) -> bool {
        let endpoint = self.endpoints.iter().find(|endpoint| endpoint.address == address);
        endpoint.is_some_and(|endpoint| endpoint.of(slot).iter().any(|member| member.descriptor.is_some()))
    }

    /// Unaccepted connections at those of a slot's listeners that the daemon has a descriptor of.
    pub(crate) fn waiting(&self, slot: Slot) -> u64 {
        self.endpoints
            .iter()
            .filter(|endpoint| !endpoint.is_udp())
            .map(|endpoint| endpoint.waiting(slot))
            .sum()
    }

    /// What the listeners of each slot show, address by address.
    pub(crate) fn seen(&self) -> Result<SeenAt, SocketError> {
        let look = self.looks.as_ref().and_then(|looks| looks.recent(LOOK_AGE_MAX));
        let seen = |endpoint: &Endpoint| Ok((endpoint.address, endpoint.seen(look.as_deref())?));
        self.endpoints.iter().map(seen).collect()
    }

    /// What waits at the listeners of each slot.
    pub(crate) fn queues(&self) -> Result<BTreeMap<Slot, u64>, SocketError> {
        let mut queues = BTreeMap::new();
        for (slot, seen) in self.seen()?.into_iter().flat_map(|(_, seen)| seen) {
            *queues.entry(slot).or_default() += seen.unaccepted;
        }
        Ok(queues)
    }

    /// How many runs of the program the slot was selected in for new connections, so far.
    pub(crate) fn selected(&self, slot: Slot) -> u64 {
        let asked = server_common::counters::Asked::Connection as usize;
        self.endpoints.iter().filter_map(|it| it.kernel.counters(slot).ok()).map(|it| it.asked[asked]).sum()
    }

    /// The slot's TCP listeners, for looks at their queues.
    pub(crate) fn targets(&self, slot: Slot) -> Vec<Target> {
        let target = |endpoint: &Endpoint| Target {
            address: endpoint.address,
            cookies: endpoint.of(slot).iter().map(|member| member.cookie).collect(),
            watched: endpoint.of(slot).iter().filter_map(|member| member.watched.clone()).collect(),
        };
        self.endpoints.iter().filter(|endpoint| !endpoint.is_udp()).map(target).collect()
    }

    /// How many datagrams have come to a slot lately by their QUIC connection ID, and how many of its sockets have unread ones.
    pub(crate) fn datagrams(&mut self, slot: Slot) -> Result<(u64, u64), DataplaneError> {
        let (mut by_id, mut unread) = (0, 0);
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.is_udp()) {
            by_id += endpoint.by_id(slot)?;
            // A socket that cannot be read is not waited for.
            let seen = endpoint.seen(None).unwrap_or_default();
            unread += seen.iter().find(|(of, _)| *of == slot).map_or(0, |(_, seen)| seen.unaccepted);
        }
        Ok((by_id, unread))
    }

    /// The UDP flows of each address, with the time that one can be idle: to be counted on another thread.
    pub(crate) fn flow_tables(&self) -> Vec<(Arc<FlowTable>, Duration)> {
        let udp = self.endpoints.iter().filter(|endpoint| endpoint.is_udp());
        udp.map(|endpoint| (endpoint.kernel.flows_shared(), endpoint.opening.flows.idle)).collect()
    }

    /// Whether everybody who listens at the addresses is a member, listens, and has nothing waiting: by the walk that all groups
    /// share, which may be a second old.
    pub(crate) fn is_at_rest(&self, neighbours: &Neighbours) -> bool {
        let is_at_rest = |endpoint: &Endpoint| {
            let Some(look) = neighbours.seen(endpoint.address) else { return false };
            let (known, mut missing) = (endpoint.known(), endpoint.cookies());
            let mut is_at_rest = look.at(endpoint.address.address).all(|other| {
                missing.remove(&other.cookie);
                other.unaccepted == 0 && known.contains(&other.cookie)
            });
            is_at_rest &= missing.is_empty();
            is_at_rest
        };
        self.endpoints.iter().all(is_at_rest)
    }

    /// The addresses, each with the cookies of its members: to look for others by.
    pub(crate) fn known(&self) -> Vec<(ListenAddress, HashSet<u64>)> {
        self.endpoints.iter().map(|endpoint| (endpoint.address, endpoint.known())).collect()
    }

    /// All slots that have members.
    pub(crate) fn slots(&self) -> BTreeSet<Slot> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.members.keys().copied()).collect()
    }
}
