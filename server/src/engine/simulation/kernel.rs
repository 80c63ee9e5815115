//! The simulated kernel: listeners, the sockarray, the tables that its program may read, and connections.

use std::collections::{BTreeMap, BTreeSet};

use server_common::{
    choice::{Surroundings, choose, is_probe},
    counters::Outcome,
    flow_hash::FlowV4,
    load::Load,
    table::Table,
};

use super::super::{
    event::{GenerationId, Millis, Moved, Slot},
    layout::Layout,
};
use super::script::SEED;

pub(super) type ListenerId = usize;
pub(super) type ConnectionId = usize;

/// Whose a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Generation(GenerationId),
    Hold,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) holder: Holder,
    pub(super) is_listening: bool,
    pub(super) queue: BTreeSet<ConnectionId>,
}

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its listener has answered its SYN.
    HalfOpen(ListenerId),
    /// It waits in the listener's queue.
    Unaccepted(ListenerId),
    /// A process has it.
    Open(GenerationId),
    /// It has ended as it should.
    Done,
    /// Its process died with it.
    Killed,
    /// It was refused or reset.
    Dropped,
}

#[derive(Debug)]
pub(super) struct Connection {
    flow: FlowV4,
    pub(super) began: Millis,
    pub(super) stage: Stage,
}

/// What a run of the program sees beside the table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sight {
    /// What loads are made of: with 0 nobody has any.
    pub(super) salt: u8,
    /// The CPU that took the packet.
    pub(super) cpu: Option<u32>,
}

/// The program's surroundings in one run.
struct Run<'a> {
    kernel: &'a Kernel,
    sight: Sight,
}

impl Surroundings for Run<'_> {
    fn select(&mut self, slot: u16) -> bool {
        self.kernel.listening(slot).is_some()
    }

    fn load(&self, slot: u16) -> Load {
        let mixed = (u64::from(slot).wrapping_mul(0x9e37_79b9) * u64::from(self.sight.salt)) >> 4;
        Load { count: mixed % 97, is_bad: self.sight.salt > 0 && mixed.is_multiple_of(5) }
    }

    fn cpu(&self) -> Option<u32> {
        self.sight.cpu
    }
}

#[derive(Default)]
pub(super) struct Kernel {
    pub(super) listeners: Vec<Listener>,
    pub(super) sockarray: BTreeMap<Slot, ListenerId>,
    /// The tables that a run of the program may read, the newest last.
    pub(super) tables: Vec<Box<Table>>,
    pub(super) connections: Vec<Connection>,
}

impl Kernel {
    pub(super) fn listen(&mut self, holder: Holder, slot: Slot) -> ListenerId {
        let id = self.listeners.len();
        self.listeners.push(Listener { holder, is_listening: true, queue: BTreeSet::new() });
        self.sockarray.insert(slot, id);
        id
    }

    pub(super) fn swap(&mut self, layout: &Layout) {
        // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
        let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
        layout.write(&mut table);
        self.tables.push(table);
    }

    /// One run of the program, under one of the tables that may be read.
    pub(super) fn select(
        &self,
        table: usize,
        flow: &FlowV4,
        sight: Sight,
    ) -> Option<(Slot, ListenerId, Outcome)> {
        let table = &*self.tables[table];
        // As the program does: the probe's flow first, by its whole 4-tuple, to its slot or nowhere.
        if is_probe(table, flow.hash(&SEED)) {
            return self.listening(table.probe_slot).map(|id| (table.probe_slot, id, Outcome::FirstChoice));
        }
        let chosen = choose(table, table.keying.key_v4(flow), &mut Run { kernel: self, sight });
        self.listening(chosen.slot).map(|id| (chosen.slot, id, chosen.outcome))
    }

    fn listening(&self, slot: Slot) -> Option<ListenerId> {
        self.sockarray.get(&slot).copied().filter(|&id| self.listeners[id].is_listening)
    }

    /// A SYN.
    pub(super) fn connect(
        &mut self,
        now: Millis,
        flow: FlowV4,
        table: usize,
        sight: Sight,
    ) -> (ConnectionId, Option<Outcome>) {
        let selected = self.select(table, &flow, sight);
        let stage = selected.map_or(Stage::Dropped, |(_, listener, _)| Stage::HalfOpen(listener));
        self.connections.push(Connection { flow, began: now, stage });
        (self.connections.len() - 1, selected.map(|(_, _, outcome)| outcome))
    }

    /// The last ACK of a handshake: into the queue or, where the listener is down, by the program's choice into another's.
    pub(super) fn establish(&mut self, id: ConnectionId, table: usize, sight: Sight) -> Option<ListenerId> {
        let Stage::HalfOpen(parent) = self.connections[id].stage else { return None };
        if self.listeners[parent].is_listening {
            self.enqueue(id, parent);
            return Some(parent);
        }
        self.migrate(id, table, sight).map(|(_, listener)| listener)
    }

    /// Takes a listener down; what is in its queue migrates.
    pub(super) fn shut(&mut self, id: ListenerId, table: usize, sight: Sight) -> Moved {
        let mut moved = Moved::new();
        if !std::mem::take(&mut self.listeners[id].is_listening) {
            return moved;
        }
        self.sockarray.retain(|_, listener| *listener != id);
        for connection in std::mem::take(&mut self.listeners[id].queue) {
            if let Some((slot, _)) = self.migrate(connection, table, sight) {
                *moved.entry(slot).or_default() += 1;
            }
        }
        moved
    }

    fn migrate(&mut self, id: ConnectionId, table: usize, sight: Sight) -> Option<(Slot, ListenerId)> {
        // There is no packet, and so no CPU that took one.
        let sight = Sight { cpu: None, ..sight };
        let flow = &self.connections[id].flow;
        match (!self.tables.is_empty()).then(|| self.select(table, flow, sight)).flatten() {
            Some((slot, listener, _)) => {
                self.enqueue(id, listener);
                Some((slot, listener))
            }
            None => {
                self.connections[id].stage = Stage::Dropped;
                None
            }
        }
    }

    fn enqueue(&mut self, id: ConnectionId, listener: ListenerId) {
        self.connections[id].stage = Stage::Unaccepted(listener);
        self.listeners[listener].queue.insert(id);
    }

    /// How many connections are at a stage.
    pub(super) fn count(&self, stage: impl Fn(&Connection) -> bool) -> u64 {
        self.connections.iter().filter(|connection| stage(connection)).count() as u64
    }
}
