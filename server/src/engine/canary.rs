//! A canary: a new generation that is tried with a part of its worker's buckets before it takes over from the old one.
//!
//! It is in the table's buckets, and not among its working slots: those are where the program looks when a flow's own choices are
//! gone, and a canary is to get its part and no more. The part is the same buckets at every try.

use std::collections::BTreeSet;

use super::{
    drain::Cause,
    effect::{Effect, Failure, FailureKind},
    event::{Canary, Decision, GenerationId, Millis, OperationId},
    group::Group,
    lifecycle::TIMEOUT_MAX,
    operation::{Task, refused},
    worker::{Phase, Trial},
};

/// The whole, of which a canary has a part.
const WHOLE: u32 = 1_000;

impl Trial {
    /// When it takes over by itself.
    pub fn until(&self) -> Option<Millis> {
        Some(self.since? + self.canary.hold?.min(TIMEOUT_MAX))
    }
}

/// How many of its worker's buckets a canary has: at least one, and where there are two the old generation has one as well.
pub(super) fn part(buckets: usize, permille: u32) -> usize {
    let rounded = (buckets * permille as usize + WHOLE as usize / 2) / WHOLE as usize;
    if buckets < 2 { buckets } else { rounded.clamp(1, buckets - 1) }
}

/// Which of its worker's buckets a canary has: those with the lowest scores.
pub(super) fn choose_part(mut buckets: Vec<usize>, permille: u32) -> Vec<usize> {
    let count = part(buckets.len(), permille);
    if count < buckets.len() {
        buckets.select_nth_unstable_by_key(count, |&bucket| score(bucket));
        buckets.truncate(count);
    }
    buckets
}

/// A bucket's score, a bijection: the finalizer of MurmurHash3 (Appleby, 2011).
fn score(bucket: usize) -> u32 {
    let mut z = bucket as u32;
    z = (z ^ (z >> 16)).wrapping_mul(0x85eb_ca6b);
    z = (z ^ (z >> 13)).wrapping_mul(0xc2b2_ae35);
    z ^ (z >> 16)
}

impl Group {
    /// Refuses a canary that could not stand beside a working generation, before anything is started.
    pub(super) fn check_canary(&self, canary: Canary, workers: &BTreeSet<u32>) -> Result<(), Failure> {
        let permille = canary.permille;
        if !(1..WHOLE).contains(&permille) {
            return Err(refused(
                format!(
                    "cannot restart with a canary of {permille} thousandths: its part is 1 to {}",
                    WHOLE - 1
                ),
                Some("a restart without a canary gives a new generation all at once".into()),
            ));
        }
        if self.rules.replace {
            return Err(refused(
                "cannot restart with a canary: the group replaces, and only one of two generations can run at a time"
                    .into(),
                Some("restart without one, or have the group's restarts be `surge`".into()),
            ));
        }
        let has_canary = |task: &Task| matches!(task, Task::Restart { canary: Some(_), .. });
        let awaited = self.operations.values().any(|operation| has_canary(&operation.task));
        if let Some((id, _)) = self.canaries().next() {
            return Err(refused(
                format!(
                    "cannot restart with a canary: generation {} of worker {} is one",
                    id.number, id.worker
                ),
                Some("decide about it first: let it proceed, or abort it".into()),
            ));
        }
        if awaited {
            return Err(refused(
                "cannot restart with a canary: another restart under way begins with one".into(),
                Some("wait for it; `steer events --follow` shows its end".into()),
            ));
        }
        let Some((index, worker)) = workers.first().and_then(|index| self.workers.get_key_value(index))
        else {
            return Ok(());
        };
        if worker.working.is_none() {
            return Err(refused(
                format!("cannot restart with a canary: worker {index} has nothing ready to stand beside"),
                Some("restart it without a canary, or wait until it works".into()),
            ));
        }
        if worker.weight == 0 || worker.effective_weight() == 0 {
            return Err(refused(
                format!(
                    "cannot restart with a canary: worker {index} has the weight 0, and {permille} thousandths of nothing is nothing"
                ),
                Some(format!("give worker {index} a weight with `steer weight` first")),
            ));
        }
        Ok(())
    }

    /// All canaries that stand.
    pub(super) fn canaries(&self) -> impl Iterator<Item = (GenerationId, &Trial)> {
        let unsteady = self.workers.iter().filter(|(_, worker)| !worker.is_steady());
        unsteady.filter_map(|(&worker, state)| {
            let (number, trial) = state.canary()?;
            Some((GenerationId { worker, number }, trial))
        })
    }

