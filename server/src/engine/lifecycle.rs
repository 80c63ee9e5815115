//! Generations from their start to their end.

use super::{
    drain::{Act, Cause, Drain, KILL_PATIENCE, Shut},
    effect::{Effect, Outcome, Receipt, Receiver, Signal},
    event::{GenerationId, Millis, Moved, OperationId, Slot},
    group::Group,
    publication::drains_mut,
    worker::{Generation, Goal, Phase, Worker},
};

/// The back-off between starts that come to nothing: doubled from the first to the last.
const BACKOFF_MIN: Millis = 100;
const BACKOFF_MAX: Millis = 30_000;

/// How long to wait before a worker is started again for which there was no slot.
const SLOT_RETRY: Millis = 1_000;

/// The longest time that a drain can be given, ten years: sums with the time cannot overflow.
const TIMEOUT_MAX: Millis = 10 * 365 * 86_400_000;

/// How long a generation must have worked for its worker's back-off to begin anew.
const STEADY: Millis = 10_000;

impl Group {
    /// Starts what should run and does not, and gives up what is not ready in time.
    pub(super) fn step_lifecycles(&mut self, now: Millis) {
        let indices: Vec<u32> = self.workers.keys().copied().collect();
        for index in indices {
            self.give_up_late_start(now, index);
            let worker = &self.workers[&index];
            if self.starts_by_itself(index, worker)
                && worker.start_at.is_none_or(|at| now >= at)
                && self.start(now, index).is_none()
            {
                self.operation_without_slot(index);
            }
            let worker = &self.workers[&index];
            if worker.goal == Goal::Leave && worker.generations.is_empty() && worker.operation.is_none() {
                self.left_at.insert(index, worker.last_number);
                self.workers.remove(&index);
            }
        }
    }

    /// Whether a generation of the worker may be started, beside one that works or drains.
    pub(super) fn may_start(&self, worker: &Worker) -> bool {
        worker.goal == Goal::Work
            && worker.starting().is_none()
            && !self.stopping
            // The first start waits for the holding listener, which owns the address for the group.
            && self.publication.published > 0
            // `replace` is for programs of which two cannot run at once: a lost one's process may run yet.
            && !(self.rules.replace && worker.is_running())
    }

    /// Whether the worker is to be started without anybody's asking: it does not work, and no restart that has come to it
    /// decides when it is started.
    fn starts_by_itself(&self, index: u32, worker: &Worker) -> bool {
        worker.working.is_none() && self.may_start(worker) && !self.is_being_handed_over(index, worker)
    }

    /// Starts the worker's next generation; `None` where there is no slot for it.
    pub(super) fn start(&mut self, now: Millis, index: u32) -> Option<u64> {
        let deadline = now + self.rules.start;
        let slot = self.slots.take();
        let worker = self.workers.get_mut(&index)?;
        let Some(slot) = slot else {
            worker.message = Some("no slot of the sockarray is free".into());
            worker.start_at = Some(now + SLOT_RETRY);
            return None;
        };
        worker.start_at = None;
        worker.last_number += 1;
        let number = worker.last_number;
        let phase = Phase::Starting { deadline };
        worker.generations.insert(number, Generation { slot, phase, pid: None, exit: None });
        self.effects.push(Effect::Start { generation: GenerationId { worker: index, number }, slot });
        Some(number)
    }

    fn give_up_late_start(&mut self, now: Millis, index: u32) {
        let Some(number) = self.workers[&index].starting() else { return };
        let id = GenerationId { worker: index, number };
        match self.generation(id).map(|generation| &generation.phase) {
            Some(Phase::Starting { deadline }) if now >= *deadline => {
                let limit = self.rules.start;
                self.abandon(now, id);
                self.start_came_to_nothing(now, id, format!("was not ready within {limit} ms"));
            }
            Some(Phase::Abandoned { until }) if now >= *until => {
                self.note("abandoned", Some(id), "its process has not ended although it was killed");
                self.forget(id);
            }
            _ => {}
        }
    }

