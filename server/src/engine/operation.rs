//! What people have asked for, from the request to its last answer.

use std::collections::{BTreeSet, VecDeque};

use super::{
    drain::Cause,
    effect::{Effect, Failure, FailureKind},
    event::{Command, GenerationId, Millis, OperationId},
    group::Group,
    worker::{Goal, Worker},
};

/// An operation under way. Each has its workers in hand until it ends.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    /// How long each of its drains may take.
    pub(super) timeout: Option<Millis>,
    /// Its workers, all of which it has in hand.
    workers: BTreeSet<u32>,
    task: Task,
    /// What went wrong, once something has.
    failure: Option<Failure>,
}

#[derive(Debug, Clone)]
enum Task {
    /// Hand over one worker after another.
    Restart { waiting: VecDeque<u32>, current: Option<Handover> },
    /// Wait until the workers have no generation.
    Empty,
    /// Wait until the workers work, and those that leave have no generation.
    Settled,
}

#[derive(Debug, Clone, Copy)]
struct Handover {
    worker: u32,
    /// The generation that is to go; none where the worker had none.
    from: Option<u64>,
    /// The generation that is to come, once it is started.
    to: Option<u64>,
}

impl Group {
    pub(super) fn command(&mut self, now: Millis, id: OperationId, command: Command) {
        if !self.seen_operations.insert(id) {
            return;
        }
        let begun = match command {
            Command::Restart { worker, timeout } => self.restart(id, worker, timeout),
            Command::Drain { worker, timeout } => self.drain_worker(now, id, worker, timeout),
            Command::Undrain { worker } => self.undrain(now, id, worker),
            Command::Scale { workers, timeout } => self.scale(now, id, workers, timeout),
            Command::Stop { timeout } => self.stop(now, id, timeout),
        };
        if let Err(failure) = begun {
            self.effects.push(Effect::Finished { operation: id, result: Err(failure) });
        }
    }

    fn restart(
        &mut self,
        id: OperationId,
        worker: Option<u32>,
        timeout: Option<Millis>,
    ) -> Result<(), Failure> {
        let workers: BTreeSet<u32> = match worker {
            Some(index) => BTreeSet::from([self.known(index)?]),
            None => self
                .workers
                .iter()
                .filter(|(_, worker)| worker.goal == Goal::Work)
                .map(|(&index, _)| index)
                .collect(),
        };
        for &index in &workers {
            if self.workers[&index].goal == Goal::Drained {
                return Err(refused(
                    format!("cannot restart worker {index}: it is drained"),
                    Some("put it back to work with `steer undrain`".into()),
                ));
            }
        }
        let task = Task::Restart { waiting: workers.iter().copied().collect(), current: None };
        self.begin(id, "restart", workers, timeout, task)
    }

    fn drain_worker(
        &mut self,
        now: Millis,
        id: OperationId,
        index: u32,
        timeout: Option<Millis>,
    ) -> Result<(), Failure> {
        self.known(index)?;
        self.begin(id, "drain", BTreeSet::from([index]), timeout, Task::Empty)?;
        self.retire(now, id, index, Goal::Drained, timeout);
        Ok(())
    }

    fn undrain(&mut self, now: Millis, id: OperationId, index: u32) -> Result<(), Failure> {
        self.known(index)?;
        self.begin(id, "undrain", BTreeSet::from([index]), None, Task::Settled)?;
        self.employ(now, index);
        Ok(())
    }

    fn scale(
        &mut self,
        now: Millis,
        id: OperationId,
        wanted: u32,
        timeout: Option<Millis>,
    ) -> Result<(), Failure> {
        let most = self.workers_max();
        if wanted == 0 || wanted > most {
            return Err(refused(
                format!("cannot scale to {wanted} workers: a group has 1 to {most}"),
                (wanted == 0).then(|| "end the group with `steer stop`".into()),
            ));
        }
        let leaving: BTreeSet<u32> = self.workers.keys().copied().filter(|&index| index >= wanted).collect();
        let coming: BTreeSet<u32> = (0..wanted).filter(|index| !self.workers.contains_key(index)).collect();
        for &index in &coming {
            self.workers.insert(index, Worker::new());
        }
        let hands = leaving.union(&coming).copied().collect();
        let begun = self.begin(id, "scale", hands, timeout, Task::Settled);
        if begun.is_err() {
            self.workers.retain(|index, _| !coming.contains(index));
            return begun;
        }
        for index in coming {
            self.employ(now, index);
        }
        for index in leaving {
            self.retire(now, id, index, Goal::Leave, timeout);
        }
        Ok(())
    }

