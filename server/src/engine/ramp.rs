//! A weight that changes step by step: linear in time from what it is to what was given, each step one swap that others may
//! share.

use serde::{Deserialize, Serialize};

use super::{
    event::{Millis, OperationId},
    group::Group,
    operation::{Task, refused},
    worker::{Goal, THOUSANDTHS},
};

/// The shortest time between two steps: each is a table, and its grace period.
const STEP_MIN: Millis = 100;

/// The most steps: one moves a hundredth of the whole at most.
const STEPS_MAX: Millis = 100;

/// A weight on its way. Weights are in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ramp {
    /// The weight at its begin.
    pub from: u32,
    /// The weight now.
    pub now: u32,
    /// The weight at its end.
    pub to: u32,
    /// When it ends.
    pub ends_at: Millis,
    began_at: Millis,
    next_at: Millis,
    operation: OperationId,
}

impl Ramp {
    fn new(now: Millis, from: u32, to: u32, over: Millis, operation: OperationId) -> Self {
        let mut ramp =
            Self { from, now: from, to, ends_at: now + over, began_at: now, next_at: now, operation };
        ramp.next_at = ramp.after(now);
        ramp
    }

    /// The first step after this time. Steps are at fixed times: one that comes late does not put off the next.
    fn after(&self, now: Millis) -> Millis {
        let over = self.ends_at - self.began_at;
        let step = over.div_ceil(STEPS_MAX).max(STEP_MIN);
        (self.began_at + ((now - self.began_at) / step + 1) * step).min(self.ends_at)
    }

    /// The weight at a time before its end.
    fn at(&self, now: Millis) -> u32 {
        let (over, past) = (self.ends_at - self.began_at, now - self.began_at);
        let part = |whole: u32| (u128::from(whole) * u128::from(past) / u128::from(over.max(1))) as u32;
        if self.to > self.from {
            self.from + part(self.to - self.from)
        } else {
            self.from - part(self.from - self.to)
        }
    }
}

impl Group {
    /// Has a worker's weight go to what was given over this time.
    pub(super) fn begin_ramp(&mut self, now: Millis, id: OperationId, index: u32, from: u32, over: Millis) {
        let Some(worker) = self.workers.get_mut(&index) else { return };
        worker.ramp = Some(Ramp::new(now, from, worker.weight * THOUSANDTHS, over, id));
        if let Some(operation) = self.operations.get_mut(&id) {
            operation.task = Task::Ramp;
        }
    }

    /// Takes every ramp as far as it is by now.
    pub(super) fn step_ramps(&mut self, now: Millis) {
        let mut ended = Vec::new();
        for (&index, worker) in &mut self.workers {
            let Some(ramp) = &mut worker.ramp else { continue };
            if now >= ramp.ends_at {
                ended.push((index, ramp.operation));
                worker.ramp = None;
                self.publication.is_due = true;
            } else if now >= ramp.next_at {
                ramp.next_at = ramp.after(now);
                let weight = ramp.at(now);
                self.publication.is_due |= weight != ramp.now && worker.working.is_some();
                ramp.now = weight;
            }
        }
        for (index, id) in ended {
            if let Some(operation) = self.operations.get_mut(&id) {
                operation.task = Task::Published(None);
            }
            let weight = self.workers.get(&index).map_or(0, |worker| worker.weight);
            self.note("weight", None, format!("worker {index} has come to the weight {weight}"));
        }
    }

    /// When the next step is.
    pub(super) fn ramps_wake_at(&self) -> Option<Millis> {
        self.workers.values().filter_map(|worker| Some(worker.ramp?.next_at)).min()
    }

    /// Ends a worker's ramp where one is under way, with its operation.
    pub(super) fn end_ramp(&mut self, index: u32, why: &str) {
        let Some(worker) = self.workers.get_mut(&index) else { return };
        let hint = match worker.goal {
            Goal::Leave => None,
            Goal::Work | Goal::Drained => {
                Some("`steer policy` shows what the weight is on its way to".into())
            }
        };
        if let Some(ramp) = worker.ramp.take() {
            let to = ramp.to / THOUSANDTHS;
            self.fail(
                ramp.operation,
                refused(format!("the weight of worker {index} did not come to {to}: {why}"), hint),
            );
            self.finish(ramp.operation);
        }
    }
}
