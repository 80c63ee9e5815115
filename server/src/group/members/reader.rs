//! What others read that is counted and shown of an address, on their own threads.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use server_common::{counters::SlotCounters, flow_hash::Seed, limits::DROPPED_SLOT, load::Shown};

use crate::{
    dataplane::{
        error::DataplaneError,
        flow_table::{Flow, FlowCount},
        kernel_group::KernelGroup,
        looks::Watched,
    },
    engine::event::Slot,
    sockets::address::{ListenAddress, Protocol},
};

use super::{endpoint::Endpoint, member::Member};

/// An address as it is read; cheap to clone. It keeps the kernel's maps, and nothing of the listeners.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) address: ListenAddress,
    kernel: Arc<KernelGroup>,
    /// By slot in use, what was counted before its listener came.
    before: BTreeMap<Slot, SlotCounters>,
    /// By slot in use, its listeners.
    sockets: BTreeMap<Slot, Vec<Socket>>,
    /// How long a UDP flow can be idle.
    idle: Duration,
}

/// A listener, as others look at it.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    pub(crate) cookie: u64,
    /// What exact looks know it by, where they are to be had.
    pub(crate) watched: Option<Arc<Watched>>,
}

impl Reader {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let socket = |member: &Member| Socket { cookie: member.cookie, watched: member.watched.clone() };
        let sockets = endpoint.members.iter();
        Self {
            address: endpoint.address,
            kernel: endpoint.kernel.clone(),
            before: endpoint.counted_before.clone(),
            sockets: sockets.map(|(&slot, members)| (slot, members.iter().map(socket).collect())).collect(),
            idle: endpoint.opening.flows.idle,
        }
    }

    pub(crate) fn is_udp(&self) -> bool {
        self.address.protocol == Protocol::Udp
    }

    /// What the program has counted for the slots in use and for what it dropped.
    pub(crate) fn counted(&self) -> Result<BTreeMap<Slot, SlotCounters>, DataplaneError> {
        let counted = |slot| {
            let before = self.before.get(&slot).copied().unwrap_or_default();
            Ok((slot, self.kernel.counters(slot)?.since(&before)))
        };
        self.sockets.keys().copied().chain([DROPPED_SLOT]).map(counted).collect()
    }

    /// The listeners of each slot.
    pub(crate) fn sockets(&self) -> &BTreeMap<Slot, Vec<Socket>> {
        &self.sockets
    }

    /// What the program is shown of a slot's listener.
    pub(crate) fn shown(&self, slot: Slot) -> Shown {
        self.kernel.shown(slot)
    }

    /// The UDP flows of each slot that are not idle.
    pub(crate) fn flows(&self) -> BTreeMap<Slot, FlowCount> {
        self.kernel.flows().count(self.idle)
    }

    /// Those flows one by one.
    pub(crate) fn list_flows(&self, seed: &Seed) -> Vec<Flow> {
        self.kernel.flows().list(self.idle, seed)
    }

    /// How many flows there is room for.
    pub(crate) fn flow_room(&self) -> u64 {
        self.kernel.flows().room()
    }
}
