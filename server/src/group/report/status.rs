//! A group's status, from its view and what the kernel shows now.

use std::collections::BTreeMap;

use server_common::{counters::SlotCounters, limits::BUCKETS};

use crate::{
    control::api::{
        Asked, CanaryStatus, Counters, Fault, FlowEvents, GroupStatus, IdEvents, Outcomes, SCHEMA, Table,
        TableShare, WorkerStatus,
    },
    daemon::{
        clock::Clock,
        settings::{RestartKind, WhenEmpty},
    },
    engine::{
        assign::NOBODY,
        event::{GenerationId, Slot},
        view::{CanaryView, WorkerView},
    },
    group::{
        members::sum,
        observer::{QueueLooks, open_connections},
        processes::GenerationView,
        totals::{migrated_in, selected},
    },
    policy::Policy,
    sockets::{address::ListenAddress, diag::Diag, processes::Processes as AllProcesses},
};

use super::{View, unreadable};

/// What waits at the listeners of each slot of one group.
pub(crate) type Queues = BTreeMap<Slot, u64>;

/// Open connections of one group, by generation.
pub(crate) type Connections = BTreeMap<GenerationId, u64>;

/// What the kernel showed at one look.
struct Seen<'a> {
    /// What the program has counted, by slot.
    counted: BTreeMap<Slot, SlotCounters>,
    queues: Queues,
    /// UDP flows that are remembered and not idle, by slot.
    flows: BTreeMap<Slot, u64>,
    connections: &'a Connections,
    clock: Clock,
}

impl View {
    /// The group's state now, with connections that were counted a moment ago. It reads maps and queues: some microseconds for each worker.
    pub(crate) fn status(
        &self,
        clock: Clock,
        looks: Option<&QueueLooks>,
        connections: &Connections,
    ) -> Result<GroupStatus, Fault> {
        let (counted, queues, flows) = (self.counted()?, self.queues(looks)?, self.flow_counts());
        let seen = Seen { counted, queues, flows, connections, clock };
        let workers = self.engine.workers();
        let workers = workers.into_iter().map(|worker| self.worker_status(worker, &seen)).collect();
        let settings = &self.settings;
        let retired = self.totals.workers.values().map(|totals| totals.counters);
        let all = seen.counted.values().copied().chain(retired).chain([self.totals.held]);
        // One that is being replaced has connections until it is shut down.
        let holds = self.engine.hold_slots();
        Ok(GroupStatus {
            name: settings.name.clone(),
            listen: self.addresses().map(|address| address.to_string()).collect(),
            policy: self.engine.policy().to_string(),
            mode: settings.mode.as_str().to_owned(),
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
            held: holds.iter().filter_map(|slot| seen.queues.get(slot)).sum(),
            epoch: self.engine.epoch(),
            workers,
            counters: counters(sum(all)),
            strangers: self.strangers,
            strangers_total: self.totals.strangers,
            drains: self.totals.drains(),
        })
    }

