//! What the group answers to those who look.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
};

use server_common::{counters::SlotCounters, limits::BUCKETS};

use crate::{
    control::api::{
        Asked, CanaryStatus, Counters, Fault, FaultKind, GroupStatus, Outcomes, SCHEMA, Table, TableShare,
        WorkerStatus,
    },
    engine::{
        assign::NOBODY,
        event::Slot,
        view::{CanaryView, WorkerView},
    },
    sockets::{diag::Connection, procfs},
};

use super::{
    actor::Actor,
    describe::describe,
    settings::{Mode, RestartKind, WhenEmpty},
    totals::{migrated_in, selected},
};

impl Actor {
    /// The group's state now.
    pub(super) fn status(&mut self) -> Result<GroupStatus, Fault> {
        let counted = self.counted()?;
        let queues = self.queues()?;
        let connections = self.connections()?;
        let workers = self.engine.workers();
        let workers = workers
            .into_iter()
            .map(|worker| self.worker_status(worker, &counted, &queues, &connections))
            .collect();
        let settings = &self.settings;
        let retired = self.totals.workers.values().map(|totals| totals.counters);
        let all = counted.values().copied().chain(retired).chain([self.totals.held]);
        let hold = self.engine.hold_slot();
        Ok(GroupStatus {
            name: settings.name.clone(),
            listen: self.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect(),
            policy: self.engine.policy().to_string(),
            mode: match settings.mode {
                Mode::Inherit => "inherit",
                Mode::Own => "own",
            }
            .to_owned(),
            restart: match settings.restart {
                RestartKind::Surge => "surge",
                RestartKind::Replace => "replace",
            }
            .to_owned(),
            when_empty: match settings.when_empty {
                WhenEmpty::Hold => "hold",
                WhenEmpty::Refuse => "refuse",
            }
            .to_owned(),
            holding: self.engine.is_holding(),
            held: hold.and_then(|slot| queues.get(&slot).copied()).unwrap_or(0),
            epoch: self.engine.epoch(),
            workers,
            counters: counters(Self::sum(all)),
            strangers: self.strangers,
        })
    }

    fn worker_status(
        &self,
        worker: WorkerView,
        counted: &BTreeMap<Slot, SlotCounters>,
        queues: &BTreeMap<Slot, u64>,
        connections: &[Connection],
    ) -> WorkerStatus {
        let mine = || self.generations.iter().filter(|(id, _)| id.worker == worker.index);
        let totals = self.totals.workers.get(&worker.index).copied().unwrap_or_default();
        let live = Self::sum(mine().filter_map(|(_, running)| counted.get(&running.slot).copied()));
        let counters = totals.counters.plus(&live);
        let held: HashSet<u64> = mine()
            .filter_map(|(_, running)| running.process.as_ref())
            .flat_map(|process| procfs::socket_inodes_of(&process.tree()))
            .collect();
        let is_open = |connection: &&Connection| held.contains(&u64::from(connection.inode));
        let canary =
            worker.canary.as_ref().map(|canary| self.canary_status(canary, counted, queues, connections));
        WorkerStatus {
            name: self.settings.name.worker(worker.index),
            state: worker.state.as_str().to_owned(),
            pid: worker.pid,
            generation: worker.generation.map_or(worker.last_number, |id| id.number),
            slot: worker.slot.map(u32::from),
            weight: worker.weight,
            share: f64::from(worker.buckets) / BUCKETS as f64,
            queue: mine().filter_map(|(_, running)| queues.get(&running.slot)).sum(),
            connections: connections.iter().filter(is_open).count() as u64,
            selected: selected(&counters),
            migrated_in: migrated_in(&counters),
            migrated_out: totals.migrated_out,
            stalled: self.samples_loads() && mine().any(|(_, running)| running.is_stalled),
            canary,
            restarts: worker.last_number.saturating_sub(1),
            message: worker.message,
        }
    }

