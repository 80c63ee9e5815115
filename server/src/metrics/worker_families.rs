//! The families of workers.

use std::fmt;

use crate::control::api::WorkerStatus;

use super::{
    Snapshot,
    exposition::{Families, Labels},
    group_families::outcomes,
};

/// The words for a worker's states.
const STATES: [&str; 6] = ["starting", "working", "draining", "drained", "lost", "stopped"];

/// A worker with its group's and its own name.
struct Named<'a> {
    group: &'a str,
    name: String,
    worker: &'a WorkerStatus,
}

impl Named<'_> {
    fn labels(&self) -> Labels<'_, 2> {
        [("group", self.group), ("worker", &self.name)]
    }

    fn with<'a>(&'a self, label: &'static str, value: &'a str) -> Labels<'a, 3> {
        let [group, worker] = self.labels();
        [group, worker, (label, value)]
    }
}

/// A family with one sample for each worker.
type Family<V> = (&'static str, &'static str, fn(&WorkerStatus) -> V);

const COUNTERS: [Family<u64>; 4] = [
    (
        "steer_worker_selected_connections",
        "New connections that the program selected the worker for.",
        |worker| worker.selected,
    ),
    (
        "steer_worker_migrated_in_connections",
        "Connections that the kernel migrated to the worker.",
        |worker| worker.migrated_in,
    ),
    (
        "steer_worker_migrated_out_connections",
        "Connections that the kernel migrated away from the worker.",
        |worker| worker.migrated_out,
    ),
    ("steer_worker_restarts", "Processes of the worker that were started beyond the first.", |worker| {
        worker.restarts
    }),
];

const GAUGES: [Family<f64>; 8] = [
    ("steer_worker_unaccepted_connections", "Connections in the queue of the worker's listener.", |worker| {
        worker.queue as f64
    }),
    ("steer_worker_flows", "UDP flows that the worker has: remembered, and not idle.", |worker| {
        worker.flows as f64
    }),
    ("steer_worker_open_connections", "Open connections of the worker's processes.", |worker| {
        worker.connections as f64
    }),
    ("steer_worker_table_share_ratio", "The worker's part of the table's buckets, 0 to 1.", |worker| {
        worker.share
    }),
    (
        "steer_worker_canary_share_ratio",
        "Its new generation's part of all buckets, while one is tried.",
        |worker| worker.canary.as_ref().map_or(0.0, |canary| canary.share),
    ),
    ("steer_worker_weight", "The worker's weight in the table.", |worker| f64::from(worker.weight)),
    ("steer_worker_generation", "The worker's working generation, or the one that starts.", |worker| {
        worker.generation as f64
    }),
    (
        "steer_worker_stalled",
        "Whether the worker looks as if it took nothing, under the policy least-loaded.",
        |worker| f64::from(u8::from(worker.stalled)),
    ),
];

/// Writes them.
pub(super) fn write(snapshot: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    let mut workers = Vec::new();
    for group in snapshot.statuses() {
        workers.extend(group.workers.iter().map(|worker| Named {
            group: group.name.as_str(),
            name: worker.name.to_string(),
            worker,
        }));
    }
    for (name, help, value) in COUNTERS {
        families.counter(name, help, workers.iter().map(|named| (named.labels(), value(named.worker))))?;
    }
    for (name, help, value) in GAUGES {
        families.gauge(name, help, workers.iter().map(|named| (named.labels(), value(named.worker))))?;
    }
    families.gauge(
        "steer_worker_state",
        "1 for the state that the worker is in, 0 for the others.",
        workers.iter().flat_map(|named| {
            STATES.map(|state| (named.with("state", state), u32::from(named.worker.state == state)))
        }),
    )?;
    families.counter(
        "steer_worker_drains",
        "The worker's drains that have ended, by outcome.",
        workers.iter().flat_map(|named| {
            outcomes(named.worker.drains).map(|(outcome, count)| (named.with("outcome", outcome), count))
        }),
    )
}