    /// The group's listen addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = ListenAddress> {
        self.readers.iter().map(|reader| reader.address)
    }

    /// The generations of a worker.
    fn of(&self, worker: u32) -> impl Iterator<Item = (&GenerationId, &GenerationView)> {
        self.generations
            .range(GenerationId { worker, number: 0 }..)
            .take_while(move |(id, _)| id.worker == worker)
    }

    fn worker_status(&self, worker: WorkerView, seen: &Seen<'_>) -> WorkerStatus {
        let mine = || self.of(worker.index);
        let totals = self.totals.workers.get(&worker.index).copied().unwrap_or_default();
        let live = sum(mine().filter_map(|(_, generation)| seen.counted.get(&generation.slot).copied()));
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
            queue: mine().filter_map(|(_, generation)| seen.queues.get(&generation.slot)).sum(),
            connections: mine().filter_map(|(id, _)| seen.connections.get(id)).sum(),
            flows: mine().filter_map(|(_, generation)| seen.flows.get(&generation.slot)).sum(),
            selected: selected(&counters),
            migrated_in: migrated_in(&counters),
            migrated_out: totals.migrated_out,
            stalled: self.is_by_load() && mine().any(|(_, generation)| generation.is_stalled),
            canary,
            restarts: worker.last_number.saturating_sub(1),
            drains: totals.drains,
            message: worker.message,
        }
    }

    /// Whether the policy wants loads.
    pub(super) fn is_by_load(&self) -> bool {
        matches!(self.engine.policy(), Policy::LeastLoaded { .. })
    }

    fn canary_status(&self, canary: &CanaryView, seen: &Seen<'_>) -> CanaryStatus {
        CanaryStatus {
            generation: canary.generation.number,
            pid: canary.pid,
            slot: u32::from(canary.slot),
            share: f64::from(canary.buckets) / BUCKETS as f64,
            queue: seen.queues.get(&canary.slot).copied().unwrap_or(0),
            connections: seen.connections.get(&canary.generation).copied().unwrap_or(0),
            selected: seen.counted.get(&canary.slot).map_or(0, selected),
            remaining_ms: canary.until.map(|until| until.saturating_sub(seen.clock.now())),
        }
    }

    /// The table that is published, or about to be, and where clients go.
    pub(crate) fn table(
        &self,
        clients: &[std::net::SocketAddr],
        to: Option<std::net::SocketAddr>,
    ) -> Result<Table, Fault> {
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
        for reader in &self.readers {
            for (slot, part) in reader.counted().map_err(|error| unreadable(&error))? {
                let sum = counted.entry(slot).or_default();
                *sum = sum.plus(&part);
            }
        }
        Ok(counted)
    }

    /// What waits at the listeners of each slot: by a look, else by sock_diag.
    fn queues(&self, looks: Option<&QueueLooks>) -> Result<Queues, Fault> {
        let look = looks.and_then(|looks| looks.now().ok());
        let mut queues = Queues::new();
        for reader in &self.readers {
            let mut by_diag = None;
            for (&slot, sockets) in reader.sockets() {
                for socket in sockets {
                    let queue = match (&look, &socket.watched) {
                        (Some(look), Some(watched)) => {
                            let queue = look.of(watched).unwrap_or_default();
                            if reader.is_udp() {
                                u64::from(queue.datagrams > 0)
                            } else {
                                queue.unaccepted.into()
                            }
                        }
                        _ => {
                            if by_diag.is_none() {
                                let found = Diag::open().and_then(|mut diag| diag.listeners(reader.address));
                                by_diag = Some(found.map_err(|error| unreadable(&error))?);
                            }
                            let found = by_diag.iter().flatten().find(|it| it.cookie == socket.cookie);
                            let waiting = found.map_or(0, |it| u64::from(it.unaccepted));
                            if reader.is_udp() { waiting.min(1) } else { waiting }
                        }
                    };
                    *queues.entry(slot).or_default() += queue;
                }
            }
        }
        Ok(queues)
    }

    /// Remembered UDP flows by slot.
    fn flow_counts(&self) -> BTreeMap<Slot, u64> {
        let mut flows = BTreeMap::new();
        for reader in self.readers.iter().filter(|reader| reader.is_udp()) {
            for (slot, count) in reader.flows() {
                *flows.entry(slot).or_default() += count.flows;
            }
        }
        flows
    }

    /// Counts the open connections of every generation's processes. It costs what those have open: for a thread.
    pub(crate) fn count_connections(
        &self,
        looks: Option<&QueueLooks>,
        processes: &AllProcesses,
    ) -> Result<Connections, Fault> {
        let addresses: Vec<ListenAddress> =
            self.readers.iter().filter(|reader| !reader.is_udp()).map(|reader| reader.address).collect();
        let mut counted = Connections::new();
        for (&id, generation) in &self.generations {
            let Some(process) = &generation.process else { continue };
            let tree = process.tree_among(processes);
            let found = open_connections(looks.map(QueueLooks::looks), &tree, &addresses)
                .map_err(|error| unreadable(error.as_ref()))?;
            counted.insert(id, found.len() as u64);
        }
        Ok(counted)
    }
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