    /// Gives up a generation that is not ready: kills it and, once it has ended, forgets it. No table has named it.
    pub(super) fn abandon(&mut self, now: Millis, id: GenerationId) {
        let Some(generation) = self.generation_mut(id) else { return };
        if matches!(generation.phase, Phase::Starting { .. }) {
            generation.phase = Phase::Abandoned { until: now + KILL_PATIENCE };
            self.effects.push(Effect::Signal { generation: id, signal: Signal::Kill });
        }
    }

    pub(super) fn started(&mut self, id: GenerationId, pid: u32) {
        let Some(generation) = self.generation_mut(id) else { return };
        if generation.pid.is_none() {
            generation.pid = Some(pid);
            self.note("started", Some(id), format!("pid {pid}"));
        }
    }

    pub(super) fn start_failed(&mut self, now: Millis, id: GenerationId, why: String) {
        match self.generation(id).map(|generation| &generation.phase) {
            Some(Phase::Starting { .. }) => {
                self.start_came_to_nothing(now, id, why);
                self.forget(id);
            }
            Some(Phase::Abandoned { .. }) => self.forget(id),
            _ => {}
        }
    }

    fn start_came_to_nothing(&mut self, now: Millis, id: GenerationId, why: String) {
        let Some(worker) = self.workers.get_mut(&id.worker) else { return };
        let delay = (BACKOFF_MIN << worker.failures.min(16)).min(BACKOFF_MAX);
        worker.failures += 1;
        worker.start_at = Some(now + delay);
        worker.message = Some(format!("generation {} {why}", id.number));
        self.note("start-failed", Some(id), why.clone());
        self.operation_start_failed(id, &why);
    }

    pub(super) fn ready(&mut self, now: Millis, id: GenerationId) {
        let Some(worker) = self.workers.get_mut(&id.worker) else { return };
        let Some(generation) = worker.generations.get_mut(&id.number) else { return };
        if !matches!(generation.phase, Phase::Starting { .. }) {
            return;
        }
        generation.phase = Phase::Ready { epoch: None };
        let operation = worker.operation;
        let predecessor = worker.working.replace(id.number);
        if let Some(number) = predecessor {
            let predecessor = GenerationId { worker: id.worker, number };
            self.drain(now, predecessor, Cause::Asked, operation, Some(id.number), None);
        }
        self.publication.is_due = true;
    }

    /// Takes a generation out of the next table and begins its drain.
    pub(super) fn drain(
        &mut self,
        now: Millis,
        id: GenerationId,
        cause: Cause,
        operation: Option<OperationId>,
        successor: Option<u64>,
        timeout: Option<Millis>,
    ) {
        let timeout = timeout.or_else(|| self.operations.get(&operation?)?.timeout);
        let deadline = self.drain_deadline(now, timeout);
        let Some(worker) = self.workers.get_mut(&id.worker) else { return };
        let Some(generation) = worker.generations.get_mut(&id.number) else { return };
        if !matches!(generation.phase, Phase::Ready { .. } | Phase::Working { .. }) {
            return;
        }
        let drain = Drain::new(now, deadline, cause, operation, successor);
        generation.phase = Phase::Draining(Box::new(drain));
        if worker.working == Some(id.number) {
            worker.working = None;
        }
        self.publication.is_due = true;
        self.note("draining", Some(id), "gets no new flows from the next table on");
    }

    /// When a drain that begins now is to end.
    pub(super) fn drain_deadline(&self, now: Millis, timeout: Option<Millis>) -> Millis {
        now + timeout.unwrap_or(self.rules.drain).min(TIMEOUT_MAX)
    }

