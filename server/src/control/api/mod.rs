//! What clients of the control socket see: the wire types, schema 1. The engine has types of its own.
//!
//! Every struct here is part of the promise made by `--json`: fields are added, never renamed or removed,
//! without a new schema number.

mod adopt;
mod change;
mod fault;
mod flows;
mod progress;
mod reload;
mod request;
mod state;
mod table;

use serde::{Deserialize, Serialize};

pub use self::{
    adopt::{AdoptTarget, Adopted, AdoptedAddress, AdoptedListen},
    change::{Change, FlowsMoved, PlacedAnew, PolicyReport, Ramp, ShareChange, WorkerPolicy},
    fault::{Fault, FaultKind},
    flows::{FlowOf, Flows, GenerationFlows},
    progress::{Count, Done, Event, Receipt, Step},
    reload::{Applies, GroupReload, KeyChange, Reload},
    request::{Canary, Decision, FLOWS_LISTED_MAX, Request},
    state::{
        Asked, CanaryStatus, Counters, Drains, FlowEvents, GroupStatus, IdEvents, Info, Metrics, Outcomes,
        Status, WorkerStatus,
    },
    table::{Placed, Table, TableShare},
};

/// The version of the shapes in this file; `--json` prints it as `"schema"`.
pub const SCHEMA: u32 = 1;

/// The varlink interface that the methods and errors of this file belong to.
pub const INTERFACE: &str = "io.steer.Control";

/// The names of all methods, without [`INTERFACE`]. Each is a variant of [`Request`].
pub const METHODS: [&str; 19] = [
    "Info",
    "Status",
    "Metrics",
    "Table",
    "Flows",
    "Events",
    "Policy",
    "SetPolicy",
    "SetWeight",
    "Restart",
    "Decide",
    "Drain",
    "DrainAll",
    "Undrain",
    "Scale",
    "Adopt",
    "Release",
    "Reload",
    "Stop",
];

/// Whether the method sends answers before its last one to a client that sets varlink's `more`. The name is
/// full: with the interface.
pub fn streams(method: &str) -> bool {
    method
        .strip_prefix(INTERFACE)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|name| matches!(name, "Events" | "Restart" | "Drain" | "DrainAll" | "Scale" | "Stop"))
}

/// One answer. A request that streams sends several, each but the last marked as continued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// To `Info`.
    Info(Info),
    /// To `Status`.
    Status(Status),
    /// To `Metrics`.
    Metrics(Metrics),
    /// To `Table`.
    Table(Table),
    /// To `Flows`.
    Flows(Flows),
    /// To `Policy`.
    Policy(PolicyReport),
    /// To `SetPolicy` and `SetWeight`.
    Change(Change),
    /// To `Adopt`.
    Adopted(Adopted),
    /// To `Reload`.
    Reload(Reload),
    /// To `Events`, one each.
    Event(Event),
    /// To `Restart`, `Drain`, `Scale`, `Stop`: one each.
    Receipt(Receipt),
    /// The end of a stream, or of a request with nothing else to say.
    Done(Done),
}

#[cfg(test)]
pub(in crate::control) mod tests {
    use super::*;
    use crate::names::GroupName;

    /// One of each, in the order of [`METHODS`].
    pub(in crate::control) fn every_request() -> Vec<Request> {
        let group: GroupName = "web".parse().unwrap();
        let worker = group.worker(0);
        vec![
            Request::Info {},
            Request::Status { group: None },
            Request::Metrics {},
            Request::Table { group: group.clone(), clients: vec![], to: None },
            Request::Flows {
                group: group.clone(),
                worker: Some(1),
                client: Some("192.0.2.0/24".parse().unwrap()),
                limit: 20,
            },
            Request::Events { group: None, since: 0, follow: true },
            Request::Policy { group: group.clone() },
            Request::SetPolicy {
                group: group.clone(),
                policy: crate::policy::Policy::Cpu,
                dry_run: false,
                clients: vec!["[::1]:80".parse().unwrap()],
            },
            Request::SetWeight {
                worker: worker.clone(),
                weight: 7,
                over_ms: Some(60_000),
                dry_run: false,
                clients: vec![],
            },
            Request::Restart {
                group: group.clone(),
                worker: None,
                timeout_ms: Some(5),
                canary: Some(Canary { permille: 50, hold_ms: None }),
            },
            Request::Decide { group: group.clone(), decision: Decision::Abort },
            Request::Drain { worker: worker.clone(), timeout_ms: None, until_replaced: false },
            Request::DrainAll {
                group: group.clone(),
                unit: Some("app@1.service".to_owned()),
                timeout_ms: Some(9),
            },
            Request::Undrain { worker },
            Request::Scale { group: group.clone(), workers: 4, timeout_ms: None },
            Request::Adopt {
                target: AdoptTarget::Unit("nginx".to_owned()),
                name: Some(group.clone()),
                dry_run: false,
                keep: true,
            },
            Request::Release { group: Some(group) },
            Request::Reload { timeout_ms: Some(7) },
            Request::Stop { timeout_ms: None },
        ]
    }

    #[test]
    fn a_request_is_written_under_the_name_it_says_it_has() {
        let requests = every_request();
        let names: Vec<String> = requests.iter().map(|request| request.method().to_owned()).collect();
        assert_eq!(names, METHODS.map(|method| format!("{INTERFACE}.{method}")));
        for request in requests {
            let written = serde_json::to_value(&request).unwrap();
            assert_eq!(written["method"], request.method());
            assert_eq!(serde_json::from_value::<Request>(written).unwrap(), request);
        }
    }

    #[test]
    fn every_kind_of_fault_is_found_again_by_its_error_name() {
        for kind in FaultKind::ALL {
            assert_eq!(FaultKind::from_error_name(&format!("{INTERFACE}.{}", kind.name())), Some(kind));
        }
        assert_eq!(FaultKind::from_error_name("Refused"), None);
        assert_eq!(FaultKind::from_error_name("io.steer.Control.Other"), None);
    }
}
