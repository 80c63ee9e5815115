//! The loop of one load thread: epoll, the pool of 4-tuples, and the tally.

use std::{
    collections::HashMap,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};
use thiserror::Error;

use super::{
    answer::{AnswerReader, Responder},
    flow::{Flow, OnAnswer, OpenError, Progress},
    plan::{FourTuple, Plan},
    probe::{Probe, is_watched},
    tally::{Failure, FailureKind, Stage, Tally, Visit},
};

/// How often the open connections are looked through for one that is over its time.
const LOOK_FOR_TIMEOUTS: Duration = Duration::from_millis(20);
/// One read; the sample worker's answers are far smaller.
const BUFFER_SIZE: usize = 16 * 1024;

/// The client itself does not work: nothing that the server did.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The plan names no 4-tuple, or its two addresses are of different families.
    #[error("the plan has no 4-tuple that can be used: {0}")]
    Plan(String),
    /// A call on one connection's socket failed before anything was sent.
    #[error("cannot {operation} for {tuple}")]
    Socket {
        /// The call.
        operation: &'static str,
        /// The flow it was for.
        tuple: FourTuple,
        /// Its error.
        source: std::io::Error,
    },
    /// A call on the epoll instance failed.
    #[error("cannot {operation} the load's epoll instance")]
    Epoll {
        /// The call.
        operation: &'static str,
        /// Its error.
        source: std::io::Error,
    },
    /// A load thread could not be started.
    #[error("cannot start a load thread")]
    Thread(#[source] std::io::Error),
    /// A load thread panicked; its message is on stderr.
    #[error("a load thread panicked")]
    Panicked,
}

/// Loads from the calling thread until the plan or the probe ends it, and all that was begun has ended.
///
/// # Errors
/// Only for what the client itself cannot do; what the server does is in the tally.
pub fn run(plan: &Plan, probe: &Probe) -> Result<Tally, LoadError> {
    if plan.tuples.is_empty() {
        return Err(LoadError::Plan("the pool is empty".to_owned()));
    }
    if let Some(tuple) = plan.tuples.iter().find(|t| t.client.is_ipv4() != t.target.is_ipv4()) {
        return Err(LoadError::Plan(format!("{tuple} has addresses of two families")));
    }
    Driver::new(plan, probe)?.run()
}

/// A 4-tuple of the pool and what is known of it.
struct Member {
    tuple: FourTuple,
    /// The worker of its last watched visit, as an index into [`Counts::responders`]' workers, and the epoch.
    known: Option<(u32, u64)>,
}

/// A place for one open connection.
#[derive(Default)]
struct Place {
    flow: Option<Flow>,
    member: usize,
    /// The probe's epoch when the connection began.
    epoch: u64,
    /// The buffers of this connection's answer, and then of the next one's.
    reader: AnswerReader,
}

struct Driver<'a> {
    plan: &'a Plan,
    probe: &'a Probe,
    epoll: std::os::fd::OwnedFd,
    members: Vec<Member>,
    /// The members that are in no connection, the one that waits longest first.
    idle: std::collections::VecDeque<usize>,
    places: Vec<Place>,
    free: Vec<usize>,
    started: u64,
    began: Instant,
    counts: Counts,
}

/// The tally, and the names in it as numbers.
struct Counts {
    tally: Tally,
    /// Each process that has answered: its worker's number and its count.
    responders: HashMap<Responder, (u32, u64)>,
    workers: HashMap<String, u32>,
}

/// Counts the answers of one connection.
struct Answers<'a> {
    counts: &'a mut Counts,
    probe: &'a Probe,
    member: &'a mut Member,
    epoch: u64,
    /// The instant of `connect`, where the visit is kept.
    kept: Option<Instant>,
}

