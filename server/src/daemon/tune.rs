//! Changes of policy and weight: what they would move, and what they moved.

use std::{net::SocketAddr, time::Instant};

use server_common::limits::BUCKETS;
use tokio::sync::{mpsc, oneshot};

use crate::{
    control::api::{
        self, Fault, FaultKind, FlowsMoved, Placed, PlacedAnew, PolicyReport, Ramp, Response, SCHEMA,
        ShareChange, WorkerPolicy,
    },
    engine::{
        event::{Command, Millis},
        plan::{Change, Plan, Snapshot},
        view::{RampView, WorkerView},
    },
    policy::Policy,
};

use super::{
    actor::Actor,
    clock::millis,
    convert,
    place::{Steering, flows},
    waiter::Waiter,
};

/// A change that someone asks for, or asks about.
#[derive(Debug)]
pub(super) struct Tune {
    pub(super) change: Change,
    /// Over how long a weight changes.
    pub(super) over: Option<Millis>,
    pub(super) dry_run: bool,
    /// Clients whose worker before and after is wanted.
    pub(super) clients: Vec<SocketAddr>,
    pub(super) done: oneshot::Sender<Result<Response, Fault>>,
}

impl Actor {
    /// Plans a change and, unless only that was asked, carries it out; answers once it is over.
    pub(super) fn tune(&mut self, tune: Tune) {
        let Tune { change, over, dry_run, clients, done } = tune;
        if change == Change::Policy(Policy::Cpu) {
            // The table that first decides by them is to know them.
            self.look_at_cpus_for(|_| true);
        }
        if matches!(change, Change::Policy(Policy::QuicCid(_))) && !self.settings.has_udp() {
            let message =
                format!("{}: connection IDs are in datagrams, and no address is udp", self.settings.name);
            let fault = Fault::new(FaultKind::Refused, message).with_hint("choose another policy".to_owned());
            return drop(done.send(Err(fault)));
        }
        if matches!(change, Change::Policy(Policy::QuicCid(_))) && self.settings.sockets > 1 {
            let message = format!(
                "{}: a connection ID names a worker, and not one of its {} sockets",
                self.settings.name, self.settings.sockets
            );
            let fault = Fault::new(FaultKind::Refused, message).with_hint("choose another policy".to_owned());
            return drop(done.send(Err(fault)));
        }
        let report = match self.plan(&change, &clients) {
            Ok(report) => report,
            // Who asked may be gone.
            Err(fault) => return drop(done.send(Err(fault))),
        };
        if dry_run {
            return drop(done.send(Ok(Response::Change(report))));
        }
        let command = match change {
            Change::Policy(policy) => Command::SetPolicy(policy),
            Change::Weight { worker, weight } => Command::SetWeight { worker, weight, over },
        };
        let (applied, ended) = oneshot::channel();
        self.last_operation += 1;
        let operation = self.last_operation;
        let began = Instant::now();
        // No receipts come on the way.
        self.waiters.insert(operation, Waiter::new(mpsc::channel(1).0, applied));
        self.feed(crate::engine::event::Event::Command { operation, command });
        tokio::spawn(async move {
            let answer = match ended.await {
                Ok(Ok(_)) => {
                    let milliseconds = millis(began.elapsed());
                    Ok(Response::Change(api::Change { applied: true, milliseconds, ..report }))
                }
                Ok(Err(fault)) => Err(fault),
                Err(_) => Err(Fault::new(FaultKind::Refused, "the group has ended")),
            };
            let _ = done.send(answer);
        });
    }

    fn plan(&mut self, change: &Change, clients: &[SocketAddr]) -> Result<api::Change, Fault> {
        let plan =
            self.engine.plan(change).map_err(|failure| convert::fault(&self.settings.name, failure))?;
        let (was, will_be) = (self.steering(&plan.before), self.steering(&plan.after));
        let anew = |(client, local)| PlacedAnew {
            client,
            before: was.place(client, local),
            after: will_be.place(client, local),
        };
        let moved: Vec<PlacedAnew> = self.flows(clients, None)?.into_iter().map(anew).collect();
        Ok(api::Change {
            schema: SCHEMA,
            group: self.settings.name.clone(),
            applied: false,
            policy_before: plan.before.policy,
            policy_after: plan.after.policy,
            rekeyed: plan.is_rekeyed(),
            moved_buckets: plan.moved_buckets(),
            moved_share: plan.moved_share(),
            open: self.open_moved(&plan)?,
            shares: self.share_changes(&plan),
            clients: moved,
            milliseconds: 0,
        })
    }

