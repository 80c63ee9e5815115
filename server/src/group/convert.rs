//! From the engine's types to the wire's.

use crate::{
    control::api::{self, Count, Fault, FaultKind, SCHEMA, Step},
    engine::{
        effect::{Failure, FailureKind, Outcome, Receipt, Receiver},
        event::{Canary, Decision},
    },
    names::GroupName,
};

pub(crate) fn fault(group: &GroupName, failure: Failure) -> Fault {
    let kind = match failure.kind {
        FailureKind::NoSuch => FaultKind::NoSuch,
        FailureKind::Refused => FaultKind::Refused,
        FailureKind::Failed => FaultKind::Failed,
    };
    Fault { kind, message: format!("{group}: {}", failure.message), hint: failure.hint }
}

impl From<api::Canary> for Canary {
    fn from(canary: api::Canary) -> Self {
        Self { permille: canary.permille, hold: canary.hold_ms }
    }
}

impl From<api::Decision> for Decision {
    fn from(decision: api::Decision) -> Self {
        match decision {
            api::Decision::Proceed => Self::Proceed,
            api::Decision::Abort => Self::Abort,
        }
    }
}

pub(crate) fn receipt(group: &GroupName, receipt: Receipt, datagrams: u64) -> api::Receipt {
    let count = |of: fn(&crate::engine::event::Observation) -> u64| Count {
        began: of(&receipt.began),
        ended: of(&receipt.ended),
    };
    let receiver = |receiver: &Receiver| match receiver {
        Receiver::Worker(index) => group.worker(*index).to_string(),
        Receiver::Hold => "hold".to_owned(),
    };
    let outcome = match receipt.outcome {
        Outcome::Drained => "drained",
        Outcome::Deadline => "deadline",
        Outcome::Lost => "lost",
    };
    api::Receipt {
        schema: SCHEMA,
        worker: group.worker(receipt.generation.worker),
        generation: receipt.generation.number,
        successor: receipt.successor,
        outcome: outcome.to_owned(),
        handshakes: count(|found| found.handshakes),
        handshakes_estimated: receipt.began.is_estimate || receipt.ended.is_estimate,
        unaccepted: count(|found| found.unaccepted),
        flows: count(|found| found.flows),
        by_id: count(|found| found.by_id),
        datagrams,
        connections: count(|found| found.connections),
        migrated: receipt.migrated.values().sum(),
        migrated_to: receipt.migrated.iter().map(|(to, count)| (receiver(to), *count)).collect(),
        exit: receipt.exit,
        steps: receipt
            .steps
            .into_iter()
            .map(|(name, milliseconds)| Step { name: name.to_owned(), milliseconds })
            .collect(),
        message: receipt.message,
    }
}
