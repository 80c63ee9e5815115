//! Executes the engine's effects. Each begins what has to be done; what comes of it is told later.

use std::io;

use crate::{
    control::api::Receipt as Answer,
    daemon::{describe::describe, flows::hash_of},
    engine::{
        effect::{Effect, Note, Receipt},
        event::{Event, GenerationId, Millis, Moved, OperationId, Slot},
        group::Group,
        layout::Layout,
    },
    policy::Policy,
    workers::command::sample_command,
};

use server_common::{flow_hash::Seed, quic::Owner};

use super::{
    convert,
    host::GroupHost,
    message::{Message, Purpose},
    observer::Request,
    processes::{LEFT_BEHIND, Origin, probe_target},
    totals::count_drain,
};

/// The way out where a probe may not bind its port: it takes any, and what denies all but some (port 0 is none of them) denies that.
const DENIED: &str = " (hint: programs at the daemon's cgroup deny it, as SocketBindDeny= does: allow all TCP ports, SocketBindAllow=tcp, \
                      or have the worker be ready by notify or listener)";

/// A receipt that waits for what its generation has left behind.
#[derive(Debug)]
pub(crate) struct Owed {
    operation: Option<OperationId>,
    answer: Answer,
}

impl GroupHost {
    pub(super) fn carry_out(&mut self, engine: &Group, effect: Effect) {
        match effect {
            Effect::Start { generation, slot } => self.start(engine, generation, slot),
            Effect::MakeHold { slot } => self.make_hold(slot),
            Effect::ShutHold { slot } => self.shut_hold(slot),
            Effect::Probe { generation } => self.probe(generation),
            Effect::Publish(layout) => self.publish_table(layout),
            Effect::Observe { generation, first_instant } => self.observe(generation, first_instant),
            // The engine signals no process of an adopted server, and nobody else may have it done.
            Effect::Signal { .. } if self.adoption.is_some() => {}
            Effect::Signal { generation, signal } => self.processes.signal(generation, signal),
            Effect::ShutListener { generation, slot } => self.shut_listener(generation, slot),
            Effect::Forget { generation, slot } => self.forget(generation, slot),
            Effect::Receipt { operation, receipt } => self.receipt(operation, receipt),
            Effect::Finished { operation, result } => {
                let result = result.map_err(|failure| self.fault(failure));
                self.replies.finish(operation, result);
            }
            Effect::Note(note) => self.note(engine, note),
        }
    }

    fn start(&mut self, engine: &Group, id: GenerationId, slot: Slot) {
        if self.adoption.is_some() {
            return self.begin_adopted(id, slot);
        }
        self.processes.begin(id, slot);
        self.starts.begun(id.worker, self.shared.clock.now());
        let listeners = match self.processes.origin().passes() {
            true => match self.members.make(slot, id) {
                Ok(listeners) => listeners,
                Err(error) => {
                    let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                    let why = format!("{}{hint}", describe(&error));
                    return self.tell(Event::StartFailed { generation: id, why });
                }
            },
            false => Vec::new(),
        };
        self.keep_anchors();
        if let Some(cell) = self.processes.make_cell(id) {
            self.members.put_cell(slot, Some(cell));
        }
        let command = match (&self.settings.command, self.processes.origin()) {
            (Some(command), _) => Some(command.clone()),
            (None, Origin::Inherit | Origin::Auto | Origin::Adopt) => None,
            (None, Origin::Own) => {
                let own: Vec<_> = self.members.addresses().collect();
                Some(sample_command(&own, self.settings.sockets.unwrap_or(1)))
            }
        };
        let variables = match engine.policy() {
            Policy::QuicCid(ids) => ids.environment(Owner::new(id.worker, id.number)).into(),
            _ => Vec::new(),
        };
        let at_once = self.processes.fork(id, command, listeners, variables);
        self.later.extend(at_once);
    }

    fn make_hold(&mut self, slot: Slot) {
        let made = match self.members.make_hold(slot) {
            Ok(made) => made,
            Err(error) => return self.hold_failed(slot, describe(&error)),
        };
        match &self.record {
            // Before any table names it.
            Some(record) => self.later.extend(record.keep_hold(slot, made, &self.shared.inbox)),
            None => self.tell(Event::HoldMade { slot }),
        }
    }

    pub(super) fn hold_kept(&mut self, slot: Slot, result: Result<(), String>) {
        match result {
            Ok(()) => self.tell(Event::HoldMade { slot }),
            Err(why) => self.hold_failed(slot, why),
        }
    }

    fn hold_failed(&mut self, slot: Slot, why: String) {
        self.members.forget(slot);
        self.tell(Event::HoldFailed { slot, why });
    }

