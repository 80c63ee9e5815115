//! Carries the engine's effects out, one after another.

use std::{collections::BTreeMap, iter, os::fd::AsFd as _, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{
    engine::{
        effect::{Effect, Note, Receipt, Signal},
        event::{Event, GenerationId, Millis, Moved, Slot},
        layout::Layout,
    },
    sockets::{diag::Diag, procfs},
    workers::process::{Process, ProcessError},
};

use super::{
    actor::{Actor, Message},
    convert,
    describe::describe,
    observe::observe,
    reach::{BucketSet, Named},
    totals::count_drain,
};

/// How long to wait before an observation that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

impl Actor {
    /// Carries one effect out; returns the events that it has at once.
    pub(super) fn carry(&mut self, effect: Effect) -> Vec<Event> {
        let event = match effect {
            Effect::Start { generation, slot } => {
                let started = self.start(generation, slot);
                return iter::once(started).chain(self.prepare_probe(generation)).collect();
            }
            Effect::MakeHold { slot } => Some(self.make_hold(slot)),
            Effect::ShutHold { slot } => Some(self.shut_hold(slot)),
            Effect::Probe { generation } => self.probe(generation),
            Effect::Publish(layout) => {
                self.publish(layout);
                None
            }
            Effect::Observe { generation, first_instant } => self.observe(generation, first_instant),
            Effect::Signal { generation, signal } => {
                self.signal(generation, signal);
                None
            }
            Effect::ShutListener { generation, slot } => {
                let moved = self.shut(slot);
                let totals = self.totals.workers.entry(generation.worker).or_default();
                totals.migrated_out += moved.values().sum::<u64>();
                Some(Event::ListenerShut { generation, moved })
            }
            Effect::Forget { generation, slot } => {
                self.forget(generation, slot);
                None
            }
            Effect::Receipt { operation, mut receipt } => {
                if let Some(left) = self.end_what_is_left(receipt.generation) {
                    let said = receipt.message.take().map(|message| format!("{message}; "));
                    receipt.message = Some(said.unwrap_or_default() + &left);
                }
                self.receipt(operation, receipt);
                None
            }
            Effect::Finished { operation, result } => {
                if let Some(waiter) = self.waiters.remove(&operation) {
                    waiter.finish(result.map_err(|failure| convert::fault(&self.settings.name, failure)));
                }
                None
            }
            Effect::Note(Note { kind, generation, process, detail }) => {
                let missing =
                    generation.filter(|_| kind == "start-failed").and_then(|id| self.missing_sockets(id));
                let detail = match missing {
                    Some(missing) => format!("{detail}; {missing}"),
                    None => detail,
                };
                let worker = generation.map(|id| self.settings.name.worker(id.worker));
                let number = generation.map(|id| id.number);
                self.journal.add_of_process(kind, &self.settings.name, worker, number, &process, detail);
                None
            }
        };
        event.into_iter().collect()
    }

    /// Of datagrams none is held: they would never migrate.
    fn make_hold(&mut self, slot: Slot) -> Event {
        let mut endpoints = self.endpoints.iter_mut().filter(|endpoint| !endpoint.is_udp());
        let made = endpoints.try_for_each(|endpoint| endpoint.make(slot));
        match made.map_err(|error| describe(&error)).and_then(|()| self.keep_hold(slot)) {
            Ok(()) => Event::HoldMade { slot },
            Err(why) => {
                self.forget_slot(slot);
                Event::HoldFailed { slot, why }
            }
        }
    }

    /// Has the listener of a slot outlive this daemon, before any table names it.
    fn keep_hold(&self, slot: Slot) -> Result<(), String> {
        let Some(persistence) = &self.persistence else { return Ok(()) };
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let Some(listener) = endpoint.listener(slot) else { continue };
            persistence.keep_hold(index, slot, listener.as_fd()).map_err(|error| describe(&error))?;
        }
        Ok(())
    }

    /// Has the anchors outlive this daemon.
    pub(super) fn keep_anchors(&mut self) {
        let Some(persistence) = &self.persistence else { return };
        for (index, endpoint) in self.endpoints.iter_mut().enumerate() {
            if let Some(anchor) = &mut endpoint.anchor {
                anchor.keep(|socket| persistence.keep_anchor(index, socket));
            }
        }
    }

    fn shut_hold(&mut self, slot: Slot) -> Event {
        let moved = self.shut(slot);
        let counted = self.forget_slot(slot);
        self.totals.held = self.totals.held.plus(&counted);
        if let Some(persistence) = &self.persistence {
            (0..self.endpoints.len()).for_each(|index| persistence.release_hold(index, slot));
        }
        Event::HoldShut { slot, moved }
    }

    /// Shuts a slot's listener down on every address.
    pub(super) fn shut(&mut self, slot: Slot) -> Moved {
        let mut moved = Moved::new();
        for endpoint in &mut self.endpoints {
            match endpoint.shut(slot) {
                Ok(part) => {
                    part.into_iter().for_each(|(slot, count)| *moved.entry(slot).or_default() += count)
                }
                Err(error) => tracing::error!("{}: {}", endpoint.address, describe(&error)),
            }
        }
        moved
    }

    fn publish(&mut self, layout: Layout) {
        let layout = Arc::new(layout);
        let mut by_slot: BTreeMap<Slot, BucketSet> =
            self.generations.values().map(|running| (running.slot, BucketSet::default())).collect();
        for (bucket, slot) in layout.buckets.iter().enumerate() {
            if let Some(buckets) = by_slot.get_mut(slot) {
                buckets.insert(bucket);
            }
        }
        let keying = layout.policy.keying(layout.seed);
        for running in self.generations.values_mut() {
            let buckets = by_slot.remove(&running.slot).unwrap_or_default();
            running.reach.publish(if buckets.is_empty() {
                Named::Nothing
            } else if layout.policy.is_by_table() {
                Named::Buckets(keying, buckets)
            } else {
                Named::AnyFlow
            });
        }
        let publications: Vec<_> =
            self.endpoints.iter().map(|endpoint| endpoint.publication(layout.clone())).collect();
        let (sender, epoch) = (self.sender.clone(), layout.epoch);
        tokio::spawn(async move {
            // Side by side: each waits for a grace period of its own.
            let mut running = JoinSet::new();
            for publication in publications {
                running.spawn_blocking(publication);
            }
            let mut result = Ok(());
            while let Some(ended) = running.join_next().await {
                result = result.and(match ended {
                    Ok(published) => published.map_err(|error| describe(&error)),
                    Err(panic) => Err(panic.to_string()),
                });
            }
            // The group's task is gone only where the daemon ends.
            let _ = sender.send(Message::Publication { epoch, result });
        });
    }

    pub(super) fn publication_ended(&mut self, epoch: u64, result: Result<(), String>) {
        if result.is_ok() {
            let now = self.clock.now();
            self.generations.values_mut().for_each(|running| running.reach.published(now));
        }
        let hold = self.engine.hold_slot();
        let attached = result.and_then(|()| {
            self.endpoints
                .iter_mut()
                .try_for_each(|endpoint| endpoint.attach(hold).map_err(|error| describe(&error)))
        });
        self.feed(match attached {
            Ok(()) => Event::Published { epoch },
            Err(why) => Event::PublishFailed { epoch, why },
        });
    }

    fn observe(&mut self, generation: GenerationId, first_instant: Option<Millis>) -> Option<Event> {
        let running = self.generations.get(&generation)?;
        let now = self.clock.now();
        let seen = procfs::require_room()
            .map_err(anyhow::Error::from)
            .and_then(|()| observe(&mut self.diag, &mut self.endpoints, running, now, first_instant));
        match seen {
            Ok(observation) => Some(Event::Observed { generation, first_instant, observation }),
            Err(error) => {
                tracing::warn!("cannot see what is left at {generation:?}: {error:#}");
                if let Ok(diag) = Diag::open() {
                    self.diag = diag;
                }
                let sender = self.sender.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(RETRY).await;
                    let _ = sender.send(Message::Again(Effect::Observe { generation, first_instant }));
                });
                None
            }
        }
    }

    fn signal(&mut self, generation: GenerationId, signal: Signal) {
        let Some(running) = self.generations.get(&generation) else { return };
        let Some(process) = &running.process else { return };
        let sent = match signal {
            Signal::Stop => process.signal(self.settings.stop_signal),
            Signal::Kill => kill_tree(process),
        };
        if let (Err(error), false) = (sent, running.has_exited) {
            tracing::warn!("cannot signal {generation:?}: {}", describe(&error));
        }
    }

    fn forget(&mut self, generation: GenerationId, slot: Slot) {
        // One that has not come to a receipt, because it never was ready.
        self.end_what_is_left(generation);
        let counted = self.forget_slot(slot);
        let totals = self.totals.workers.entry(generation.worker).or_default();
        totals.counters = totals.counters.plus(&counted);
        let cell = self.generations.remove(&generation).and_then(|running| running.cell);
        // The slot's next worker is not to be known by what this one said last; saying nothing is as good as no cell. What one
        // of an earlier daemon says is not known.
        if cell.is_none_or(|cell| cell.read().beat != 0) {
            self.cells.put(slot, None);
        }
        // Its slot's counters are its worker's now.
        self.save(None);
    }

    /// Kills what a generation's process has left behind, and says what that was. Its connections have ended or their
    /// deadline is over; its listener, which a child may hold as well, is shut down or was never in a table.
    fn end_what_is_left(&self, generation: GenerationId) -> Option<String> {
        let running = self.generations.get(&generation).filter(|running| running.has_exited)?;
        let process = running.process.as_ref()?;
        let left = process.tree();
        if left.is_empty() {
            return None;
        }
        if let Err(error) = kill_tree(process) {
            tracing::warn!("cannot end what {generation:?} has left behind: {}", describe(&error));
        }
        let (count, plural) = (left.len(), if left.len() == 1 { "process" } else { "processes" });
        let pids: Vec<String> = left.iter().map(u32::to_string).collect();
        let detail = format!("it left {count} {plural} behind, killed: pid {}", pids.join(", "));
        let worker = self.settings.name.worker(generation.worker);
        self.journal.add(
            "left-behind",
            &self.settings.name,
            Some(worker),
            Some(generation.number),
            detail.clone(),
        );
        Some(detail)
    }

    pub(super) fn forget_slot(&mut self, slot: Slot) -> server_common::counters::SlotCounters {
        let parts: Vec<_> = self
            .endpoints
            .iter_mut()
            .filter_map(|endpoint| match endpoint.forget(slot) {
                Ok(counted) => Some(counted),
                Err(error) => {
                    tracing::error!("{}: {}", endpoint.address, describe(&error));
                    None
                }
            })
            .collect();
        Self::sum(parts)
    }

    /// Takes out and counts what nobody will read any more of the datagrams that a generation was sent.
    fn unread(&mut self, generation: GenerationId) -> u64 {
        let running = self.generations.get(&generation).filter(|running| running.has_exited);
        let Some(slot) = running.map(|running| running.slot) else { return 0 };
        let counted = self.endpoints.iter_mut().map(|endpoint| {
            endpoint.unread(slot).unwrap_or_else(|error| {
                tracing::warn!("{}: {}", endpoint.address, describe(&error));
                0
            })
        });
        counted.sum()
    }

    fn receipt(&mut self, operation: Option<u64>, receipt: Receipt) {
        let totals = self.totals.workers.entry(receipt.generation.worker).or_default();
        count_drain(&mut totals.drains, receipt.outcome);
        let unread = self.unread(receipt.generation);
        let receipt = convert::receipt(&self.settings.name, receipt, unread);
        if let Some(waiter) = operation.and_then(|operation| self.waiters.get_mut(&operation)) {
            waiter.send(receipt);
        }
    }
}

/// Kills a worker's processes. One that forks meanwhile can leave a child behind, which a further pass finds.
fn kill_tree(process: &Process) -> Result<bool, ProcessError> {
    const PASSES: u32 = 3;
    let mut any = false;
    for _ in 0..PASSES {
        if process.signal_tree(libc::SIGKILL)? == 0 {
            break;
        }
        any = true;
    }
    Ok(any)
}