    /// What a generation that is ready is to be tried with, where a restart has said so and there is something to stand beside.
    pub(super) fn take_canary(&mut self, id: GenerationId) -> Option<Canary> {
        let worker = self.workers.get(&id.worker)?;
        let works = worker.working.is_some();
        let operation = self.operations.get_mut(&worker.operation?)?;
        let Task::Restart { current: Some(handover), canary, .. } = &mut operation.task else { return None };
        let is_its = handover.worker == id.worker && handover.to == Some(id.number);
        let taken = if is_its { canary.take() } else { None };
        taken.filter(|_| works && operation.failure.is_none())
    }

    /// The tables with these canaries are published: their time begins.
    pub(super) fn canaries_published(&mut self, now: Millis) {
        let published = self.publication.published;
        let mut begun = Vec::new();
        for (&worker, state) in self.workers.iter_mut().filter(|(_, worker)| !worker.is_steady()) {
            for (&number, generation) in &mut state.generations {
                if let Phase::Canary(trial) = &mut generation.phase
                    && trial.epoch.is_some_and(|first| first <= published)
                    && trial.since.is_none()
                {
                    trial.since = Some(now);
                    begun.push((GenerationId { worker, number }, trial.canary));
                }
            }
        }
        for (id, Canary { permille, hold }) in begun {
            let until = hold.map_or("until someone decides".into(), |hold| format!("for {hold} ms"));
            self.note(
                "canary",
                Some(id),
                format!("has {permille} thousandths of its worker's buckets {until}"),
            );
        }
    }

    /// Has those take over whose time is over.
    pub(super) fn step_canaries(&mut self, now: Millis) {
        let is_over = |trial: &Trial| trial.until().is_some_and(|until| now >= until);
        let over: Vec<_> = self.canaries().filter(|(_, trial)| is_over(trial)).map(|(id, _)| id).collect();
        for id in over {
            self.note("canary-over", Some(id), "takes over: its time is over");
            self.take_over(now, id);
        }
    }

    /// Does what someone has decided about the canary that stands; answers at once.
    pub(super) fn decide(&mut self, now: Millis, id: OperationId, decision: Decision) -> Result<(), Failure> {
        self.goes_on("decide about a canary")?;
        let Some(canary) = self.canaries().next().map(|(canary, _)| canary) else {
            return Err(refused(
                "there is no canary to decide about".into(),
                Some("one stands from when its generation is ready until its time is over; `steer status` shows it".into()),
            ));
        };
        match decision {
            Decision::Proceed => {
                self.note("canary-over", Some(canary), "takes over: so it was decided");
                self.take_over(now, canary);
            }
            Decision::Abort => self.abort(now, canary),
        }
        self.effects.push(Effect::Finished { operation: id, result: Ok(()) });
        Ok(())
    }

    fn abort(&mut self, now: Millis, id: GenerationId) {
        self.note("canary-over", Some(id), "is aborted, and drains");
        let Some(worker) = self.workers.get(&id.worker) else { return };
        let operation = worker.operation;
        let stays = worker.working.unwrap_or_default();
        self.drain(now, id, Cause::Asked, operation, None, None);
        if let Some(operation) = operation {
            let GenerationId { worker, number } = id;
            self.fail(
                operation,
                refused(
                    format!(
                        "aborted: generation {number} of worker {worker} was drained, generation {stays} goes on working"
                    ),
                    None,
                ),
            );
        }
    }

    /// A canary was lost: its buckets go back, and the restart has failed.
    pub(super) fn canary_lost(&mut self, now: Millis, id: GenerationId, why: String) {
        let GenerationId { worker: index, number } = id;
        self.note("canary-over", Some(id), format!("was lost: {why}"));
        let Some(worker) = self.workers.get_mut(&index) else { return };
        let operation = worker.operation;
        let stays = worker.working.unwrap_or_default();
        worker.message = Some(format!("generation {number}, a canary: {why}"));
        if let Some(operation) = operation {
            let message = format!(
                "the canary, generation {number} of worker {index}, was lost: {why}; generation {stays} goes on working"
            );
            let hint = Some("the worker's own output says more; `steer status` shows what runs".into());
            self.fail(operation, Failure { kind: FailureKind::Failed, message, hint });
        }
        self.drain(now, id, Cause::Lost(why), operation, None, None);
    }
}