    pub(super) fn exited(&mut self, now: Millis, id: GenerationId, exit: String) {
        let Some(generation) = self.generation_mut(id) else { return };
        if generation.exit.is_some() {
            return;
        }
        generation.exit = Some(exit.clone());
        match &mut generation.phase {
            Phase::Starting { .. } => {
                self.start_came_to_nothing(now, id, format!("ended ({exit}) before it was ready"));
                self.forget(id);
            }
            Phase::Abandoned { .. } => self.forget(id),
            Phase::Ready { .. } | Phase::Working { .. } => {
                self.note("exited", Some(id), format!("{exit}, without being told to"));
                self.lost(now, id, format!("its process ended by itself: {exit}"));
            }
            Phase::Draining(drain) => {
                drain.deserted |= drain.stop_sent.is_none();
                self.note("exited", Some(id), exit);
            }
        }
    }

    pub(super) fn listener_lost(&mut self, now: Millis, id: GenerationId, why: String) {
        match self.generation(id).map(|generation| &generation.phase) {
            Some(Phase::Starting { .. }) => {
                self.abandon(now, id);
                self.start_came_to_nothing(now, id, why);
            }
            Some(Phase::Ready { .. } | Phase::Working { .. }) => {
                self.note("listener-lost", Some(id), why.clone());
                self.lost(now, id, why);
            }
            Some(Phase::Draining(_)) => {
                let abandoned = self.drain_mut(id).is_some_and(|drain| drain.abandoned(&why));
                if abandoned {
                    self.note("listener-lost", Some(id), why);
                }
            }
            Some(Phase::Abandoned { .. }) | None => {}
        }
    }

    fn lost(&mut self, now: Millis, id: GenerationId, why: String) {
        if let Some(worker) = self.workers.get_mut(&id.worker) {
            let steady = worker.generations.get(&id.number).is_some_and(
                |generation| matches!(generation.phase, Phase::Working { since } if now >= since + STEADY),
            );
            // The first restart is at once; a worker that is lost again and again waits longer each time.
            worker.failures = if steady { 0 } else { worker.failures + 1 };
            let delay = match worker.failures {
                0 | 1 => 0,
                more => (BACKOFF_MIN << (more - 2).min(16)).min(BACKOFF_MAX),
            };
            worker.start_at = Some(now + delay);
            worker.message = Some(format!("generation {}: {why}", id.number));
        }
        self.operation_lost(id, &why);
        self.drain(now, id, Cause::Lost(why), None, None, None);
    }

    /// Carries every drain as far as it can go now.
    pub(super) fn step_drains(&mut self, now: Millis) {
        let limits = self.rules.limits;
        let ids: Vec<GenerationId> = drains_mut(&mut self.workers).map(|(id, _)| id).collect();
        for id in ids {
            while let Some(act) = self.next_act(now, id, limits) {
                let Some(slot) = self.generation(id).map(|generation| generation.slot) else { break };
                match act {
                    Act::Observe => {
                        let first_instant = self.drain_mut(id).and_then(|drain| drain.first_instant);
                        self.effects.push(Effect::Observe { generation: id, first_instant });
                    }
                    Act::Stop => self.effects.push(Effect::Signal { generation: id, signal: Signal::Stop }),
                    Act::Kill => self.effects.push(Effect::Signal { generation: id, signal: Signal::Kill }),
                    Act::Shut => self.effects.push(Effect::ShutListener { generation: id, slot }),
                    Act::End => {
                        self.end_drain(id);
                        break;
                    }
                }
            }
        }
    }

    fn next_act(&mut self, now: Millis, id: GenerationId, limits: super::drain::Limits) -> Option<Act> {
        let generation = self.generation_mut(id)?;
        let alive = generation.exit.is_none();
        match &mut generation.phase {
            Phase::Draining(drain) => drain.next(now, alive, limits),
            _ => None,
        }
    }

