//! The simulated kernel: listeners, the sockarray, the tables that its program may read, and connections.

use std::collections::{BTreeMap, BTreeSet};

use server_common::{choice::choose, counters::Outcome, table::Table};

use super::super::{
    event::{GenerationId, Millis, Moved, Slot},
    layout::Layout,
};

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
    hash: u64,
    pub(super) began: Millis,
    pub(super) stage: Stage,
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
    pub(super) fn select(&self, table: usize, hash: u64) -> Option<(Slot, ListenerId, Outcome)> {
        let listening = |slot: Slot| self.sockarray.get(&slot).filter(|&&id| self.listeners[id].is_listening);
        let chosen = choose(&self.tables[table], hash, &mut |slot| listening(slot).is_some());
        listening(chosen.slot).map(|&id| (chosen.slot, id, chosen.outcome))
    }

    /// A SYN.
    pub(super) fn connect(
        &mut self,
        now: Millis,
        hash: u64,
        table: usize,
    ) -> (ConnectionId, Option<Outcome>) {
        let selected = self.select(table, hash);
        let stage = selected.map_or(Stage::Dropped, |(_, listener, _)| Stage::HalfOpen(listener));
        self.connections.push(Connection { hash, began: now, stage });
        (self.connections.len() - 1, selected.map(|(_, _, outcome)| outcome))
    }

    /// The last ACK of a handshake: into the queue or, where the listener is down, by the program's choice into another's.
    pub(super) fn establish(&mut self, id: ConnectionId, table: usize) -> Option<ListenerId> {
        let Stage::HalfOpen(parent) = self.connections[id].stage else { return None };
        if self.listeners[parent].is_listening {
            self.enqueue(id, parent);
            return Some(parent);
        }
        self.migrate(id, table).map(|(_, listener)| listener)
    }

    /// Takes a listener down; what is in its queue migrates.
    pub(super) fn shut(&mut self, id: ListenerId, table: usize) -> Moved {
        let mut moved = Moved::new();
        if !std::mem::take(&mut self.listeners[id].is_listening) {
            return moved;
        }
        self.sockarray.retain(|_, listener| *listener != id);
        for connection in std::mem::take(&mut self.listeners[id].queue) {
            if let Some((slot, _)) = self.migrate(connection, table) {
                *moved.entry(slot).or_default() += 1;
            }
        }
        moved
    }

    fn migrate(&mut self, id: ConnectionId, table: usize) -> Option<(Slot, ListenerId)> {
        let selected =
            (!self.tables.is_empty()).then(|| self.select(table, self.connections[id].hash)).flatten();
        match selected {
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
