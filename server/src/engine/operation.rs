//! What people have asked for, from the moment it is begun to its last answer.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    effect::{Effect, Failure, FailureKind},
    event::{Canary, GenerationId, Millis, OperationId},
    group::Group,
    publication::drains_mut,
    worker::Goal,
};

/// An operation under way. Each has its workers in hand until it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Operation {
    /// How long each of its drains may take.
    pub(super) timeout: Option<Millis>,
    /// Its workers, all of which it has in hand.
    pub(super) workers: BTreeSet<u32>,
    pub(super) task: Task,
    /// What went wrong, once something has.
    pub(super) failure: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Task {
    /// Hand over one worker after another.
    Restart {
        waiting: VecDeque<u32>,
        current: Option<Handover>,
        /// What the first new generation is tried with, until it is ready.
        canary: Option<Canary>,
    },
    /// Wait until the workers have no generation.
    Empty,
    /// Wait until the workers work, and those that leave have no generation.
    Settled,
    /// Wait until a table with the change is published: the number of the first that has it, once it is given out.
    Published(Option<u64>),
    /// Wait as for `Published`, and as for `Settled`.
    Reconfigured(Option<u64>),
    /// Wait until a weight has come to its end, step by step; then until a table with that is published.
    Ramp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handover {
    pub(super) worker: u32,
    /// The generation that is to go; none where the worker had none.
    pub(super) from: Option<u64>,
    /// The generation that is to come, once it is started.
    pub(super) to: Option<u64>,
}

impl Group {
    /// Takes the workers in hand, all or none.
    pub(super) fn begin(
        &mut self,
        id: OperationId,
        verb: &str,
        workers: BTreeSet<u32>,
        timeout: Option<Millis>,
        task: Task,
    ) -> Result<(), Failure> {
        if verb != "stop" {
            self.goes_on(verb)?;
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

    /// Refuses what is asked of a group that is being stopped.
    pub(super) fn goes_on(&self, verb: &str) -> Result<(), Failure> {
        if self.stopping {
            return Err(refused(format!("cannot {verb}: the group is being stopped"), None));
        }
        Ok(())
    }

    /// A generation could not be started: whoever waits for it has failed.
    pub(super) fn operation_start_failed(&mut self, id: GenerationId, why: &str) {
        let Some(worker) = self.workers.get(&id.worker) else { return };
        let stays = match worker.working {
            Some(number) => format!("; generation {number} goes on working"),
            None => String::new(),
        };
        let failure = Failure {
            kind: FailureKind::Failed,
            message: format!("generation {} of worker {} {why}{stays}", id.number, id.worker),
            hint: Some("the worker's own output says more; `steer status` shows what runs".into()),
        };
        self.fail_waiting(id, failure);
    }

    /// A generation was lost after it had been ready: whoever waits for its worker to work has failed.
    pub(super) fn operation_lost(&mut self, id: GenerationId, why: &str) {
        let message = format!("generation {} of worker {} was lost: {why}", id.number, id.worker);
        let hint = Some("it is started again; `steer status` shows how it goes".into());
        self.fail_waiting(id, Failure { kind: FailureKind::Failed, message, hint });
    }

    /// There was no slot for a worker's generation.
    pub(super) fn operation_without_slot(&mut self, index: u32) {
        if let Some(number) = self.workers.get(&index).map(|worker| worker.last_number) {
            self.fail_waiting(GenerationId { worker: index, number }, no_slot());
        }
    }

    /// Fails the operation that waits for this very generation. A restart that has not come to the worker yet, or is
    /// past it, does not care: the worker is started again, as without it.
    fn fail_waiting(&mut self, id: GenerationId, failure: Failure) {
        let Some(worker) = self.workers.get(&id.worker).filter(|worker| worker.goal == Goal::Work) else {
            return;
        };
        let Some(operation) = worker.operation.and_then(|operation| self.operations.get_mut(&operation))
        else {
            return;
        };
        let waits = match &operation.task {
            Task::Restart { current, .. } => {
                current.is_some_and(|handover| handover.worker == id.worker && handover.to == Some(id.number))
            }
            Task::Settled | Task::Reconfigured(_) => true,
            Task::Empty | Task::Published(_) | Task::Ramp => false,
        };
        if waits {
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
                // Whoever asked gets the receipts of all drains that the operation began, and then its end.
                (Some(_), Task::Restart { .. } | Task::Settled | Task::Reconfigured(_)) => {
                    !self.has_drains(id)
                }
                (_, Task::Restart { waiting, current, .. }) => waiting.is_empty() && current.is_none(),
                (_, Task::Published(epoch)) => epoch.is_some_and(|epoch| epoch <= self.publication.published),
                (_, Task::Reconfigured(epoch)) => {
                    epoch.is_some_and(|epoch| epoch <= self.publication.published)
                        && operation.workers.iter().all(|index| self.is_settled(*index))
                }
                (_, Task::Ramp) => false,
                (_, Task::Empty) => {
                    let is_done = |index: &u32| self.is_empty(*index) || self.is_replaced(*index);
                    operation.workers.iter().all(is_done) && !self.has_drains(id)
                }
                (_, Task::Settled) => operation.workers.iter().all(|index| self.is_settled(*index)),
            };
            if is_over {
                self.finish(id);
            }
        }
    }

    pub(super) fn finish(&mut self, id: OperationId) {
        let Some(operation) = self.operations.remove(&id) else { return };
        for index in operation.workers {
            if let Some(worker) = self.workers.get_mut(&index) {
                worker.operation = None;
            }
        }
        let result = operation.failure.map_or(Ok(()), Err);
        self.effects.push(Effect::Finished { operation: id, result });
    }

    fn has_drains(&mut self, id: OperationId) -> bool {
        drains_mut(&mut self.workers).any(|(_, drain)| drain.operation == Some(id))
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

    pub(super) fn fail(&mut self, id: OperationId, failure: Failure) {
        if let Some(operation) = self.operations.get_mut(&id) {
            operation.failure.get_or_insert(failure);
        }
    }
}

pub(super) fn no_slot() -> Failure {
    refused("no slot of the sockarray is free".into(), Some("a drain that ends frees one".into()))
}

pub(super) fn refused(message: String, hint: Option<String>) -> Failure {
    Failure { kind: FailureKind::Refused, message, hint }
}
