//! A daemon that is played: it remembers what it was asked for.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use steer::{
    control::{
        Controller,
        api::{
            Change, Count, Decision, Done, Event, Fault, FaultKind, FlowOf, Flows, FlowsMoved,
            GenerationFlows, Placed, PlacedAnew, PolicyReport, Ramp, Receipt, Request, Response, ShareChange,
            Status, Step, Table, TableShare, WorkerPolicy,
        },
    },
    names::GroupName,
    policy::Policy,
};
use tokio::sync::mpsc;

/// Knows the group `web` of two workers; `web/1` never gets to the end of its drain.
#[derive(Clone, Default)]
pub(crate) struct Played {
    /// What it was asked for.
    pub(crate) asked: Arc<Mutex<Vec<Request>>>,
}

/// As many flows as are asked for, of the 300 that there are.
fn flows(group: &GroupName, worker: u32, limit: u32) -> Flows {
    let flow = |number: u32| FlowOf {
        client: ([203, 0, 113, 7], 4_000 + number as u16).into(),
        local: ([192, 0, 2, 53], 53).into(),
        worker: group.worker(worker),
        generation: 4,
        idle_ms: 134,
        established: true,
    };
    let all = GenerationFlows {
        worker: group.worker(worker),
        generation: 4,
        draining: false,
        flows: 300,
        established: 300,
    };
    Flows {
        schema: 1,
        group: group.clone(),
        room: 65_536,
        idle_ms: 30_000,
        found: 300,
        by_generation: vec![all],
        flows: (0..limit.min(300)).map(flow).collect(),
    }
}

fn receipt(index: u32, outcome: &str) -> Receipt {
    Receipt {
        schema: 1,
        worker: format!("web/{index}").parse().unwrap(),
        generation: 1,
        successor: None,
        outcome: outcome.to_owned(),
        handshakes: Count::default(),
        handshakes_estimated: false,
        unaccepted: Count { began: 3, ended: 0 },
        flows: Count::default(),
        by_id: Count::default(),
        datagrams: 0,
        connections: Count::default(),
        migrated: 0,
        migrated_to: [].into(),
        exit: None,
        steps: vec![Step { name: "publish".into(), milliseconds: 8 }],
        message: None,
    }
}

impl Controller for Played {
    async fn call(&self, request: Request, answers: mpsc::Sender<Response>) -> Result<Response, Fault> {
        self.asked.lock().unwrap().push(request.clone());
        let done = |answers| Ok(Response::Done(Done { answers, milliseconds: 1234 }));
        let known = |group: &GroupName| match group.as_str() {
            "web" => Ok(()),
            _ => Err(Fault::new(FaultKind::NoSuch, format!("there is no group {group}"))
                .with_hint("there is: web")),
        };
        match request {
            Request::Status { group: Some(group) } if group.as_str() == "ending" => done(0),
            Request::Status { group } => {
                group.as_ref().map_or(Ok(()), known)?;
                Ok(Response::Status(Status { schema: 1, groups: vec![], unattended: vec![] }))
            }
            Request::Table { group, clients, to } => {
                known(&group)?;
                let local = to.unwrap_or(([10, 0, 0, 1], 443).into());
                let placed = clients.into_iter().map(|client| placed(client, local, 0)).collect();
                let share = TableShare {
                    worker: group.worker(0),
                    slot: Some(2),
                    weight: 1,
                    buckets: 1024,
                    share: 1.0,
                };
                Ok(Response::Table(Table {
                    schema: 1,
                    group,
                    epoch: 9,
                    buckets: 1024,
                    last_resort: "hold".into(),
                    shares: vec![share],
                    held_buckets: 0,
                    placed,
                }))
            }
            Request::Events { follow, since, .. } => {
                // Without an end for who follows from the second event on.
                let last = if follow && since == 2 { u64::MAX } else { 2 };
                for sequence in 1..=last {
                    let event = Event {
                        sequence,
                        unix_ms: 0,
                        kind: "started".into(),
                        group: None,
                        worker: Some("web/0".parse().unwrap()),
                        generation: Some(sequence),
                        detail: String::new(),
                    };
                    if answers.send(Response::Event(event)).await.is_err() {
                        break;
                    }
                }
                if follow {
                    std::future::pending::<()>().await;
                }
                done(2)
            }
            Request::Restart { group, .. } => {
                known(&group)?;
                let _ = answers.send(Response::Receipt(receipt(0, "drained"))).await;
                let _ = answers.send(Response::Receipt(receipt(1, "deadline"))).await;
                done(2)
            }
            Request::Drain { worker, .. } => Ok(Response::Receipt(receipt(worker.index, "drained"))),
            Request::Undrain { worker } => {
                let message = format!("{worker} works already");
                Err(Fault::new(FaultKind::Refused, message))
            }
            Request::Flows { group, worker, limit, .. } => {
                known(&group)?;
                Ok(Response::Flows(flows(&group, worker.unwrap_or(0), limit)))
            }
            Request::Policy { group } => {
                known(&group)?;
                Ok(Response::Policy(report(&group)))
            }
            Request::SetPolicy { group, policy, dry_run, clients } => {
                known(&group)?;
                Ok(Response::Change(Change { policy_after: policy, ..change(&group, 1, dry_run, &clients) }))
            }
            Request::SetWeight { weight: 100, .. } => {
                let message = "cannot give web/1 the weight 100: web/0 would have 4 of 65536 buckets, and 8 is the least";
                Err(Fault::new(FaultKind::Refused, message)
                    .with_hint("the largest weight that fits here is 99"))
            }
            Request::SetWeight { worker, weight, dry_run, clients, .. } => {
                known(&worker.group)?;
                Ok(Response::Change(change(&worker.group, weight, dry_run, &clients)))
            }
            Request::Decide { group, decision: Decision::Proceed } => {
                let message = format!("cannot proceed: no canary is being tried in {group}");
                Err(Fault::new(FaultKind::Refused, message)
                    .with_hint("start one with steer restart web --canary 5%"))
            }
            Request::Stop { .. } => Err(Fault::new(FaultKind::TimedOut, "it took longer than 5 ms")),
            _ => done(0),
        }
    }
}