    fn end_drain(&mut self, id: GenerationId) {
        let Some(generation) = self.generation(id) else { return };
        let Phase::Draining(drain) = &generation.phase else { return };
        let outcome = match (drain.late, &drain.cause) {
            (true, _) => Outcome::Deadline,
            (false, Cause::Lost(_)) => Outcome::Lost,
            (false, Cause::Asked) if drain.deserted => Outcome::Lost,
            (false, Cause::Asked) => Outcome::Drained,
        };
        let receipt = Receipt {
            generation: id,
            successor: drain.successor,
            outcome,
            began: drain.began.unwrap_or_default(),
            ended: drain.last.unwrap_or_default(),
            migrated: drain.moved.clone(),
            exit: generation.exit.clone(),
            steps: drain.steps.clone(),
            message: drain_message(drain, generation),
        };
        let operation = drain.operation;
        let kind = match outcome {
            Outcome::Drained => "drained",
            Outcome::Deadline => "deadline",
            Outcome::Lost => "lost",
        };
        self.note(kind, Some(id), receipt.message.clone().unwrap_or_else(|| "nothing is left".into()));
        self.effects.push(Effect::Receipt { operation, receipt });
        self.forget(id);
    }

    pub(super) fn listener_shut(&mut self, id: GenerationId, moved: &Moved) {
        // Asked now: by the end of the drain the receivers' slots may be others'.
        let receivers = self.receivers(moved);
        let Some(drain) = self.drain_mut(id).filter(|drain| drain.shut == Shut::Asked) else { return };
        drain.listener_shut(receivers);
        self.hold_received(moved);
    }

    /// Who the slots of a migration's receivers belong to.
    fn receivers(&self, moved: &Moved) -> std::collections::BTreeMap<Receiver, u64> {
        let mut receivers = std::collections::BTreeMap::new();
        for (slot, count) in moved {
            *receivers.entry(self.receiver(*slot)).or_default() += count;
        }
        receivers
    }

    fn receiver(&self, slot: Slot) -> Receiver {
        let has_slot =
            |worker: &Worker| worker.generations.values().any(|generation| generation.slot == slot);
        self.workers
            .iter()
            .find(|(_, worker)| has_slot(worker))
            .map_or(Receiver::Hold, |(&index, _)| Receiver::Worker(index))
    }

    /// Forgets a generation. No table names its slot, and a grace period has passed since one did.
    fn forget(&mut self, id: GenerationId) {
        let Some(worker) = self.workers.get_mut(&id.worker) else { return };
        if let Some(generation) = worker.generations.remove(&id.number) {
            self.effects.push(Effect::Forget { generation: id, slot: generation.slot });
            self.slots.give_back(generation.slot);
        }
    }

    pub(super) fn drain_mut(&mut self, id: GenerationId) -> Option<&mut Drain> {
        match &mut self.generation_mut(id)?.phase {
            Phase::Draining(drain) => Some(drain),
            _ => None,
        }
    }

    pub(super) fn lifecycle_wakes_at(&self, now: Millis, index: u32, worker: &Worker) -> Option<Millis> {
        let limits = self.rules.limits;
        let generations = worker.generations.values().filter_map(|generation| match &generation.phase {
            Phase::Starting { deadline } => Some(*deadline),
            Phase::Abandoned { until } => Some(*until),
            Phase::Draining(drain) => drain.wakes_at(now, limits),
            Phase::Ready { .. } | Phase::Working { .. } => None,
        });
        let start = worker.start_at.filter(|_| self.starts_by_itself(index, worker));
        generations.chain(start).min()
    }
}

fn drain_message(drain: &Drain, generation: &Generation) -> Option<String> {
    let lost = match &drain.cause {
        Cause::Lost(why) => Some(why.clone()),
        Cause::Asked if drain.deserted => Some("its process ended before it was told to".to_owned()),
        Cause::Asked => None,
    };
    let late = drain.late.then(|| {
        let left = drain.at_deadline.unwrap_or_default();
        format!(
            "at its deadline it had {} half-open, {} unaccepted and {} open connections",
            left.handshakes, left.unaccepted, left.connections
        )
    });
    let killed = drain.kill_sent.map(|_| match generation.exit {
        Some(_) => "it did not end when told to, and was killed".to_owned(),
        None => "its process has not ended although it was killed".to_owned(),
    });
    let parts: Vec<String> = [lost, late, killed].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