    fn stop(&mut self, now: Millis, id: OperationId, timeout: Option<Millis>) -> Result<(), Failure> {
        // A stop overrules what is under way: those who wait for it are told.
        for (other, _) in std::mem::take(&mut self.operations) {
            let failure = refused("the group is being stopped".into(), None);
            self.effects.push(Effect::Finished { operation: other, result: Err(failure) });
        }
        for worker in self.workers.values_mut() {
            worker.operation = None;
        }
        self.stopping = true;
        self.publication.is_due = true;
        let all: BTreeSet<u32> = self.workers.keys().copied().collect();
        self.begin(id, "stop", all.clone(), timeout, Task::Empty)?;
        for index in all {
            self.retire(now, id, index, Goal::Leave, timeout);
        }
        Ok(())
    }

    /// The most workers: each may need two slots at a time, and so may the holding listener; slot 0 is none.
    fn workers_max(&self) -> u32 {
        ((self.rules.slots - 3) / 2).min(server_common::limits::WORKERS_MAX as u32)
    }

    fn known(&self, index: u32) -> Result<u32, Failure> {
        let count = self.workers.len();
        if self.workers.contains_key(&index) {
            return Ok(index);
        }
        Err(Failure {
            kind: FailureKind::NoSuch,
            message: format!("there is no worker {index}: the group has {count}, counted from 0"),
            hint: Some("`steer status` lists the workers".into()),
        })
    }

    /// Takes the workers in hand, all or none.
    fn begin(
        &mut self,
        id: OperationId,
        verb: &str,
        workers: BTreeSet<u32>,
        timeout: Option<Millis>,
        task: Task,
    ) -> Result<(), Failure> {
        let stopping = self.stopping && verb != "stop";
        if stopping {
            return Err(refused(format!("cannot {verb}: the group is being stopped"), None));
        }
        if let Some(busy) = workers.iter().find(|index| self.workers[index].operation.is_some()) {
            return Err(refused(
                format!("cannot {verb} worker {busy}: another change to it is under way"),
                Some("wait for it; `steer events --follow` shows its end".into()),
            ));
        }
        for index in &workers {
            if let Some(worker) = self.workers.get_mut(index) {
                worker.operation = Some(id);
            }
        }
        self.operations.insert(id, Operation { timeout, workers, task, failure: None });
        Ok(())
    }

    /// Puts a worker to work, from nothing or from a drain that ends by itself.
    fn employ(&mut self, now: Millis, index: u32) {
        let Some(worker) = self.workers.get_mut(&index) else { return };
        worker.goal = Goal::Work;
        if worker.working.is_none() && worker.starting().is_none() {
            self.start(now, index);
        }
    }

    /// Takes a worker out of work: what works drains, what starts is given up.
    fn retire(&mut self, now: Millis, id: OperationId, index: u32, goal: Goal, timeout: Option<Millis>) {
        let Some(worker) = self.workers.get_mut(&index) else { return };
        worker.goal = goal;
        let (working, starting) = (worker.working, worker.starting());
        if let Some(number) = starting {
            self.abandon(now, GenerationId { worker: index, number }, "is not wanted any more".into());
        }
        if let Some(number) = working {
            self.drain(now, GenerationId { worker: index, number }, Cause::Asked, Some(id), None, timeout);
        }
    }

    /// A generation could not be started: whoever waits for it has failed.
    pub(super) fn operation_start_failed(&mut self, id: GenerationId, why: &str) {
        let Some(worker) = self.workers.get(&id.worker) else { return };
        if worker.goal != Goal::Work {
            return;
        }
        let stays = match worker.working {
            Some(number) => format!("; generation {number} goes on working"),
            None => String::new(),
        };
        let failure = Failure {
            kind: FailureKind::Failed,
            message: format!("generation {} of worker {} {why}{stays}", id.number, id.worker),
            hint: Some("the worker's own output says more; `steer status` shows what runs".into()),
        };
        if let Some(operation) = worker.operation.and_then(|operation| self.operations.get_mut(&operation)) {
            operation.failure.get_or_insert(failure);
        }
    }