    fn canary_status(
        &self,
        canary: &CanaryView,
        counted: &BTreeMap<Slot, SlotCounters>,
        queues: &BTreeMap<Slot, u64>,
        connections: &[Connection],
    ) -> CanaryStatus {
        let process = self.generations.get(&canary.generation).and_then(|running| running.process.as_ref());
        let held: HashSet<u64> =
            process.map(|process| procfs::socket_inodes_of(&process.tree())).unwrap_or_default();
        let is_open = |connection: &&Connection| held.contains(&u64::from(connection.inode));
        CanaryStatus {
            generation: canary.generation.number,
            pid: canary.pid,
            slot: u32::from(canary.slot),
            share: f64::from(canary.buckets) / BUCKETS as f64,
            queue: queues.get(&canary.slot).copied().unwrap_or(0),
            connections: connections.iter().filter(is_open).count() as u64,
            selected: counted.get(&canary.slot).map_or(0, selected),
            remaining_ms: canary.until.map(|until| until.saturating_sub(self.clock.now())),
        }
    }

    /// The table that is published, or about to be.
    pub(super) fn table(&self, clients: &[SocketAddr], to: Option<SocketAddr>) -> Result<Table, Fault> {
        let workers = self.engine.workers();
        let owners = self.engine.owners();
        let held = if self.engine.is_holding() {
            owners.iter().filter(|&&owner| owner == NOBODY).count()
        } else {
            0
        };
        let share = |worker: WorkerView| TableShare {
            worker: self.settings.name.worker(worker.index),
            slot: worker.slot.map(u32::from),
            weight: worker.weight,
            buckets: worker.buckets,
            share: f64::from(worker.buckets) / BUCKETS as f64,
        };
        let holds = self.settings.when_empty == WhenEmpty::Hold;
        Ok(Table {
            schema: SCHEMA,
            group: self.settings.name.clone(),
            epoch: self.engine.epoch(),
            buckets: BUCKETS as u32,
            last_resort: if holds { "hold" } else { "drop" }.to_owned(),
            shares: workers.into_iter().map(share).collect(),
            held_buckets: held as u32,
            placed: self.placed(clients, to)?,
        })
    }

    /// What the program has counted by slot, over the listen addresses.
    fn counted(&self) -> Result<BTreeMap<Slot, SlotCounters>, Fault> {
        let mut counted = BTreeMap::<Slot, SlotCounters>::new();
        for endpoint in &self.endpoints {
            for (slot, part) in endpoint.counted().map_err(|error| unreadable(&error))? {
                let sum = counted.entry(slot).or_default();
                *sum = sum.plus(&part);
            }
        }
        Ok(counted)
    }

    /// Unaccepted connections by slot.
    pub(super) fn queues(&mut self) -> Result<BTreeMap<Slot, u64>, Fault> {
        let mut queues = BTreeMap::new();
        for endpoint in &self.endpoints {
            let listeners = self.diag.listeners(endpoint.address).map_err(|error| unreadable(&error))?;
            for (slot, cookie) in endpoint.slots() {
                let own = listeners.iter().find(|listener| listener.cookie == cookie);
                *queues.entry(slot).or_default() += own.map_or(0, |own| u64::from(own.unaccepted));
            }
        }
        Ok(queues)
    }

    pub(super) fn connections(&mut self) -> Result<Vec<Connection>, Fault> {
        let mut connections = Vec::new();
        for endpoint in &self.endpoints {
            connections.extend(self.diag.connections(endpoint.address).map_err(|error| unreadable(&error))?);
        }
        Ok(connections)
    }
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault { kind: FaultKind::Failed, message: describe(error), hint: None }
}

fn counters(all: SlotCounters) -> Counters {
    let [connection, segment, datagram, migration] = all.asked;
    let [first_choice, further_choice, held, dropped, less_loaded, own_cpu] = all.outcome;
    Counters {
        runs: all.runs(),
        asked: Asked { connection, segment, datagram, migration },
        outcome: Outcomes { first_choice, further_choice, held, dropped, less_loaded, own_cpu },
    }
}