impl<'a> Driver<'a> {
    fn new(plan: &'a Plan, probe: &'a Probe) -> Result<Self, LoadError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| LoadError::Epoll { operation: "create", source: error.into() })?;
        let concurrency = plan.concurrency.clamp(1, plan.tuples.len());
        Ok(Self {
            plan,
            probe,
            epoll,
            members: plan.tuples.iter().map(|tuple| Member { tuple: *tuple, known: None }).collect(),
            idle: (0..plan.tuples.len()).collect(),
            places: (0..concurrency).map(|_| Place::default()).collect(),
            free: (0..concurrency).rev().collect(),
            started: 0,
            began: Instant::now(),
            counts: Counts { tally: Tally::new(), responders: HashMap::new(), workers: HashMap::new() },
        })
    }

    fn run(mut self) -> Result<Tally, LoadError> {
        let mut buffer = vec![0; BUFFER_SIZE];
        let mut events = Vec::with_capacity(self.places.len().max(16));
        let mut looked = Instant::now();
        loop {
            let wait = self.start_connections(&mut buffer)?;
            if self.free.len() == self.places.len() && self.is_over() {
                return Ok(self.counts.into_tally());
            }
            self.wait(&mut events, wait)?;
            for event in events.drain(..) {
                let flags = event.flags;
                let ended = flags.intersects(epoll::EventFlags::RDHUP);
                self.advance(event.data.u64() as usize, ended, &mut buffer);
            }
            if looked.elapsed() >= LOOK_FOR_TIMEOUTS {
                looked = Instant::now();
                self.end_overdue(looked);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.probe.is_stopped()
            || self.plan.connections.is_some_and(|most| self.started >= most)
            || self.plan.duration.is_some_and(|most| self.began.elapsed() >= most)
    }

    /// Fills the free places, as far as the plan's rate allows; says how long to wait for events at most.
    fn start_connections(&mut self, buffer: &mut [u8]) -> Result<Duration, LoadError> {
        // Each free place is tried once: when every 4-tuple is busy on the client's side, that is no endless loop.
        for _ in 0..self.free.len() {
            if self.is_over() {
                break;
            }
            if let Some(rate) = self.plan.rate {
                let due = (self.started + 1) as f64 / rate - self.began.elapsed().as_secs_f64();
                if due > 0.0 {
                    return Ok(Duration::from_secs_f64(due).min(LOOK_FOR_TIMEOUTS));
                }
            }
            self.start_connection(buffer)?;
        }
        // A place that is still free had an attempt that ended at once: go on soon, yet without spinning.
        let any_free = !self.free.is_empty() && !self.is_over();
        Ok(if any_free { Duration::from_millis(1) } else { LOOK_FOR_TIMEOUTS })
    }

    fn start_connection(&mut self, buffer: &mut [u8]) -> Result<(), LoadError> {
        let (Some(member), Some(place)) = (self.idle.pop_front(), self.free.pop()) else { return Ok(()) };
        self.started += 1;
        let tuple = self.members[member].tuple;
        match Flow::open(&tuple, self.plan.requests) {
            Ok(flow) => {
                let it = &mut self.places[place];
                (it.flow, it.member, it.epoch) = (Some(flow), member, self.probe.epoch());
                it.reader.reset();
                self.advance(place, false, buffer);
                self.watch(place)?;
            }
            Err(error) => {
                self.free.push(place);
                self.idle.push_back(member);
                match error {
                    OpenError::Skipped => {
                        // It was no attempt: the plan's number of connections is still owed.
                        self.started -= 1;
                        self.counts.tally.skipped += 1;
                        self.probe.skipped.fetch_add(1, Relaxed);
                    }
                    OpenError::Failed(kind) => {
                        self.count_failure(tuple, Stage::Connect, kind, Instant::now());
                    }
                    OpenError::Broken(operation, source) => {
                        return Err(LoadError::Socket { operation, tuple, source: source.into() });
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds a flow that goes on to the epoll instance. Edge-triggered, once: a flow reads until EAGAIN.
    fn watch(&mut self, place: usize) -> Result<(), LoadError> {
        let Some(flow) = &self.places[place].flow else { return Ok(()) };
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        // Waiting to be writable too would wake once for nothing where the request is out, unless more follow.
        if !flow.has_asked() || self.plan.requests > 1 {
            flags |= epoll::EventFlags::OUT;
        }
        epoll::add(&self.epoll, flow.socket(), epoll::EventData::new_u64(place as u64), flags)
            .map_err(|error| LoadError::Epoll { operation: "add a socket to", source: error.into() })
    }

    fn advance(&mut self, place: usize, end_of_stream: bool, buffer: &mut [u8]) {
        let Place { flow: Some(flow), member, epoch, reader } = &mut self.places[place] else { return };
        let began = flow.began;
        let member = &mut self.members[*member];
        let tuple = member.tuple;
        let kept = self.plan.keeps_visits.then_some(began);
        let mut answers =
            Answers { counts: &mut self.counts, probe: self.probe, member, epoch: *epoch, kept };
        match flow.advance(end_of_stream, reader, buffer, &mut answers) {
            Progress::Waiting => {}
            Progress::Over => self.free(place, false),
            Progress::Failed(stage, kind) => {
                self.free(place, true);
                self.count_failure(tuple, stage, kind, began);
            }
        }
    }

    fn free(&mut self, place: usize, abort: bool) {
        let Some(flow) = self.places[place].flow.take() else { return };
        if abort {
            flow.abort();
        }
        self.idle.push_back(self.places[place].member);
        self.free.push(place);
    }

    fn end_overdue(&mut self, now: Instant) {
        for place in 0..self.places.len() {
            let Place { flow: Some(flow), member, .. } = &self.places[place] else { continue };
            if now.saturating_duration_since(flow.began) < self.plan.timeout {
                continue;
            }
            let (answered, stage, began) = (flow.is_closing(), flow.public_stage(), flow.began);
            let tuple = self.members[*member].tuple;
            self.free(place, true);
            // A server that answers and does not close has been counted as ok.
            if !answered {
                self.count_failure(tuple, stage, FailureKind::TimedOut, began);
            }
        }
    }

    fn count_failure(&mut self, tuple: FourTuple, stage: Stage, kind: FailureKind, began: Instant) {
        self.probe.connections.fetch_add(1, Relaxed);
        self.probe.failed.fetch_add(1, Relaxed);
        self.counts.tally.count_failure(Failure {
            tuple,
            stage,
            kind,
            began: began.saturating_duration_since(self.began),
            ended: self.began.elapsed(),
        });
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, most: Duration) -> Result<(), LoadError> {
        let most = Timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&most)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(LoadError::Epoll { operation: "wait on", source: error.into() }),
        }
    }
}

impl OnAnswer for Answers<'_> {
    fn answered(&mut self, responder: &Responder, asked: Instant, last: bool) {
        self.counts.tally.count_answer(asked.elapsed());
        if !last {
            return;
        }
        self.counts.tally.count_ok();
        self.probe.connections.fetch_add(1, Relaxed);
        let worker = self.counts.count_responder(responder);
        if let Some(began) = self.kept {
            let (tuple, worker, ended) = (self.member.tuple, responder.worker.clone(), Instant::now());
            self.counts.tally.visits.push(Visit { tuple, worker, began, ended });
        }
        let now = self.probe.epoch();
        // Port 0 is another 4-tuple at each visit.
        if !is_watched(self.epoch, now) || self.member.tuple.client.port() == 0 {
            return;
        }
        if let Some((known, epoch)) = self.member.known
            && epoch == now
        {
            self.counts.tally.compared += 1;
            if known != worker {
                self.counts.tally.moved += 1;
                self.probe.moved.fetch_add(1, Relaxed);
            }
        }
        self.member.known = Some((worker, now));
    }
}

impl Counts {
    fn count_responder(&mut self, responder: &Responder) -> u32 {
        if let Some((worker, count)) = self.responders.get_mut(responder) {
            *count += 1;
            return *worker;
        }
        let next = self.workers.len() as u32;
        let worker = *self.workers.entry(responder.worker.clone()).or_insert(next);
        self.responders.insert(responder.clone(), (worker, 1));
        worker
    }

    fn into_tally(self) -> Tally {
        let mut tally = self.tally;
        for (responder, (_, count)) in self.responders {
            *tally.by_worker.entry(responder.worker.clone()).or_default() += count;
            tally.by_responder.insert(responder, count);
        }
        tally
    }
}
