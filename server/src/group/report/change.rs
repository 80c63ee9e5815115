//! What a change of policy or weight would move, or has moved.

use std::net::SocketAddr;

use server_common::limits::BUCKETS;

use crate::{
    control::api::{self, Fault, FaultKind, FlowsMoved, Placed, PlacedAnew, SCHEMA, ShareChange},
    engine::plan::{Change, Plan, Snapshot},
    group::convert,
    names::GroupName,
    policy::Policy,
    sockets::diag::{Connection, Diag},
};

use super::{
    View,
    lookup::{Steering, flows},
    unreadable,
};

/// A change that somebody asks about.
#[derive(Debug, Clone)]
pub(crate) struct ChangeQuestion {
    pub(crate) change: Change,
    /// Clients whose worker before and after is wanted.
    pub(crate) clients: Vec<SocketAddr>,
}

impl View {
    /// Refuses what the group's settings do not allow.
    pub(crate) fn check_change(&self, change: &Change) -> Result<(), Fault> {
        let Change::Policy(Policy::QuicCid(_)) = change else { return Ok(()) };
        let name = &self.settings.name;
        let message = if !self.settings.has_udp() {
            format!("{name}: connection IDs are in datagrams, and no address is udp")
        } else if let Some(sockets) = self.most_sockets() {
            format!("{name}: a connection ID names a worker, and not one of its {sockets} sockets")
        } else {
            return Ok(());
        };
        Err(Fault::new(FaultKind::Refused, message).with_hint("choose another policy".to_owned()))
    }

    /// How many sockets a worker has, or is said to have, where it is more than one.
    fn most_sockets(&self) -> Option<usize> {
        let counts = self.readers.iter().flat_map(|reader| reader.sockets().values()).map(Vec::len);
        counts.chain(self.settings.sockets.map(|count| count as usize)).filter(|count| *count > 1).max()
    }

    /// What a change would do to the table.
    pub(crate) fn plan(&self, change: &Change) -> Result<Plan, Fault> {
        self.engine.plan(change).map_err(|failure| convert::fault(&self.settings.name, failure))
    }

    /// Fails where something is under way that the kernel's own hash would lose.
    pub(crate) fn check_release(&self) -> Result<(), Fault> {
        let Some(what) = self.engine.is_busy() else { return Ok(()) };
        let name = &self.settings.name;
        Err(Fault::new(FaultKind::Refused, format!("cannot release {name}: {what}"))
            .with_hint(format!("wait for it; `steer status {name}` shows how it goes")))
    }

    /// The group's open connections: a walk of the host's, for a thread.
    pub(crate) fn list_connections(&self) -> Result<Vec<Connection>, Fault> {
        let mut connections = Vec::new();
        for address in self.addresses() {
            let found = Diag::open().and_then(|mut diag| diag.connections(address));
            connections.extend(found.map_err(|error| unreadable(&error))?);
        }
        Ok(connections)
    }

    /// What a plan moves, of these connections and for these clients.
    pub(crate) fn report_change(
        &self,
        plan: &Plan,
        clients: &[SocketAddr],
        connections: &[Connection],
    ) -> Result<api::Change, Fault> {
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
            open: self.open_moved(plan, connections),
            shares: share_changes(&self.settings.name, plan),
            clients: moved,
            milliseconds: 0,
        })
    }

    /// The workers' open connections: of how many a new one from the same client would go elsewhere.
    fn open_moved(&self, plan: &Plan, connections: &[Connection]) -> FlowsMoved {
        let (before, after) = (self.steering(&plan.before), self.steering(&plan.after));
        let mut flows = FlowsMoved::default();
        for connection in connections {
            let [was, will_be] =
                [&before, &after].map(|steering| steering.place(connection.remote, connection.local).worker);
            flows.known += 1;
            flows.moved += u64::from(was != will_be);
        }
        flows
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
    pub(crate) fn placed(
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
        let listens: Vec<SocketAddr> = self.addresses().map(|address| address.address).collect();
        flows(&self.settings.name, &listens, clients, to)
    }
}

fn share_changes(group: &GroupName, plan: &Plan) -> Vec<ShareChange> {
    let count = |snapshot: &Snapshot, index: u32| {
        snapshot.owners.iter().filter(|owner| **owner == index).count() as u32
    };
    let change = |(&index, &weight_before): (&u32, &u32)| {
        let (before, after) = (count(&plan.before, index), count(&plan.after, index));
        ShareChange {
            worker: group.worker(index),
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

pub(super) fn share(buckets: u32) -> f64 {
    f64::from(buckets) / BUCKETS as f64
}
