//! Workers that take nothing for a while, and load that keeps every visit, so that it shows when the last one came to them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use steer::{
    control::api::{GroupStatus, PolicyReport},
    load::{FourTuple, Plan, Running, Tally, Visit, four_tuples},
};

use crate::{control::Control, steer::Steer, wait};

/// From when on a stopped worker's beat is too old for sure: 35 ms is how long one counts, the program's clock is behind by
/// the kernel's tick, 10 ms at most, and the rest is for the clocks' being read by different processes.
pub const BOUND: Duration = Duration::from_millis(60);

/// For what takes milliseconds on a machine that does nothing else.
const SOON: Duration = Duration::from_secs(60);
/// Longer than any stall in a test: whoever waits in a stopped worker's queue is answered when it goes on.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Who served a whole connection within this time before an instant was being scheduled, and had beaten.
const AWAKE: Duration = Duration::from_millis(20);

/// Load over a pool of 2,048 4-tuples of one target that keeps every visit.
#[derive(Debug)]
pub struct Watched {
    running: Running,
}

/// What came of it.
#[derive(Debug)]
pub struct Visits {
    /// All of it.
    pub tally: Tally,
}

/// The 4-tuples of [`Watched`].
pub fn pool(target: SocketAddr) -> Vec<FourTuple> {
    let clients: Vec<IpAddr> = (1..=32).map(|host| IpAddr::from([127, 6, 0, host])).collect();
    four_tuples(&clients, 20_000..20_064, &[target])
}

impl Watched {
    /// Starts as many connections per second in a thread of its own, with so many open at once at most.
    #[track_caller]
    pub fn start(target: SocketAddr, rate: f64, concurrency: usize) -> Self {
        let (rate, keeps_visits) = (Some(rate), true);
        let plan = Plan { rate, concurrency, keeps_visits, timeout: TIMEOUT, ..Plan::new(pool(target)) };
        let running = Running::start(vec![plan]).unwrap_or_else(|error| panic!("{error}"));
        Self { running }
    }

    /// Waits until this many more connections have ended.
    #[track_caller]
    pub fn wait_for(&self, more: u64) {
        let wanted = self.running.probe().snapshot().connections + more;
        wait::until("the load goes on", SOON, || {
            assert!(!self.running.is_finished(), "the load has ended by itself");
            let found = self.running.probe().snapshot();
            if found.connections >= wanted { Ok(()) } else { Err(format!("{found:?}, {wanted} wanted")) }
        });
    }

    /// Stops, waits for what is open, and panics if any connection was lost.
    #[track_caller]
    pub fn end(self) -> Visits {
        self.running.probe().stop();
        let tally = self.running.join().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(tally.failed, 0, "of {}: {:#?}", tally.connections, tally.first_failures);
        Visits { tally }
    }
}

impl Visits {
    /// Those that began in this time.
    pub fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Visit> {
        self.tally.visits.iter().filter(move |visit| visit.began >= from && visit.began < to)
    }

    /// Whether one of these workers was at work just before this instant: it has served a whole connection then.
    pub fn was_awake(&self, is_one: impl Fn(&str) -> bool, at: Instant) -> bool {
        let Some(from) = at.checked_sub(AWAKE) else { return false };
        // In the order in which they ended.
        let end = self.tally.visits.partition_point(|visit| visit.ended <= at);
        let recent = self.tally.visits[..end].iter().rev().take_while(|visit| visit.ended >= from);
        recent.into_iter().any(|visit| visit.began >= from && is_one(&visit.worker))
    }

    /// The visits between two instants that a worker should not have got, since another was there to take them. Where
    /// none of the others was at work (the whole machine was held up), all look stalled and all are used: such a visit is
    /// not among them.
    pub fn undue(&self, worker: &str, from: Instant, to: Instant) -> Vec<&Visit> {
        let is_undue =
            |visit: &&Visit| visit.worker == worker && self.was_awake(|name| name != worker, visit.began);
        self.between(from, to).filter(is_undue).collect()
    }

    /// How long after an instant the last of a worker's visits began that began before `to`; nothing where none did.
    pub fn last_of(&self, worker: &str, from: Instant, to: Instant) -> Option<Duration> {
        self.between(from, to).filter(|visit| visit.worker == worker).map(|visit| visit.began - from).max()
    }
}

/// Waits until the worker looks stalled, or does no more; returns the group's state then.
#[track_caller]
pub fn until_stalled(control: &Control, worker: usize, stalled: bool) -> GroupStatus {
    let what = if stalled { "the worker is stalled" } else { "the worker is stalled no more" };
    wait::until(what, SOON, || {
        let status = control.status();
        if status.workers[worker].stalled == stalled { Ok(status) } else { Err(format!("{status:?}")) }
    })
}

/// Waits until the program sees what a worker publishes; returns the policy's report then.
#[track_caller]
pub fn until_published(steer: &Steer<'_>, worker: usize) -> PolicyReport {
    wait::until("the program sees what the worker publishes", SOON, || {
        let report: PolicyReport = steer.command(["policy", "web", "--json"]).succeeded().parse();
        if report.members[worker].publishes { Ok(report) } else { Err(format!("{report:?}")) }
    })
}

/// Waits until a worker gets its share of new flows again: no less than three fifths of it, of hundreds.
#[track_caller]
pub fn until_it_has_its_share(control: &Control, worker: usize) {
    let selected = |status: &GroupStatus| {
        let all: u64 = status.workers.iter().map(|worker| worker.selected).sum();
        (status.workers[worker].selected, all)
    };
    let mut before = selected(&control.status());
    wait::until("the worker has its share again", SOON, || {
        let status = control.status();
        let (own, all) = selected(&status);
        let (got, came) = (own - before.0, all - before.1);
        if came < 400 {
            return Err(format!("{got} of {came}"));
        }
        // Looked at piece by piece: what it did not get at first does not count for ever.
        before = (own, all);
        let fair = came as f64 * status.workers[worker].share;
        if got as f64 >= 0.6 * fair {
            Ok(())
        } else {
            Err(format!("{got} of {came}, {fair:.0} is its share"))
        }
    });
}

/// How many events of this kind there are of a worker.
#[track_caller]
pub fn events_of(control: &Control, kind: &str, worker: u32) -> usize {
    let events = control.events(kind);
    events.iter().filter(|event| event.worker.as_ref().is_some_and(|name| name.index == worker)).count()
}
