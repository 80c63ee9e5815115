//! What a load counted. Every attempt is in exactly one class, and parts of a load add up.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{answer::Responder, plan::FourTuple};

/// How many failures are kept word by word.
const FIRST_FAILURES: usize = 20;
/// Latencies are kept to two digits, from 1 microsecond to 60 seconds; longer ones count as 60 seconds.
const LATENCY_MAX_US: u64 = 60_000_000;

/// The sum of a load, or of a part of it.
///
/// `connections = ok + failed` and `failed = refused + reset + timed_out + other`; `skipped` stands apart.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Attempts that reached the network and ended.
    pub connections: u64,
    /// Those whose every answer came complete, with status 200.
    pub ok: u64,
    /// All the others.
    pub failed: u64,
    /// Failed with ECONNREFUSED.
    pub refused: u64,
    /// Failed with ECONNRESET or EPIPE, or closed before the answer was complete.
    pub reset: u64,
    /// The part of `reset` that was closed in an orderly way, yet before the answer was complete.
    pub truncated: u64,
    /// Not at their end when the plan's timeout, or the kernel's own, came.
    pub timed_out: u64,
    /// Failed in any other way, a wrong answer among them.
    pub other: u64,
    /// Attempts that never left the client: its own 4-tuple was not free (EADDRINUSE, EADDRNOTAVAIL).
    pub skipped: u64,
    /// Complete answers: as `ok`, but each request of a connection counts.
    pub answers: u64,
    /// Visits answered by another worker than the visit before to the same 4-tuple.
    pub moved: u64,
    /// Visits that were compared with the visit before, `moved` among them.
    pub compared: u64,
    /// Complete connections by the worker that gave their last answer.
    pub by_worker: BTreeMap<String, u64>,
    /// The same by worker, generation and process.
    pub by_responder: BTreeMap<Responder, u64>,
    /// The first failures, word by word.
    pub first_failures: Vec<Failure>,
    /// Complete connections one by one, in the order in which they ended, where the plan keeps them.
    pub visits: Vec<Visit>,
    /// Microseconds from `connect` to the complete answer; of later requests on the same connection, from the
    /// request to its answer.
    pub histogram: Histogram<u64>,
}

/// One complete connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// Its 4-tuple; the client's port is 0 where the kernel had chosen one.
    pub tuple: FourTuple,
    /// The worker that gave its last answer.
    pub worker: String,
    /// Just before its `connect`: its SYN was sent then or later.
    pub began: Instant,
    /// When its last answer was complete.
    pub ended: Instant,
}

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureKind {
    /// ECONNREFUSED.
    Refused,
    /// ECONNRESET or EPIPE.
    Reset,
    /// Closed before the answer was complete.
    Truncated,
    /// The plan's timeout, or ETIMEDOUT.
    TimedOut,
    /// Another errno.
    Errno(i32),
    /// An answer, but not the one that was asked for.
    WrongAnswer(String),
}

