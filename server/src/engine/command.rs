//! What people ask for: whether it can be done, and what it sets going.

use std::collections::BTreeSet;

use server_common::limits::{self, WORKERS_MAX};

use super::{
    drain::Cause,
    effect::{Effect, Failure, FailureKind},
    event::{Canary, Command, GenerationId, Millis, OperationId},
    group::Group,
    operation::{Task, refused},
    worker::{Goal, Worker},
};

/// Whom a change of the number of workers concerns.
#[derive(Debug)]
pub(super) struct Hands {
    leaving: BTreeSet<u32>,
    coming: BTreeSet<u32>,
    /// Those of the coming that there are not yet.
    new: BTreeSet<u32>,
}

impl Hands {
    /// All of them.
    pub(super) fn all(&self) -> BTreeSet<u32> {
        self.leaving.union(&self.coming).copied().collect()
    }
}

impl Group {
    pub(super) fn command(&mut self, now: Millis, id: OperationId, command: Command) {
        if id <= self.last_operation {
            return;
        }
        self.last_operation = id;
        let begun = match command {
            Command::Restart { .. } if self.rules.adopts => Err(self.started_by_others("restart")),
            Command::Scale { .. } if self.rules.adopts => Err(self.started_by_others("scale")),
            Command::Stop { .. } if self.rules.adopts => Err(self.started_by_others("stop")),
            Command::Decide(_) if self.rules.adopts => Err(self.started_by_others("decide on a canary of")),
            Command::Restart { worker, timeout, canary } => self.restart(id, worker, timeout, canary),
            Command::Decide(decision) => self.decide(now, id, decision),
            Command::Drain { worker, timeout, until_replaced } => {
                self.drain_worker(now, id, worker, timeout, until_replaced)
            }
            Command::DrainAll { workers, timeout } => self.drain_all(now, id, workers, timeout),
            Command::Undrain { worker } => self.undrain(id, worker),
            Command::SetPolicy(policy) => self.set_policy(id, policy),
            Command::SetWeight { worker, weight, over } => self.set_weight(now, id, worker, weight, over),
            Command::Reconfigure(change) => self.reconfigure(now, id, *change),
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
        canary: Option<Canary>,
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
            self.stays(index, "restart")?;
            if self.workers[&index].goal == Goal::Drained {
                return Err(refused(
                    format!("cannot restart worker {index}: it is drained"),
                    Some("put it back to work with `steer undrain`".into()),
                ));
            }
        }
        if let Some(canary) = canary {
            self.goes_on("restart")?;
            self.check_canary(canary, &workers)?;
        }
        let task = Task::Restart { waiting: workers.iter().copied().collect(), current: None, canary };
        self.begin(id, "restart", workers, timeout, task)
    }

    fn drain_worker(
        &mut self,
        now: Millis,
        id: OperationId,
        index: u32,
        timeout: Option<Millis>,
        until_replaced: bool,
    ) -> Result<(), Failure> {
        self.known(index)?;
        self.stays(index, "drain")?;
        if until_replaced && !self.rules.adopts {
            let hint = "drain it without, and put it back to work with `steer undrain`";
            let message =
                format!("cannot drain worker {index} until it is replaced: nobody but its group starts it");
            return Err(refused(message, Some(hint.into())));
        }
        self.begin(id, "drain", BTreeSet::from([index]), timeout, Task::Empty)?;
        self.retire(now, id, index, Goal::Drained, timeout);
        if let Some(worker) = self.workers.get_mut(&index) {
            worker.returns = until_replaced;
            worker.vacant_since = until_replaced.then_some(now).or(worker.vacant_since);
        }
        Ok(())
    }

    fn undrain(&mut self, id: OperationId, index: u32) -> Result<(), Failure> {
        self.known(index)?;
        self.stays(index, "undrain")?;
        self.end_drain_operation(index);
        self.take_back(index);
        self.begin(id, "undrain", BTreeSet::from([index]), None, Task::Settled)?;
        self.employ(index);
        Ok(())
    }

    fn scale(
        &mut self,
        now: Millis,
        id: OperationId,
        wanted: u32,
        timeout: Option<Millis>,
    ) -> Result<(), Failure> {
        self.check_count(wanted)?;
        let hands = self.hands(wanted);
        self.join(&hands);
        let begun = self
            .check_scale(wanted)
            .and_then(|()| self.begin(id, "scale", hands.all(), timeout, Task::Settled));
        if begun.is_err() {
            self.workers.retain(|index, _| !hands.new.contains(index));
            return begun;
        }
        self.come_and_go(now, id, hands, timeout);
        Ok(())
    }

