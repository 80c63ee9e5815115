//! What the demo found, as `--json` prints it.

use std::time::Duration;

use serde::Serialize;

use crate::load::{Failure, Tally};

/// The version of the shapes in this file.
pub(super) const SCHEMA: u32 = 1;

/// The three sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The version of this shape.
    pub schema: u32,
    /// Whether IPv6 clients took part; the kernel may have none.
    pub ipv6: bool,
    /// Steered by the daemon.
    pub steered: SideReport,
    /// Plain SO_REUSEPORT.
    pub kernel: SideReport,
    /// Plain SO_REUSEPORT with `net.ipv4.tcp_migrate_req=1`.
    pub kernel_migrate: SideReport,
}

/// One side, while its workers were restarted and scaled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideReport {
    /// Connections that were tried and came to an end.
    pub connections: u64,
    /// Those that did not end with a complete answer: the sum of the four that follow.
    pub failed: u64,
    /// ECONNREFUSED.
    pub refused: u64,
    /// ECONNRESET, EPIPE, or closed before the answer was complete.
    pub reset: u64,
    /// No complete answer within 5 s.
    pub timed_out: u64,
    /// Failed in another way.
    pub other: u64,
    /// Attempts for which the client's own port was not free; they reached nobody.
    pub skipped: u64,
    /// Visits that another worker answered than the visit before of the same 4-tuple. Not looked at while
    /// workers are scaled: that is meant to move some.
    pub moved: u64,
    /// Visits that were compared with the visit before.
    pub compared: u64,
    /// Workers replaced by a new process.
    pub restarts: u64,
    /// Changes of the number of workers.
    pub scales: u64,
    /// The median time from `connect` to the complete answer, in microseconds.
    pub p50_us: u64,
    /// The time that 99 of 100 did not exceed, in microseconds.
    pub p99_us: u64,
    /// Connections per second.
    pub rate: f64,
    /// What was lost first, word by word.
    pub first_failures: Vec<String>,
    /// The phase of SIGKILLs, which is not part of the above.
    pub killed: KilledReport,
}

/// One side, while its workers were killed with SIGKILL one after another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KilledReport {
    /// Connections that were tried and came to an end.
    pub connections: u64,
    /// Those that did not end with a complete answer.
    pub failed: u64,
    /// ECONNREFUSED.
    pub refused: u64,
    /// ECONNRESET, EPIPE, or closed before the answer was complete.
    pub reset: u64,
    /// No complete answer within 5 s.
    pub timed_out: u64,
    /// Failed in another way.
    pub other: u64,
    /// Processes killed.
    pub kills: u64,
}

/// What was done to the workers in one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) restarts: u64,
    pub(super) scales: u64,
}

impl SideReport {
    pub(super) fn new(tally: &Tally, done: Done, took: Duration, killed: KilledReport) -> Self {
        Self {
            connections: tally.connections,
            failed: tally.failed,
            refused: tally.refused,
            reset: tally.reset,
            timed_out: tally.timed_out,
            other: tally.other,
            skipped: tally.skipped,
            moved: tally.moved,
            compared: tally.compared,
            restarts: done.restarts,
            scales: done.scales,
            p50_us: tally.p50_us(),
            p99_us: tally.p99_us(),
            rate: (tally.connections as f64 / took.as_secs_f64()).round(),
            first_failures: tally.first_failures.iter().map(Failure::to_string).collect(),
            killed,
        }
    }
}

impl KilledReport {
    pub(super) fn new(tally: &Tally, kills: u64) -> Self {
        Self {
            connections: tally.connections,
            failed: tally.failed,
            refused: tally.refused,
            reset: tally.reset,
            timed_out: tally.timed_out,
            other: tally.other,
            kills,
        }
    }
}
