//! A group's policy, and why each worker has the share that it has.

use server_common::load::Load;

use crate::{
    control::api::{PolicyReport, Ramp, SCHEMA, WorkerPolicy},
    daemon::clock::Clock,
    dataplane::cells::coarse_nanoseconds,
    engine::{
        event::GenerationId,
        view::{RampView, WorkerView},
    },
};

use super::{View, change::share};

impl View {
    /// The policy, and why each worker has the share that it has.
    pub(crate) fn policy_report(&self, clock: Clock) -> PolicyReport {
        let policy = self.engine.policy();
        let workers = self.engine.workers();
        let weights: f64 = workers.iter().filter(|worker| worker.buckets > 0).map(effective).sum();
        PolicyReport {
            schema: SCHEMA,
            group: self.settings.name.clone(),
            policy,
            meaning: policy.meaning(),
            epoch: self.engine.epoch(),
            members: workers.into_iter().map(|worker| self.worker_policy(worker, weights, clock)).collect(),
        }
    }

    fn worker_policy(&self, worker: WorkerView, weights: f64, clock: Clock) -> WorkerPolicy {
        let load = worker.generation.filter(|_| self.is_by_load()).and_then(|id| self.load(id));
        WorkerPolicy {
            worker: self.settings.name.worker(worker.index),
            state: worker.state.as_str().to_owned(),
            weight: worker.weight,
            ramp: worker.ramp.map(|it| ramp(it, clock)),
            share: share(worker.buckets),
            load: load.map(|(load, _)| load.count),
            publishes: load.is_some_and(|(_, publishes)| publishes),
            stalled: load.is_some_and(|(load, _)| load.is_bad),
            cpus: worker.cpus.iter().map(|&cpu| cpu as u32).collect(),
            why: why(&worker, weights),
        }
    }

    /// A generation's load as the program sees it now, and whether it publishes one itself.
    fn load(&self, id: GenerationId) -> Option<(Load, bool)> {
        let generation = self.generations.get(&id)?;
        let cell = generation.cell.as_ref().and_then(|cell| cell.read_by_programs());
        let shown = self.readers.first()?.shown(generation.slot);
        let publishes = cell.is_some_and(|cell| cell.beat != 0);
        Some((Load::of(shown, cell, coarse_nanoseconds), publishes))
    }
}

fn ramp(ramp: RampView, clock: Clock) -> Ramp {
    let weight = |thousandths: u32| f64::from(thousandths) / 1000.0;
    Ramp {
        from: weight(ramp.from),
        now: weight(ramp.now),
        to: weight(ramp.to),
        remaining_ms: ramp.ends_at.saturating_sub(clock.now()),
    }
}

/// A worker's weight now, ramp or not.
fn effective(worker: &WorkerView) -> f64 {
    worker.ramp.map_or(f64::from(worker.weight), |ramp| f64::from(ramp.now) / 1000.0)
}

fn why(worker: &WorkerView, weights: f64) -> String {
    if worker.buckets > 0 {
        let (own, total) = (effective(worker), weights);
        return format!("weight {own} of {total} in all");
    }
    match worker.weight {
        0 => "weight 0: it keeps what it has and gets nothing new".to_owned(),
        _ => format!("it is {}", worker.state.as_str()),
    }
}