    /// Refuses a number of workers that no group has, or that this one has no slots for.
    pub(super) fn check_count(&self, wanted: u32) -> Result<(), Failure> {
        let most = limits::workers(self.rules.slots);
        if (1..=most).contains(&wanted) {
            return Ok(());
        }
        let (why, hint) = if wanted == 0 {
            (format!("a group has 1 to {WORKERS_MAX}"), "end the group with `steer stop`".to_owned())
        } else if wanted as usize > WORKERS_MAX {
            (format!("a group has 1 to {WORKERS_MAX}"), "run two groups for more".to_owned())
        } else {
            let hint = format!(
                "the number of slots is fixed when a group begins: remove the group with one reload and add it with \
                 {wanted} workers with the next, or begin with `steer run --workers {wanted}`"
            );
            (format!("its {} slots are enough for {most}", self.rules.slots), hint)
        };
        Err(refused(format!("cannot scale to {wanted} workers: {why}"), Some(hint)))
    }

    /// Who comes and who goes where there are to be this many.
    pub(super) fn hands(&self, wanted: u32) -> Hands {
        let leaving = self.workers.keys().copied().filter(|&index| index >= wanted).collect();
        // One that leaves yet is missing as much as one that is gone.
        let leaves = |worker: &Worker| worker.goal == Goal::Leave;
        let coming: BTreeSet<u32> =
            (0..wanted).filter(|index| self.workers.get(index).is_none_or(leaves)).collect();
        let new = coming.iter().copied().filter(|index| !self.workers.contains_key(index)).collect();
        Hands { leaving, coming, new }
    }

    /// Makes the workers that there are not yet.
    pub(super) fn join(&mut self, hands: &Hands) {
        for &index in &hands.new {
            let last_number = self.left_at.get(&index).copied().unwrap_or(0);
            let weight = self.rules.weight(index);
            self.workers.insert(index, Worker { last_number, ..Worker::new(weight) });
        }
    }

    /// Puts to work who comes, and drains who goes.
    pub(super) fn come_and_go(
        &mut self,
        now: Millis,
        id: OperationId,
        hands: Hands,
        timeout: Option<Millis>,
    ) {
        for index in hands.coming {
            self.employ(index);
        }
        for index in hands.leaving {
            self.retire(now, id, index, Goal::Leave, timeout);
            self.end_ramp(index, "it leaves the group");
        }
    }

    fn stop(&mut self, now: Millis, id: OperationId, timeout: Option<Millis>) -> Result<(), Failure> {
        // A stop overrules what is under way: those who wait for it are told.
        for (other, _) in std::mem::take(&mut self.operations) {
            let failure = refused("the group is being stopped".into(), None);
            self.effects.push(Effect::Finished { operation: other, result: Err(failure) });
        }
        for worker in self.workers.values_mut() {
            worker.operation = None;
            worker.ramp = None;
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

    pub(super) fn known(&self, index: u32) -> Result<u32, Failure> {
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

    /// Refuses what is asked of a worker that leaves the group.
    pub(super) fn stays(&self, index: u32, verb: &str) -> Result<(), Failure> {
        match self.workers.get(&index) {
            Some(worker) if worker.goal == Goal::Leave => Err(refused(
                format!("cannot {verb} worker {index}: it is leaving the group"),
                Some("`steer scale` sets how many workers there are".into()),
            )),
            _ => Ok(()),
        }
    }

    /// Ends the operation that drains a worker which is put back to work. The drain itself goes on beside the next
    /// generation, for the flows that it has.
    fn end_drain_operation(&mut self, index: u32) {
        let Some(worker) = self.workers.get_mut(&index) else { return };
        let Some(id) = worker.operation.filter(|_| worker.goal == Goal::Drained) else { return };
        for drain in worker.drains_mut() {
            drain.operation = None;
        }
        if let Some(operation) = self.operations.get_mut(&id).filter(|operation| operation.workers.len() > 1)
        {
            // The others of an adopted server's drain on.
            operation.workers.remove(&index);
            worker.operation = None;
            return;
        }
        self.fail(id, refused(format!("worker {index} was put back to work while it drained"), None));
        self.finish(id);
    }

    /// Puts a worker to work, from nothing or from a drain that ends by itself: it is started as soon as it can be.
    fn employ(&mut self, index: u32) {
        let weight = self.rules.weight(index);
        if let Some(worker) = self.workers.get_mut(&index) {
            if worker.goal == Goal::Leave {
                // It comes again as any that comes.
                worker.weight = weight;
            }
            worker.goal = Goal::Work;
            worker.backoff.end_wait();
        }
    }

    /// Takes a worker out of work: what works drains, what starts is given up. What drains already is waited for, and has
    /// no longer than what begins to now.
    pub(super) fn retire(
        &mut self,
        now: Millis,
        id: OperationId,
        index: u32,
        goal: Goal,
        timeout: Option<Millis>,
    ) {
        let deadline = self.drain_deadline(now, timeout);
        let Some(worker) = self.workers.get_mut(&index) else { return };
        worker.goal = goal;
        let canary = worker.canary().map(|(number, _)| number);
        for drain in worker.drains_mut() {
            drain.operation = Some(id);
            drain.deadline = drain.deadline.min(deadline);
        }
        let (working, starting) = (worker.working, worker.starting());
        if let Some(number) = starting {
            self.abandon(now, GenerationId { worker: index, number });
        }
        for number in canary.into_iter().chain(working) {
            self.drain(now, GenerationId { worker: index, number }, Cause::Asked, Some(id), None, timeout);
        }
    }
}
