//! Generations from their start to their end.

use super::{
    drain::{Cause, KILL_PATIENCE},
    effect::{Effect, Signal},
    event::{GenerationId, Millis},
    group::Group,
    worker::{Generation, Goal, Phase, Trial, Worker},
};

/// The longest time that a drain can be given, ten years: sums with the time cannot overflow.
pub(super) const TIMEOUT_MAX: Millis = 10 * 365 * 86_400_000;

impl Group {
    /// Starts what should run and does not, and gives up what is not ready in time.
    pub(super) fn step_lifecycles(&mut self, now: Millis) {
        let alone = self.nobody_works();
        for index in self.unsteady() {
            self.give_up_late_start(now, index);
            let worker = &self.workers[&index];
            if self.starts_by_itself(index, worker)
                && worker.backoff.due_at(alone).is_none_or(|at| now >= at)
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
            && !self.rules.adopts
            && worker.starting().is_none()
            && !self.stopping
            // The first start waits for the holding listener, which owns the address for the group.
            && self.publication.published > 0
            // `replace` is for programs of which two cannot run at once: a lost one's process may run yet.
            && !(self.rules.replace && worker.is_running())
    }

    /// The workers that something may become of by itself.
    fn unsteady(&self) -> Vec<u32> {
        let unsteady = self.workers.iter().filter(|(_, worker)| !worker.is_steady());
        unsteady.map(|(&index, _)| index).collect()
    }

    /// Whether no worker of the group works: a back-off is shorter then. Asked once for all workers, as while it is so it takes
    /// a look at each of them.
    fn nobody_works(&self) -> bool {
        self.workers.values().all(|worker| worker.working.is_none())
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
            worker.backoff.wait_for_slot(now);
            return None;
        };
        worker.backoff.end_wait();
        worker.last_number += 1;
        let number = worker.last_number;
        let phase = Phase::Starting { deadline };
        worker
            .generations
            .insert(number, Generation { slot, phase, pid: None, exit: None, cpus: Vec::new() });
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

    /// Gives up a generation that is not ready: kills it and, once it has ended, forgets it. No table has named it. The process of a
    /// server that somebody else starts is only forgotten.
    pub(super) fn abandon(&mut self, now: Millis, id: GenerationId) {
        let adopts = self.rules.adopts;
        let Some(generation) = self.generation_mut(id) else { return };
        if matches!(generation.phase, Phase::Starting { .. }) && adopts {
            self.forget(id);
        } else if matches!(generation.phase, Phase::Starting { .. }) {
            generation.phase = Phase::Abandoned { until: now + KILL_PATIENCE };
            self.effects.push(Effect::Signal { generation: id, signal: Signal::Kill });
        }
    }

    pub(super) fn started(&mut self, id: GenerationId, pid: u32) {
        let adopts = self.rules.adopts;
        let Some(generation) = self.generation_mut(id) else { return };
        if adopts && generation.pid.is_some() {
            // Another process takes from the same listener.
            generation.pid = Some(pid);
        }
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
        worker.backoff.start_failed(now);
        worker.message = Some(format!("generation {} {why}", id.number));
        self.note("start-failed", Some(id), why.clone());
        self.operation_start_failed(id, &why);
    }

    pub(super) fn ready(&mut self, now: Millis, id: GenerationId) {
        let Some(generation) = self.generation(id) else { return };
        if !matches!(generation.phase, Phase::Starting { .. }) {
            return;
        }
        self.publication.is_due = true;
        match self.take_canary(id) {
            Some(canary) => self.set_phase(id, Phase::Canary(Trial { canary, epoch: None, since: None })),
            None => self.take_over(now, id),
        }
    }

    fn set_phase(&mut self, id: GenerationId, phase: Phase) {
        if let Some(generation) = self.generation_mut(id) {
            generation.phase = phase;
        }
    }

    /// Has a generation that is ready take over from the one before it, where there is one.
    pub(super) fn take_over(&mut self, now: Millis, id: GenerationId) {
        self.set_phase(id, Phase::Ready { epoch: None });
        let Some(worker) = self.workers.get_mut(&id.worker) else { return };
        let operation = worker.operation;
        worker.vacant_since = None;
        match worker.working.replace(id.number) {
            Some(number) => {
                let predecessor = GenerationId { worker: id.worker, number };
                self.drain(now, predecessor, Cause::Asked, operation, Some(id.number), None);
            }
            None => worker.backoff.works(now),
        }
        self.publication.is_due = true;
    }

    pub(super) fn exited(&mut self, now: Millis, id: GenerationId, exit: String) {
        if self.rules.adopts {
            // Its listener tells what it means.
            return;
        }
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
            Phase::Ready { .. } | Phase::Working => {
                self.note("exited", Some(id), format!("{exit}, without being told to"));
                self.lost(now, id, format!("its process ended by itself: {exit}"));
            }
            Phase::Canary(_) => {
                self.note("exited", Some(id), format!("{exit}, without being told to"));
                self.canary_lost(now, id, format!("its process ended by itself: {exit}"));
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
            Some(Phase::Ready { .. } | Phase::Working) => {
                self.note("listener-lost", Some(id), why.clone());
                self.lost(now, id, why);
            }
            Some(Phase::Canary(_)) => {
                self.note("listener-lost", Some(id), why.clone());
                self.canary_lost(now, id, why);
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
            worker.backoff.lost(now);
            worker.message = Some(format!("generation {}: {why}", id.number));
        }
        self.operation_lost(id, &why);
        self.drain(now, id, Cause::Lost(why), None, None, None);
        let canary = self.workers.get(&id.worker).and_then(|worker| Some(worker.canary()?.0));
        if let Some(number) = canary {
            let canary = GenerationId { worker: id.worker, number };
            self.note("canary-over", Some(canary), "takes over: the old generation was lost");
            self.take_over(now, canary);
        }
    }

    /// Forgets a generation. No table names its slot, and a grace period has passed since one did.
    pub(super) fn forget(&mut self, id: GenerationId) {
        let Some(worker) = self.workers.get_mut(&id.worker) else { return };
        if let Some(generation) = worker.generations.remove(&id.number) {
            self.effects.push(Effect::Forget { generation: id, slot: generation.slot });
            self.slots.give_back(generation.slot);
        }
    }

    /// When something is to become of a worker by itself.
    pub(super) fn lifecycles_wake_at(&self, now: Millis) -> Option<Millis> {
        let alone = self.nobody_works();
        let unsteady = self.workers.iter().filter(|(_, worker)| !worker.is_steady());
        unsteady.filter_map(|(&index, worker)| self.lifecycle_wakes_at(now, index, worker, alone)).min()
    }

    fn lifecycle_wakes_at(&self, now: Millis, index: u32, worker: &Worker, alone: bool) -> Option<Millis> {
        let limits = self.rules.limits;
        let generations = worker.generations.values().filter_map(|generation| match &generation.phase {
            Phase::Starting { deadline } => Some(*deadline),
            Phase::Abandoned { until } => Some(*until),
            Phase::Draining(drain) => drain.wakes_at(now, limits),
            Phase::Canary(trial) => trial.until(),
            Phase::Ready { .. } | Phase::Working => None,
        });
        let start = worker.backoff.due_at(alone).filter(|_| self.starts_by_itself(index, worker));
        generations.chain(start).min()
    }
}