    /// Carries operations on, and ends those that are done.
    pub(super) fn step_operations(&mut self, now: Millis) {
        let ids: Vec<OperationId> = self.operations.keys().copied().collect();
        for id in ids {
            while self.step_restart(now, id) {}
            let Some(operation) = self.operations.get(&id) else { continue };
            let is_over = match (&operation.failure, &operation.task) {
                (Some(_), Task::Restart { .. } | Task::Settled) => true,
                (_, Task::Restart { waiting, current }) => waiting.is_empty() && current.is_none(),
                (_, Task::Empty) => operation.workers.iter().all(|index| self.is_empty(*index)),
                (_, Task::Settled) => operation.workers.iter().all(|index| self.is_settled(*index)),
            };
            if is_over {
                self.finish(id);
            }
        }
    }

    fn finish(&mut self, id: OperationId) {
        let Some(operation) = self.operations.remove(&id) else { return };
        for index in operation.workers {
            if let Some(worker) = self.workers.get_mut(&index) {
                worker.operation = None;
            }
        }
        let result = operation.failure.map_or(Ok(()), Err);
        self.effects.push(Effect::Finished { operation: id, result });
    }

    fn is_empty(&self, index: u32) -> bool {
        self.workers.get(&index).is_none_or(|worker| worker.generations.is_empty())
    }

    fn is_settled(&self, index: u32) -> bool {
        let Some(worker) = self.workers.get(&index) else { return true };
        match worker.goal {
            Goal::Work => worker.is_published(),
            Goal::Drained | Goal::Leave => worker.generations.is_empty(),
        }
    }

    /// Takes a restart one step on; whether it could go on at once.
    fn step_restart(&mut self, now: Millis, id: OperationId) -> bool {
        let Some(operation) = self.operations.get(&id) else { return false };
        let Task::Restart { waiting, current } = &operation.task else { return false };
        if operation.failure.is_some() {
            return false;
        }
        match *current {
            None => match waiting.front() {
                Some(&worker) => {
                    let from = self.workers.get(&worker).and_then(|worker| worker.working);
                    self.set_handover(id, Some(Handover { worker, from, to: None }));
                    true
                }
                None => false,
            },
            Some(handover) => self.step_handover(now, id, handover),
        }
    }

    fn step_handover(&mut self, now: Millis, id: OperationId, handover: Handover) -> bool {
        let Handover { worker: index, from, to } = handover;
        let Some(worker) = self.workers.get(&index) else {
            self.end_handover(id);
            return true;
        };
        let gone = from.is_none_or(|number| !worker.generations.contains_key(&number));
        match to {
            None if self.rules.replace && !gone => {
                if worker.working == from {
                    let from = GenerationId { worker: index, number: from.unwrap_or_default() };
                    self.drain(now, from, Cause::Asked, Some(id), None, None);
                    return true;
                }
                false
            }
            None => {
                // One that already starts (after a crash) is as new as one could be.
                let starting = worker.starting().or_else(|| self.start(now, index));
                match starting {
                    Some(number) => self.set_handover(id, Some(Handover { to: Some(number), ..handover })),
                    None => self.fail(id, refused("no slot of the sockarray is free".into(), None)),
                }
                true
            }
            Some(number) => {
                let over = gone && worker.working == Some(number) && worker.is_published();
                let superseded = worker.working != Some(number) && !worker.generations.contains_key(&number);
                if superseded {
                    // It was lost after it had been ready: the worker is started again as after any crash.
                    let message = format!("generation {number} of worker {index} was lost at once");
                    self.fail(id, Failure { kind: FailureKind::Failed, message, hint: None });
                    return true;
                }
                if over {
                    self.end_handover(id);
                }
                over
            }
        }
    }

    fn set_handover(&mut self, id: OperationId, handover: Option<Handover>) {
        if let Some(Operation { task: Task::Restart { current, .. }, .. }) = self.operations.get_mut(&id) {
            *current = handover;
        }
    }

    fn end_handover(&mut self, id: OperationId) {
        if let Some(Operation { task: Task::Restart { current, waiting }, .. }) = self.operations.get_mut(&id)
        {
            *current = None;
            waiting.pop_front();
        }
    }

    fn fail(&mut self, id: OperationId, failure: Failure) {
        if let Some(operation) = self.operations.get_mut(&id) {
            operation.failure.get_or_insert(failure);
        }
    }
}

fn refused(message: String, hint: Option<String>) -> Failure {
    Failure { kind: FailureKind::Refused, message, hint }
}