/// How far an attempt had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The handshake.
    Connect,
    /// The request.
    Write,
    /// The answer.
    Read,
}

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its 4-tuple; the client's port is 0 where the kernel had chosen one.
    pub tuple: FourTuple,
    /// How far it had come.
    pub stage: Stage,
    /// How it failed.
    pub kind: FailureKind,
    /// From the load's begin to `connect`.
    pub began: Duration,
    /// From the load's begin to the failure.
    pub ended: Duration,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_US, 2)
            .expect("these constant bounds are ones that the histogram takes");
        Self {
            connections: 0,
            ok: 0,
            failed: 0,
            refused: 0,
            reset: 0,
            truncated: 0,
            timed_out: 0,
            other: 0,
            skipped: 0,
            answers: 0,
            moved: 0,
            compared: 0,
            by_worker: BTreeMap::new(),
            by_responder: BTreeMap::new(),
            first_failures: Vec::new(),
            visits: Vec::new(),
            histogram,
        }
    }

    /// Adds another part of the same load.
    pub fn merge(&mut self, part: &Self) {
        self.connections += part.connections;
        self.ok += part.ok;
        self.failed += part.failed;
        self.refused += part.refused;
        self.reset += part.reset;
        self.truncated += part.truncated;
        self.timed_out += part.timed_out;
        self.other += part.other;
        self.skipped += part.skipped;
        self.answers += part.answers;
        self.moved += part.moved;
        self.compared += part.compared;
        for (worker, count) in &part.by_worker {
            *self.by_worker.entry(worker.clone()).or_default() += count;
        }
        for (responder, count) in &part.by_responder {
            *self.by_responder.entry(responder.clone()).or_default() += count;
        }
        self.first_failures.extend(part.first_failures.iter().cloned());
        self.first_failures.sort_by_key(|failure| failure.ended);
        self.first_failures.truncate(FIRST_FAILURES);
        self.visits.extend(part.visits.iter().cloned());
        self.visits.sort_by_key(|visit| visit.ended);
        self.histogram.add(&part.histogram).expect("all histograms here have the same bounds");
    }

    /// The median latency in microseconds; 0 when there was no answer.
    pub fn p50_us(&self) -> u64 {
        self.histogram.value_at_quantile(0.50)
    }

    /// The latency that 99 of 100 answers did not exceed, in microseconds; 0 when there was no answer.
    pub fn p99_us(&self) -> u64 {
        self.histogram.value_at_quantile(0.99)
    }

    /// The longest latency in microseconds, to two digits; 0 when there was no answer.
    pub fn longest_us(&self) -> u64 {
        self.histogram.max()
    }

    pub(super) fn count_answer(&mut self, latency: Duration) {
        self.answers += 1;
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(microseconds.max(1));
    }

    pub(super) fn count_ok(&mut self) {
        self.connections += 1;
        self.ok += 1;
    }

    pub(super) fn count_failure(&mut self, failure: Failure) {
        self.connections += 1;
        self.failed += 1;
        match failure.kind {
            FailureKind::Refused => self.refused += 1,
            FailureKind::Reset => self.reset += 1,
            FailureKind::Truncated => {
                self.reset += 1;
                self.truncated += 1;
            }
            FailureKind::TimedOut => self.timed_out += 1,
            FailureKind::Errno(_) | FailureKind::WrongAnswer(_) => self.other += 1,
        }
        if self.first_failures.len() < FIRST_FAILURES {
            self.first_failures.push(failure);
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl FailureKind {
    /// The class of an errno.
    pub fn of_errno(errno: i32) -> Self {
        match errno {
            libc::ECONNREFUSED => Self::Refused,
            libc::ECONNRESET | libc::EPIPE => Self::Reset,
            libc::ETIMEDOUT => Self::TimedOut,
            errno => Self::Errno(errno),
        }
    }

    /// Whether it is counted in [`Tally::reset`].
    pub fn is_reset(&self) -> bool {
        matches!(self, Self::Reset | Self::Truncated)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::Truncated => f.write_str("closed before the answer was complete"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Errno(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            Self::WrongAnswer(what) => f.write_str(what),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Write => "write",
            Self::Read => "read",
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {}: {} ({:.6} s to {:.6} s)",
            self.tuple,
            self.stage,
            self.kind,
            self.began.as_secs_f64(),
            self.ended.as_secs_f64(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: FailureKind, ended: u64) -> Failure {
        let address = "127.0.0.1:1".parse().unwrap();
        Failure {
            tuple: FourTuple { client: address, target: address },
            stage: Stage::Read,
            kind,
            began: Duration::ZERO,
            ended: Duration::from_millis(ended),
        }
    }

    #[test]
    fn every_failure_is_in_one_class_and_parts_add_up() {
        let kinds = [111, 104, 32, 110, 113].map(FailureKind::of_errno);
        let mut whole = Tally::new();
        for part in 0..2 {
            let mut tally = Tally::new();
            for (at, kind) in kinds.iter().enumerate() {
                tally.count_failure(failure(kind.clone(), 10 * at as u64 + part));
            }
            tally.count_failure(failure(FailureKind::Truncated, 90));
            tally.count_failure(failure(FailureKind::WrongAnswer("no".into()), 91));
            tally.count_ok();
            tally.by_worker.insert("web/0".into(), 1);
            whole.merge(&tally);
        }
        assert_eq!((whole.refused, whole.reset, whole.truncated), (2, 6, 2));
        assert_eq!((whole.timed_out, whole.other), (2, 4));
        assert_eq!(whole.failed, whole.refused + whole.reset + whole.timed_out + whole.other);
        assert_eq!((whole.connections, whole.ok, whole.by_worker["web/0"]), (whole.failed + 2, 2, 2));
        assert!(whole.first_failures.is_sorted_by_key(|failure| failure.ended));
    }

    #[test]
    fn percentiles_are_within_three_percent() {
        let mut tally = Tally::new();
        for microseconds in 1..=10_000 {
            tally.count_answer(Duration::from_micros(microseconds));
        }
        tally.count_answer(Duration::from_secs(3600));
        assert!(tally.p50_us().abs_diff(5_000) <= 150, "{}", tally.p50_us());
        assert!(tally.p99_us().abs_diff(9_900) <= 297, "{}", tally.p99_us());
    }

    #[test]
    fn only_the_first_failures_are_kept() {
        let mut tally = Tally::new();
        (0..100).for_each(|at| tally.count_failure(failure(FailureKind::Reset, at)));
        assert_eq!((tally.first_failures.len(), tally.reset), (FIRST_FAILURES, 100));
        assert!(tally.first_failures.iter().all(|failure| failure.ended < Duration::from_millis(20)));
    }
}
