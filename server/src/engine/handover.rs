//! A restart, worker after worker: the new generation takes over from the one before.

use super::{
    drain::Cause,
    event::{GenerationId, Millis, OperationId},
    group::Group,
    operation::{Handover, Operation, Task, no_slot},
    worker::{Phase, Worker},
};

impl Group {
    /// Whether a restart has come to the worker, and decides when it is started.
    pub(super) fn is_being_handed_over(&self, index: u32, worker: &Worker) -> bool {
        let operation = worker.operation.and_then(|operation| self.operations.get(&operation));
        operation.is_some_and(|operation| match &operation.task {
            Task::Restart { current: Some(handover), .. } => {
                handover.worker == index && operation.failure.is_none()
            }
            _ => false,
        })
    }

    /// Takes a restart one step on; whether it could go on at once.
    pub(super) fn step_restart(&mut self, now: Millis, id: OperationId) -> bool {
        let Some(operation) = self.operations.get(&id) else { return false };
        let Task::Restart { waiting, current, .. } = &operation.task else { return false };
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
                let starts =
                    |number: &u64| matches!(worker.generations[number].phase, Phase::Starting { .. });
                let starting = match worker.starting().filter(starts) {
                    Some(number) => Some(number),
                    None if self.may_start(worker) => self.start(now, index),
                    // Something of it has to end first.
                    None => return false,
                };
                match starting {
                    Some(number) => self.set_handover(id, Some(Handover { to: Some(number), ..handover })),
                    None => self.fail(id, no_slot()),
                }
                true
            }
            Some(number) => {
                let over = gone && worker.working == Some(number) && worker.is_published();
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
        if let Some(Operation { task: Task::Restart { current, waiting, .. }, .. }) =
            self.operations.get_mut(&id)
        {
            *current = None;
            waiting.pop_front();
        }
    }
}