fn placed(client: SocketAddr, local: SocketAddr, index: u32) -> Placed {
    Placed {
        client,
        local,
        bucket: 12_345,
        worker: Some(format!("web/{index}").parse().unwrap()),
        slot: Some(5),
        others: vec![],
        why: "the hash of its 4-tuple finds this bucket".into(),
    }
}

fn report(group: &GroupName) -> PolicyReport {
    let member = |index, weight, ramp, share, why: &str| WorkerPolicy {
        worker: group.worker(index),
        state: "working".into(),
        weight,
        ramp,
        share,
        load: None,
        publishes: false,
        stalled: false,
        cpus: vec![],
        why: why.into(),
    };
    let ramp = Ramp { from: 1.0, now: 2.4, to: 5.0, remaining_ms: 36_000 };
    PolicyReport {
        schema: 1,
        group: group.clone(),
        policy: Policy::Hash,
        meaning: "the hash of a flow's 4-tuple".into(),
        epoch: 9,
        members: vec![
            member(0, 1, None, 0.294, "weight 1 of 3.4"),
            member(1, 5, Some(ramp), 0.706, "weight 2.4 of 3.4"),
        ],
    }
}

/// The weight of the group's second worker from 1 to `weight`, beside one of weight 1.
fn change(group: &GroupName, weight: u32, dry_run: bool, clients: &[SocketAddr]) -> Change {
    let all = 65_536;
    let after = all * weight / (weight + 1);
    let part = |buckets: u32| f64::from(buckets) / f64::from(all);
    let share = |index, weight_after, buckets_after| ShareChange {
        worker: group.worker(index),
        weight_before: 1,
        weight_after,
        buckets_before: all / 2,
        buckets_after,
        share_before: 0.5,
        share_after: part(buckets_after),
    };
    let local = ([10, 0, 0, 1], 443).into();
    let anew = |client: &SocketAddr| PlacedAnew {
        client: *client,
        before: placed(*client, local, 0),
        after: placed(*client, local, 1),
    };
    Change {
        schema: 1,
        group: group.clone(),
        applied: !dry_run,
        policy_before: Policy::Hash,
        policy_after: Policy::Hash,
        rekeyed: false,
        moved_buckets: after.abs_diff(all / 2),
        moved_share: part(after.abs_diff(all / 2)),
        open: FlowsMoved { known: 812, moved: 99 },
        shares: vec![share(0, 1, all - after), share(1, weight, after)],
        clients: clients.iter().map(anew).collect(),
        milliseconds: if dry_run { 0 } else { 14 },
    }
}
