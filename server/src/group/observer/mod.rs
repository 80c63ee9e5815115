//! Looks at what is left at draining generations, on a thread of its own: all drains in one pass.
//!
//! Queues are looked at each time that somebody asks, since that costs microseconds. Connections cost what the processes have open, so
//! they are counted within a budget: one that cannot be at its end makes do with the last count. The first count of each drain is
//! outside of it: that is once in a handover, while what a budget is for is a drain that lasts.

mod budget;
mod connections;
mod queue_looks;
mod subject;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

use crate::{
    dataplane::flow_table::FlowTable,
    engine::{
        effect::Effect,
        event::{Event, GenerationId, Millis, Observation, Slot},
    },
    sockets::{address::ListenAddress, diag::Diag, processes::Processes},
    threads::ThreadError,
    workers::process::Process,
};

use self::{
    budget::{Budget, thread_time},
    subject::Need,
};
pub(crate) use self::{
    connections::open_connections,
    queue_looks::{QueueLooks, TimedLook},
    subject::Subject,
};
use super::{
    members::Target,
    message::{Inbox, Message},
};

/// How long to wait before an observation that failed is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What counting connections may take of one CPU for all drains together, in thousandths, and at once after a rest: enough for the
/// handover of all workers of a group one after another.
const PERMILLE: u32 = 20;
const BURST: Duration = Duration::from_millis(100);

/// Requests that wait; each generation that drains has one at most.
const ROOM: usize = 16 * 1024;

/// The observer's thread, as it is reached; cheap to clone. It ends with the last clone.
#[derive(Debug, Clone)]
pub(crate) struct Observer {
    requests: SyncSender<Request>,
}

/// One generation to be looked at, and who is told.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) generation: GenerationId,
    pub(crate) first_instant: Option<Millis>,
    pub(crate) slot: Slot,
    /// Its listeners.
    pub(crate) targets: Vec<Target>,
    /// Where UDP flows are remembered, and how long one can be idle.
    pub(crate) flows: Vec<(Arc<FlowTable>, Duration)>,
    /// Datagrams by connection ID, and sockets with unread ones.
    pub(crate) by_id: u64,
    pub(crate) unread: u64,
    pub(crate) process: Option<Process>,
    pub(crate) subject: Arc<Mutex<Subject>>,
    pub(crate) inbox: Inbox,
}

/// A request whose answer needs something that there is no time for yet.
struct Deferred {
    request: Request,
    observation: Observation,
    /// Whether nothing is accepted any more after the count.
    is_final: bool,
    /// Whether its connections have never been counted.
    is_first: bool,
}

impl Observer {
    /// Starts the thread. Without `looks` the kernel does not tell whose a handshake is.
    pub(crate) fn start(looks: Option<Arc<QueueLooks>>) -> Result<Self, ThreadError> {
        let (requests, waiting) = mpsc::sync_channel(ROOM);
        let mut thread = Thread {
            looks,
            budget: Budget::new(PERMILLE, BURST, Instant::now()),
            deferred: Vec::new(),
            again: Vec::new(),
        };
        crate::threads::start("observer", move || thread.run(&waiting))?;
        Ok(Self { requests })
    }

    /// Has a generation be looked at. Where there is no room the effect comes back.
    #[must_use]
    pub(crate) fn observe(&self, request: Request) -> Option<Effect> {
        let (TrySendError::Full(request) | TrySendError::Disconnected(request)) =
            self.requests.try_send(request).err()?;
        Some(request.effect())
    }
}

impl Request {
    fn effect(&self) -> Effect {
        Effect::Observe { generation: self.generation, first_instant: self.first_instant }
    }

    fn answer(self, observation: Observation) {
        let Self { generation, first_instant, .. } = self;
        self.inbox.tell(Message::Event(Event::Observed { generation, first_instant, observation }));
    }

    fn addresses(&self) -> Vec<ListenAddress> {
        self.targets.iter().map(|target| target.address).collect()
    }

    fn is_dead(&self) -> bool {
        self.process.as_ref().is_none_or(Process::has_ended)
    }
}

/// What the thread has.
struct Thread {
    looks: Option<Arc<QueueLooks>>,
    budget: Budget,
    deferred: Vec<Deferred>,
    /// What failed, to be tried again.
    again: Vec<(Instant, Request)>,
}