    fn shut_hold(&mut self, slot: Slot) {
        // The daemon's own: it is at hand.
        self.members.shut(slot);
        let moved = self.moved();
        let counted = self.members.forget(slot);
        self.totals.held = self.totals.held.plus(&counted);
        if let Some(record) = &self.record {
            record.release_hold(slot, self.members.addresses().count());
        }
        self.tell(Event::HoldShut { slot, moved });
    }

    /// What the kernel has migrated since this was asked last; who received it is woken.
    pub(super) fn moved(&mut self) -> Moved {
        let moved = self.members.moved();
        for &slot in moved.keys() {
            if self.members.wake(slot) {
                continue;
            }
            let holder = self.processes.holders().find(|(of, _)| *of == slot).map(|(_, id)| id);
            if let Some(id) = holder {
                self.take_from(id, slot, Purpose::Wake);
            }
        }
        moved
    }

    /// Prepares the probe of a generation that has just been started, where it is ready by probe.
    pub(super) fn prepare_probe(&mut self, seed: &Seed, id: GenerationId) -> Option<Event> {
        let target = probe_target(self.members.first_tcp()?);
        match self.processes.prepare_probe(id, target) {
            Ok(None) => None,
            Ok(Some(client)) => {
                Some(Event::ProbeWanted { generation: id, hash: hash_of(seed, client, target) })
            }
            Err(error) => {
                let hint = if error.kind() == io::ErrorKind::PermissionDenied { DENIED } else { "" };
                let why = format!("cannot be probed: {}{hint}", describe(&error));
                if self.processes.needs_probe(id) {
                    return Some(Event::StartFailed { generation: id, why });
                }
                // What it binds, or says, is enough.
                tracing::warn!("{} {why}", self.settings.name.worker(id.worker));
                None
            }
        }
    }

    fn probe(&mut self, id: GenerationId) {
        let target = self.members.first_tcp().map(probe_target);
        if !target.is_some_and(|target| self.processes.probe(id, target)) {
            self.tell(Event::ProbeEnded { generation: id });
        }
    }

    fn publish_table(&mut self, layout: Layout) {
        let at_once = self.members.publish(layout);
        self.later.extend(at_once);
    }

    pub(super) fn published(&mut self, engine: &Group, epoch: u64, result: Result<(), String>) {
        let attached = result.and_then(|()| match self.is_released {
            // It is the kernel's own hash that chooses: the server's sockets are there to attach through, and are not to be.
            true => Ok(()),
            false => self.members.attach(engine.hold_slot()).map_err(|error| describe(&error)),
        });
        // Of an adopted server they are made only now.
        self.keep_anchors();
        self.tell(match attached {
            Ok(()) => Event::Published { epoch },
            Err(why) => Event::PublishFailed { epoch, why },
        });
    }

    pub(super) fn observe(&mut self, generation: GenerationId, first_instant: Option<Millis>) {
        let (Some(slot), Some(subject)) =
            (self.processes.slot(generation), self.processes.subject(generation))
        else {
            return;
        };
        let (by_id, unread) = match self.members.datagrams(slot) {
            Ok(datagrams) => datagrams,
            Err(error) => {
                tracing::warn!("cannot see what is left at {generation:?}: {}", describe(&error));
                // Seen as busy: it is looked at again.
                (1, 0)
            }
        };
        let request = Request {
            generation,
            first_instant,
            slot,
            targets: self.members.targets(slot),
            flows: self.members.flow_tables(),
            by_id,
            unread,
            process: self.processes.process(generation).cloned(),
            subject,
            inbox: self.shared.inbox.clone(),
        };
        if let Some(effect) = self.shared.observer.observe(request) {
            self.again(effect);
        }
    }