    /// The workers' open connections: of how many a new one from the same client would go elsewhere.
    fn open_moved(&mut self, plan: &Plan) -> Result<FlowsMoved, Fault> {
        let connections = self.connections()?;
        let (before, after) = (self.steering(&plan.before), self.steering(&plan.after));
        let mut flows = FlowsMoved::default();
        for connection in connections {
            let [was, will_be] =
                [&before, &after].map(|steering| steering.place(connection.remote, connection.local).worker);
            flows.known += 1;
            flows.moved += u64::from(was != will_be);
        }
        Ok(flows)
    }

    fn share_changes(&self, plan: &Plan) -> Vec<ShareChange> {
        let count = |snapshot: &Snapshot, index: u32| {
            snapshot.owners.iter().filter(|owner| **owner == index).count() as u32
        };
        let change = |(&index, &weight_before): (&u32, &u32)| {
            let (before, after) = (count(&plan.before, index), count(&plan.after, index));
            ShareChange {
                worker: self.settings.name.worker(index),
                weight_before,
                weight_after: plan.after.weights.get(&index).copied().unwrap_or(0),
                buckets_before: before,
                buckets_after: after,
                share_before: share(before),
                share_after: share(after),
            }
        };
        plan.before.weights.iter().map(change).collect()
    }

    /// A planned table.
    fn steering<'a>(&'a self, snapshot: &'a Snapshot) -> Steering<'a> {
        Steering {
            group: &self.settings.name,
            policy: snapshot.policy,
            seed: self.engine.seed(),
            owners: &snapshot.owners,
            slots: None,
            holds: self.engine.holds(),
            pinned: self.pinned(),
        }
    }

    /// Where clients go by the table that is published, or about to be.
    pub(super) fn placed(
        &self,
        clients: &[SocketAddr],
        to: Option<SocketAddr>,
    ) -> Result<Vec<Placed>, Fault> {
        let (owners, slots) = (self.engine.owners(), self.engine.slots());
        let steering = Steering {
            group: &self.settings.name,
            policy: self.engine.policy(),
            seed: self.engine.seed(),
            owners: &owners,
            slots: slots.as_deref(),
            holds: self.engine.holds(),
            pinned: self.pinned(),
        };
        let flows = self.flows(clients, to)?.into_iter();
        Ok(flows.map(|(client, local)| steering.place(client, local)).collect())
    }

    fn pinned(&self) -> Vec<u32> {
        let pinned = self.engine.workers().into_iter().filter(|worker| !worker.cpus.is_empty());
        pinned.map(|worker| worker.index).collect()
    }

    /// Each client with each address that it can connect to.
    fn flows(
        &self,
        clients: &[SocketAddr],
        to: Option<SocketAddr>,
    ) -> Result<Vec<(SocketAddr, SocketAddr)>, Fault> {
        let listens: Vec<SocketAddr> =
            self.endpoints.iter().map(|endpoint| endpoint.address.address).collect();
        flows(&self.settings.name, &listens, clients, to)
    }

    /// The policy, and why each worker has the share that it has.
    pub(super) fn policy_report(&self) -> PolicyReport {
        let policy = self.engine.policy();
        let workers = self.engine.workers();
        let weights: f64 = workers.iter().filter(|worker| worker.buckets > 0).map(effective).sum();
        PolicyReport {
            schema: SCHEMA,
            group: self.settings.name.clone(),
            policy,
            meaning: policy.meaning(),
            epoch: self.engine.epoch(),
            members: workers.into_iter().map(|worker| self.worker_policy(worker, policy, weights)).collect(),
        }
    }

    fn worker_policy(&self, worker: WorkerView, policy: Policy, weights: f64) -> WorkerPolicy {
        let by_load = matches!(policy, Policy::LeastLoaded { .. });
        let load = worker.generation.filter(|_| by_load).and_then(|id| self.load(id));
        WorkerPolicy {
            worker: self.settings.name.worker(worker.index),
            state: worker.state.as_str().to_owned(),
            weight: worker.weight,
            ramp: worker.ramp.map(|ramp| self.ramp(ramp)),
            share: share(worker.buckets),
            load: load.map(|(load, _)| load.count),
            publishes: load.is_some_and(|(_, publishes)| publishes),
            stalled: load.is_some_and(|(load, _)| load.is_bad),
            cpus: worker.cpus.iter().map(|&cpu| cpu as u32).collect(),
            why: why(&worker, weights),
        }
    }

    fn ramp(&self, ramp: RampView) -> Ramp {
        let weight = |thousandths: u32| f64::from(thousandths) / 1000.0;
        Ramp {
            from: weight(ramp.from),
            now: weight(ramp.now),
            to: weight(ramp.to),
            remaining_ms: ramp.ends_at.saturating_sub(self.clock.now()),
        }
    }
}

fn share(buckets: u32) -> f64 {
    f64::from(buckets) / BUCKETS as f64
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