impl Thread {
    fn run(&mut self, waiting: &mpsc::Receiver<Request>) {
        loop {
            let first = match self.wakes_at() {
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => waiting.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let mut requests: Vec<Request> = match first {
                Ok(first) => std::iter::once(first).chain(waiting.try_iter()).collect(),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = Instant::now();
            let (due, later) = std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
            self.again = later;
            let due: Vec<(Instant, Request)> = due;
            requests.extend(due.into_iter().map(|(_, request)| request));
            self.pass(requests);
        }
    }

    fn wakes_at(&self) -> Option<Instant> {
        let again = self.again.iter().map(|(at, _)| *at);
        again.chain((!self.deferred.is_empty()).then(|| self.budget.allows_at())).min()
    }

    /// One pass over all that wait: queues of all in one look, then the connections that have to be counted.
    fn pass(&mut self, requests: Vec<Request>) {
        let look = match (&self.looks, requests.is_empty()) {
            (Some(looks), false) => looks.now().ok(),
            _ => None,
        };
        let mut to_count = std::mem::take(&mut self.deferred);
        for request in requests {
            let now = Instant::now();
            match queue(&request, look.as_deref()) {
                Err(error) => {
                    tracing::warn!("cannot see what is left at {:?}: {error:#}", request.generation);
                    self.again.push((now + RETRY, request));
                }
                Ok(mut observation) => {
                    let queue_is_empty = observation.handshakes + observation.unaccepted == 0;
                    let may_count = self.budget.allows(now);
                    match connections_of(&request, queue_is_empty, now) {
                        Need::Wanted(count) if !may_count => observation.connections = count,
                        Need::No(count) => observation.connections = count,
                        need @ (Need::Wanted(_) | Need::Yes | Need::First) => {
                            let is_first = need == Need::First;
                            // Before its first instant an empty queue fills again.
                            let is_final = queue_is_empty && request.first_instant.is_some();
                            to_count.push(Deferred { request, observation, is_final, is_first });
                            continue;
                        }
                    }
                    request.answer(observation);
                }
            }
        }
        self.count_all(to_count);
    }

    /// Counts connections of as many as there is time for. The processes of all are told by one look: where that is taken, whoever
    /// waits is counted too, until their counts have taken as long again. Else each of many drains would pay for a look of its own.
    fn count_all(&mut self, mut to_count: Vec<Deferred>) {
        // Those that are counted in any case have the look taken.
        to_count.sort_by_key(|deferred| !deferred.is_first);
        let began = thread_time();
        let mut processes = None;
        let (mut spent, mut look_took) = (Duration::ZERO, Duration::ZERO);
        for deferred in to_count {
            let is_paid_for = processes.is_some() && spent < look_took * 2;
            if !deferred.is_first && !is_paid_for && !self.budget.allows(Instant::now()) {
                self.deferred.push(deferred);
                continue;
            }
            let all = processes.get_or_insert_with(|| {
                let all = Processes::now();
                look_took = thread_time() - began;
                all
            });
            let Deferred { request, mut observation, is_final, is_first } = deferred;
            let is_dead = request.is_dead();
            let tree = request.process.as_ref().map(|process| process.tree_among(all)).unwrap_or_default();
            let looks = self.looks.as_ref().map(|looks| looks.looks());
            let found = open_connections(looks, &tree, &request.addresses());
            let total = thread_time() - began;
            let took = total - spent;
            spent = total;
            if !is_first {
                self.budget.take(took);
            }
            match found {
                Ok(found) => {
                    observation.connections = found.len() as u64;
                    let mut subject = request.subject.lock().unwrap_or_else(PoisonError::into_inner);
                    subject.counted(observation.connections, Instant::now(), took, is_final, is_dead);
                    drop(subject);
                    request.answer(observation);
                }
                Err(error) => {
                    tracing::warn!("cannot see what is left at {:?}: {error:#}", request.generation);
                    self.again.push((Instant::now() + RETRY, request));
                }
            }
        }
    }
}

/// Whether a generation's connections have to be counted.
fn connections_of(request: &Request, queue_is_empty: bool, now: Instant) -> Need {
    let is_dead = request.is_dead();
    let has_left_nobody = request.process.as_ref().is_none_or(Process::has_left_nobody);
    if request.targets.is_empty() || (is_dead && has_left_nobody) {
        return Need::No(0);
    }
    request.subject.lock().unwrap_or_else(PoisonError::into_inner).need(queue_is_empty, is_dead, now)
}

/// What is at a generation's listeners.
fn queue(request: &Request, look: Option<&TimedLook>) -> anyhow::Result<Observation> {
    let mut found = Observation { by_id: request.by_id, unread: request.unread, ..Observation::default() };
    for (table, idle) in &request.flows {
        found.flows += table.count(*idle).get(&request.slot).map_or(0, |count| count.flows);
    }
    for target in &request.targets {
        match look.filter(|_| target.watched.len() == target.cookies.len()) {
            Some(look) => {
                for queue in target.watched.iter().filter_map(|watched| look.of(watched)) {
                    found.handshakes += u64::from(queue.half_open);
                    found.unaccepted += u64::from(queue.unaccepted);
                }
            }
            None => estimate(request, target, &mut found)?,
        }
    }
    Ok(found)
}

/// The same by sock_diag, which tells of half-open handshakes and not whose they are: at most this many are the generation's.
fn estimate(request: &Request, target: &Target, found: &mut Observation) -> anyhow::Result<()> {
    let mut diag = Diag::open()?;
    let half_open: BTreeSet<_> =
        diag.handshakes(target.address)?.iter().map(|it| (it.remote, it.local)).collect();
    let mut subject = request.subject.lock().unwrap_or_else(PoisonError::into_inner);
    found.handshakes += subject.may_be_its_own(half_open, request.first_instant.is_some());
    found.is_estimate = true;
    let listeners = diag.listeners(target.address)?;
    let own = listeners.iter().filter(|listener| target.cookies.contains(&listener.cookie));
    found.unaccepted += own.map(|listener| u64::from(listener.unaccepted)).sum::<u64>();
    Ok(())
}