    /// Executes an effect once more, a little later.
    fn again(&self, effect: Effect) {
        const RETRY: std::time::Duration = std::time::Duration::from_millis(100);
        let inbox = self.shared.inbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RETRY).await;
            inbox.send(Message::Again(effect)).await;
        });
    }

    fn shut_listener(&mut self, id: GenerationId, slot: Slot) {
        if self.adoption.is_some() {
            // The server has closed it; one that it serves is its own to shut.
            return self.listener_shut(id);
        }
        let has_ended = self.processes.process(id).is_none_or(|process| process.has_left_nobody());
        // Of a process that is gone without a trace, the kernel has closed it.
        if self.members.shut(slot) || has_ended {
            return self.listener_shut(id);
        }
        self.take_from(id, slot, Purpose::Shut(id));
    }

    /// A generation's listeners do not listen any more: what they held has moved.
    pub(super) fn listener_shut(&mut self, id: GenerationId) {
        let mut moved = self.moved.remove(&id).unwrap_or_default();
        for (slot, count) in self.moved() {
            *moved.entry(slot).or_default() += count;
        }
        self.totals.workers.entry(id.worker).or_default().migrated_out += moved.values().sum::<u64>();
        self.tell(Event::ListenerShut { generation: id, moved });
    }

    fn forget(&mut self, id: GenerationId, slot: Slot) {
        // One that has not come to a receipt, because it never was ready: its probes are nobody's.
        if self.processes.end_probe(id).is_some() {
            self.members.discard_unaccepted(slot);
        }
        // After a receipt that is on its way already.
        if !self.owed.contains_key(&id)
            && let Some(at_once) = self.processes.end_what_is_left(id)
        {
            self.later.extend(at_once);
        }
        let cookies = self.members.cookies_of(slot);
        if let Some(adoption) = &mut self.adoption {
            adoption.park(&cookies);
        }
        let counted = self.members.forget(slot);
        let totals = self.totals.workers.entry(id.worker).or_default();
        totals.counters = totals.counters.plus(&counted);
        let cell = self.processes.forget(id);
        self.moved.remove(&id);
        // The slot's next worker is not to be known by what this one said last; saying nothing is as good as no cell. What one
        // of an earlier daemon says is not known.
        if cell.is_none_or(|cell| cell.read().beat != 0) {
            self.members.put_cell(slot, None);
        }
        // Its slot's counters are its worker's now.
        self.later.push_back(Message::Changed);
    }

    /// A generation serves listeners of its own: those that it was passed, and does not take from, leave the group. Nothing but a probe
    /// can have come to them.
    pub(super) fn forget_passed(&mut self, id: GenerationId, slot: Slot) {
        self.members.discard_unaccepted(slot);
        self.members.shut(slot);
        let counted = self.members.pass_over(slot);
        let totals = self.totals.workers.entry(id.worker).or_default();
        totals.counters = totals.counters.plus(&counted);
        self.journal(
            "binds",
            Some(id),
            "it binds its address itself, and leaves what it was passed".to_owned(),
        );
    }

    fn receipt(&mut self, operation: Option<OperationId>, receipt: Receipt) {
        let id = receipt.generation;
        count_drain(&mut self.totals.workers.entry(id.worker).or_default().drains, receipt.outcome);
        let has_ended = self.processes.process(id).is_none_or(|process| process.exit().is_some());
        let slot = self.processes.slot(id).filter(|_| has_ended);
        let unread = slot.map_or(0, |slot| self.members.unread(slot));
        let answer = convert::receipt(&self.settings.name, receipt, unread);
        match self.processes.end_what_is_left(id) {
            None => {
                if let Some(operation) = operation {
                    self.replies.send(operation, answer);
                }
            }
            Some(at_once) => {
                operation.into_iter().for_each(|operation| self.replies.owe(operation));
                self.owed.insert(id, Owed { operation, answer });
                self.later.extend(at_once);
            }
        }
    }

    /// What a generation has left behind was killed: its receipt says so.
    pub(super) fn left_behind(&mut self, id: GenerationId, killed: &[u32]) {
        let detail = (!killed.is_empty()).then(|| {
            let (count, plural) = (killed.len(), if killed.len() == 1 { "process" } else { "processes" });
            let pids: Vec<String> = killed.iter().map(u32::to_string).collect();
            format!("it left {count} {plural} behind, killed: pid {}", pids.join(", "))
        });
        if let Some(detail) = &detail {
            self.journal(LEFT_BEHIND, Some(id), detail.clone());
        }
        let Some(Owed { operation, mut answer }) = self.owed.remove(&id) else { return };
        if let Some(detail) = detail {
            let said = answer.message.take().map(|message| format!("{message}; "));
            answer.message = Some(said.unwrap_or_default() + &detail);
        }
        if let Some(operation) = operation {
            self.replies.pay(operation, answer);
        }
    }

    fn note(&mut self, engine: &Group, Note { kind, generation, process, detail }: Note) {
        let detail = match generation.filter(|_| kind == "start-failed") {
            Some(id) => self.explain(engine, id, detail),
            None => detail,
        };
        match (kind, generation) {
            ("working", Some(_)) => self.starts.succeeded(),
            ("start-failed", Some(id)) => self.start_failed(engine, id, &detail),
            _ => {}
        }
        let worker = generation.map(|id| self.settings.name.worker(id.worker));
        let (name, number) = (&self.settings.name, generation.map(|id| id.number));
        self.shared.journal.add_of_process(kind, name, worker, number, &process, detail);
    }
}
