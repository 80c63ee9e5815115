//! Groups whose server somebody else starts: listeners come and go by themselves.
//!
//! A worker is a place. A listener that comes takes a place, with the place's buckets and weight; one that goes leaves it, and its buckets
//! are the others' until another listener comes. A place that nobody takes again is given up, while others work: then the server has
//! fewer listeners than it had.

use std::collections::BTreeSet;

use super::{
    drain::Cause,
    effect::Failure,
    event::{GenerationId, Millis, OperationId},
    group::Group,
    operation::{Task, refused},
    worker::{Goal, Phase, Worker},
};

/// How long a place waits for another listener while others work.
const VACANCY: Millis = 5_000;

impl Group {
    /// A listener is there for a worker, which is new or has none.
    pub(super) fn came(&mut self, now: Millis, index: u32) {
        if !self.rules.adopts || self.stopping {
            return;
        }
        let last_number = self.left_at.get(&index).copied().unwrap_or(0);
        let weight = self.rules.weight(index);
        let new = || Worker { last_number, ..Worker::new(weight) };
        let worker = self.workers.entry(index).or_insert_with(new);
        if worker.goal == Goal::Leave || worker.returns {
            worker.goal = Goal::Work;
            worker.returns = false;
        }
        if worker.generations.is_empty() {
            worker.vacant_since = Some(now);
        }
        let is_free = worker.working.is_none() && worker.starting().is_none();
        if worker.goal == Goal::Work && is_free {
            self.start(now, index);
        }
    }

    /// A generation's listeners are closed. What they held has moved, by the program.
    pub(super) fn left(&mut self, now: Millis, id: GenerationId, why: String) {
        match self.generation(id).map(|generation| &generation.phase) {
            Some(Phase::Starting { .. }) => self.start_failed(now, id, why.clone()),
            Some(Phase::Ready { .. } | Phase::Working) => {
                self.operation_lost(id, &why);
                self.drain(now, id, Cause::Left(why.clone()), None, None, None);
            }
            Some(Phase::Draining(_)) => {
                if let Some(drain) = self.drain_mut(id) {
                    drain.left(why.clone());
                }
            }
            Some(Phase::Canary(_) | Phase::Abandoned { .. }) | None => return,
        }
        if let Some(worker) = self.workers.get_mut(&id.worker).filter(|worker| worker.working.is_none()) {
            worker.vacant_since = Some(now);
            worker.message = Some(why);
        }
    }

    /// Whether a worker that was drained is back at work, as another listener has come to it.
    pub(super) fn is_replaced(&self, index: u32) -> bool {
        self.rules.adopts && self.workers.get(&index).is_some_and(|worker| worker.goal == Goal::Work)
    }

    /// Gives up the places that nobody has taken again.
    pub(super) fn step_vacancies(&mut self, now: Millis) {
        if !self.rules.adopts || !self.workers.values().any(Worker::takes_part) {
            return;
        }
        let is_given_up = |worker: &Worker| {
            is_vacant(worker) && worker.vacant_since.is_some_and(|since| now >= since + VACANCY)
        };
        let given_up: Vec<u32> =
            self.workers.iter().filter(|(_, worker)| is_given_up(worker)).map(|(&index, _)| index).collect();
        for index in given_up {
            self.end_ramp(index, "its server has a listener less");
            if let Some(worker) = self.workers.get_mut(&index) {
                worker.goal = Goal::Leave;
            }
        }
    }

    /// When the next place is given up.
    pub(super) fn vacancies_wake_at(&self) -> Option<Millis> {
        if !self.rules.adopts || !self.workers.values().any(Worker::takes_part) {
            return None;
        }
        let vacant = self.workers.values().filter(|worker| is_vacant(worker));
        vacant.filter_map(|worker| Some(worker.vacant_since? + VACANCY)).min()
    }

    /// Puts a generation whose listener is another's back to work, in the midst of its drain: there is no other listener to begin with.
    pub(super) fn take_back(&mut self, index: u32) {
        if !self.rules.adopts {
            return;
        }
        let Some(worker) = self.workers.get_mut(&index) else { return };
        worker.returns = false;
        let is_there = |phase: &Phase| matches!(phase, Phase::Draining(drain) if drain.cause == Cause::Asked);
        let drains = worker.generations.iter_mut().rev();
        let Some((&number, generation)) = drains.into_iter().find(|(_, it)| is_there(&it.phase)) else {
            return;
        };
        generation.phase = Phase::Ready { epoch: None };
        worker.working = Some(number);
        self.publication.is_due = true;
    }

    /// Drains all workers, or some, whose server is about to be stopped: each is back at work with the next listener that comes to it.
    pub(super) fn drain_all(
        &mut self,
        now: Millis,
        id: OperationId,
        among: Option<Vec<u32>>,
        timeout: Option<Millis>,
    ) -> Result<(), Failure> {
        if !self.rules.adopts {
            let hint = "drain its workers one by one, or end the group with `steer stop`";
            let message = "cannot drain all workers of the group: nobody but the group starts them";
            return Err(refused(message.into(), Some(hint.into())));
        }
        let works = |(_, worker): &(&u32, &Worker)| worker.goal == Goal::Work && worker.operation.is_none();
        let is_meant = |index: &u32| among.as_ref().is_none_or(|among| among.contains(index));
        let all: BTreeSet<u32> =
            self.workers.iter().filter(works).map(|(&index, _)| index).filter(is_meant).collect();
        self.begin(id, "drain", all.clone(), timeout, Task::Empty)?;
        for index in all {
            self.retire(now, id, index, Goal::Drained, timeout);
            if let Some(worker) = self.workers.get_mut(&index) {
                worker.returns = true;
                worker.vacant_since = Some(now);
            }
        }
        Ok(())
    }

    /// Refuses what whoever starts the server is to do.
    pub(super) fn started_by_others(&self, verb: &str) -> Failure {
        let hint = match verb {
            "stop" => "give the group back with `steer release`; the server goes on",
            _ => "do it by the server's own means: what comes of it, the group follows",
        };
        refused(
            format!("cannot {verb} the group: it is adopted, and its server is started by others"),
            Some(hint.into()),
        )
    }
}

/// Whether it is a place that waits for a listener.
fn is_vacant(worker: &Worker) -> bool {
    (worker.goal == Goal::Work || worker.returns)
        && worker.generations.is_empty()
        && worker.operation.is_none()
}
