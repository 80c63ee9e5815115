//! What the group answers to those who look.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
};

use server_common::{counters::SlotCounters, limits::BUCKETS};

use crate::{
    control::api::{
        Asked, CanaryStatus, Counters, Fault, FaultKind, FlowEvents, GroupStatus, IdEvents, Outcomes, SCHEMA,
        Table, TableShare, WorkerStatus,
    },
    engine::{
        assign::NOBODY,
        event::Slot,
        view::{CanaryView, State, WorkerView},
    },
    sockets::{
        diag::Connection,
        procfs::{self, Processes},
    },
    workers::process::Process,
};

use super::{
    actor::{Actor, Counts},
    describe::describe,
    settings::{Mode, RestartKind, WhenEmpty},
    totals::{migrated_in, selected},
};

/// What the kernel showed at one look.
struct Seen<'a> {
    /// What the program has counted, by slot.
    counted: BTreeMap<Slot, SlotCounters>,
    /// Unaccepted connections, by slot.
    queues: BTreeMap<Slot, u64>,
    /// UDP flows that are remembered and not idle, by slot.
    flows: BTreeMap<Slot, u64>,
    connections: Vec<Connection>,
    processes: &'a Processes,
}

impl Seen<'_> {
    /// How many of the group's open connections the processes, and those that descend from them, hold.
    fn open_connections<'p>(&self, processes: impl IntoIterator<Item = &'p Process>) -> u64 {
        // Their descriptors are looked at only where some are open, which spares an idle group all of it.
        if self.connections.is_empty() {
            return 0;
        }
        let held: HashSet<u64> = processes
            .into_iter()
            .flat_map(|process| procfs::socket_inodes_of(&process.tree_among(self.processes)))
            .collect();
        let is_held = |connection: &&Connection| held.contains(&u64::from(connection.inode));
        self.connections.iter().filter(is_held).count() as u64
    }
}

impl Actor {
    /// The group's state now; `processes` are those of a moment ago.
    pub(super) fn status(&mut self, processes: &Processes) -> Result<GroupStatus, Fault> {
        let (counted, queues, connections) = (self.counted()?, self.queues()?, self.connections()?);
        let seen = Seen { counted, queues, flows: self.flow_counts(), connections, processes };
        let workers = self.engine.workers();
        let workers = workers.into_iter().map(|worker| self.worker_status(worker, &seen)).collect();
        let settings = &self.settings;
        let retired = self.totals.workers.values().map(|totals| totals.counters);
        let all = seen.counted.values().copied().chain(retired).chain([self.totals.held]);
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
            held: hold.and_then(|slot| seen.queues.get(&slot).copied()).unwrap_or(0),
            epoch: self.engine.epoch(),
            workers,
            counters: counters(Self::sum(all)),
            strangers: self.strangers,
            strangers_total: self.totals.strangers,
            drains: self.totals.drains(),
        })
    }

    fn worker_status(&self, worker: WorkerView, seen: &Seen<'_>) -> WorkerStatus {
        let mine = || self.generations.iter().filter(|(id, _)| id.worker == worker.index);
        let totals = self.totals.workers.get(&worker.index).copied().unwrap_or_default();
        let live = Self::sum(mine().filter_map(|(_, running)| seen.counted.get(&running.slot).copied()));
        let counters = totals.counters.plus(&live);
        let canary = worker.canary.as_ref().map(|canary| self.canary_status(canary, seen));
        WorkerStatus {
            name: self.settings.name.worker(worker.index),
            state: worker.state.as_str().to_owned(),
            pid: worker.pid,
            generation: worker.generation.map_or(worker.last_number, |id| id.number),
            slot: worker.slot.map(u32::from),
            weight: worker.weight,
            share: f64::from(worker.buckets) / BUCKETS as f64,
            queue: mine().filter_map(|(_, running)| seen.queues.get(&running.slot)).sum(),
            connections: seen.open_connections(mine().filter_map(|(_, running)| running.process.as_ref())),
            flows: mine().filter_map(|(_, running)| seen.flows.get(&running.slot)).sum(),
            selected: selected(&counters),
            migrated_in: migrated_in(&counters),
            migrated_out: totals.migrated_out,
            stalled: self.samples_loads() && mine().any(|(_, running)| running.is_stalled),
            canary,
            restarts: worker.last_number.saturating_sub(1),
            drains: totals.drains,
            message: worker.message,
        }
    }

    fn canary_status(&self, canary: &CanaryView, seen: &Seen<'_>) -> CanaryStatus {
        let process = self.generations.get(&canary.generation).and_then(|running| running.process.as_ref());
        CanaryStatus {
            generation: canary.generation.number,
            pid: canary.pid,
            slot: u32::from(canary.slot),
            share: f64::from(canary.buckets) / BUCKETS as f64,
            queue: seen.queues.get(&canary.slot).copied().unwrap_or(0),
            connections: seen.open_connections(process),
            selected: seen.counted.get(&canary.slot).map_or(0, selected),
            remaining_ms: canary.until.map(|until| until.saturating_sub(self.clock.now())),
        }
    }

    /// Why the group is not ready: nothing where it has a published table and a worker that works.
    pub(super) fn unready(&self) -> Option<String> {
        let name = &self.settings.name;
        if self.engine.epoch() == 0 {
            return Some(format!("the group {name} has no published table"));
        }
        let workers = self.engine.workers();
        if workers.iter().any(|worker| worker.state == State::Working) {
            return None;
        }
        let states =
            workers.iter().map(|worker| format!("{name}/{} {}", worker.index, worker.state.as_str()));
        let states: Vec<String> = states.collect();
        Some(format!("the group {name} has no working worker: {}", states.join(", ")))
    }

    /// How many workers work, as the engine knows.
    pub(super) fn counts(&self) -> Counts {
        let working = self.engine.states().filter(|state| *state == State::Working).count();
        Counts { is_serving: self.engine.epoch() > 0, working, workers: self.engine.states().count() }
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
    pub(super) fn queues(&self) -> Result<BTreeMap<Slot, u64>, Fault> {
        let mut queues = BTreeMap::new();
        for endpoint in &self.endpoints {
            for (slot, own) in endpoint.listening().map_err(|error| unreadable(&error))? {
                *queues.entry(slot).or_default() += u64::from(own.unaccepted);
            }
        }
        Ok(queues)
    }

    /// Remembered UDP flows by slot.
    fn flow_counts(&self) -> BTreeMap<Slot, u64> {
        let mut flows = BTreeMap::new();
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.is_udp()) {
            for (slot, count) in endpoint.flows() {
                *flows.entry(slot).or_default() += count.flows;
            }
        }
        flows
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
    let [first_choice, further_choice, held, dropped, less_loaded, own_cpu, kept, by_id] = all.outcome;
    let [remembered, not_remembered, forgotten] = all.flows;
    let [opening, gone, unknown] = all.ids;
    Counters {
        runs: all.runs(),
        asked: Asked { connection, segment, datagram, migration },
        outcome: Outcomes { first_choice, further_choice, held, dropped, less_loaded, own_cpu, kept, by_id },
        flows: FlowEvents { remembered, not_remembered, forgotten },
        ids: IdEvents { opening, gone, unknown },
    }
}
