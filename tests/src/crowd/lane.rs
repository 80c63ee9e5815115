//! One thread of a crowd: sends for one flow after another, and takes whatever answers have come.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    time::Timespec,
};

use super::{
    ANSWER, IN_FLIGHT, LANES, Ports, Shared,
    flow::{Answer, Flow},
};

/// How long nothing may come before what is overdue is looked for.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// What the clocks and a late softirq may take of the time for which the group remembers a flow.
const MARGIN: Duration = Duration::from_millis(100);

pub(super) struct Lane<'a> {
    shared: &'a Shared,
    number: usize,
    ports: Vec<Ports>,
    flows: Vec<Flow>,
    /// Whose turn it is.
    next: usize,
    waiting: usize,
    epoll: OwnedFd,
}

impl<'a> Lane<'a> {
    pub(super) fn new(shared: &'a Shared, number: usize, targets: &[SocketAddr]) -> Self {
        let ports = targets
            .iter()
            .enumerate()
            .map(|(target, &to)| Ports::new(number, target, to))
            .collect::<Vec<_>>();
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("an epoll can be made");
        let mut lane = Self { shared, number, ports, flows: Vec::new(), next: 0, waiting: 0, epoll };
        let count = shared.habits.flows / LANES;
        for at in 0..count {
            // Of different lengths at first, so that they do not all end at once.
            let left = shared.habits.length.map(|length| 2 + length * (at as u32 + 1) / count as u32);
            let flow = lane.begin(at, at % targets.len(), left);
            lane.flows.push(flow);
        }
        lane
    }

    fn begin(&mut self, at: usize, target: usize, left: Option<u32>) -> Flow {
        let socket = self.ports[target].socket();
        epoll::add(&self.epoll, &socket, EventData::new_u64(at as u64), EventFlags::IN)
            .expect("a socket can be awaited");
        Flow::new(socket, target, left)
    }

    /// Another flow in the place of this one, which closes its socket.
    fn replace(&mut self, at: usize) {
        if self.flows[at].is_waiting {
            self.waiting -= 1;
        }
        let target = self.flows[at].target;
        self.flows[at] = self.begin(at, target, self.shared.habits.length);
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(IN_FLIGHT);
        while !self.shared.is_over.load(Relaxed) {
            self.fill();
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&LOOK)) {
                Ok(0) => self.give_up(),
                Ok(_) => events.iter().for_each(|event: &Event| self.take(event.data.u64() as usize)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("waiting for answers: {error}"),
            }
        }
    }

    /// Sends for one flow after another, until enough is in flight or all wait.
    fn fill(&mut self) {
        for _ in 0..self.flows.len() {
            if self.waiting >= IN_FLIGHT / LANES {
                return;
            }
            let at = self.next;
            self.next = (at + 1) % self.flows.len();
            if self.next == 0 {
                self.shared.rounds[self.number].fetch_add(1, Relaxed);
            }
            self.send(at);
        }
    }

    fn send(&mut self, at: usize) {
        let now = Instant::now();
        if self.flows[at].is_waiting {
            self.give_up_on(at, now);
            return;
        }
        if self.flows[at].owner.is_some() && self.flows[at].silent(now) + MARGIN > self.shared.habits.idle {
            self.count(|counts| &counts.late);
            self.replace(at);
        }
        let newest = self.shared.newest(self.flows[at].target).read();
        let flow = &mut self.flows[at];
        if flow.owner.is_none() {
            flow.newest = newest;
        }
        match flow.send(now) {
            Ok(()) => self.waiting += 1,
            Err(error) => self.refused(at, &error),
        }
    }

    fn take(&mut self, at: usize) {
        let mut buffer = [0; 256];
        match self.flows[at].socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(answer) = self.flows[at].understand(&buffer[..length])
                    && self.flows[at].is_waiting
                {
                    self.answered(at, answer);
                }
            }
            // Of a flow whose place another has taken.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.refused(at, &error),
        }
    }

    fn answered(&mut self, at: usize, answer: Answer) {
        self.count(|counts| &counts.datagrams);
        let Answer { owner, knows } = answer;
        let flow = &mut self.flows[at];
        flow.is_waiting = false;
        self.waiting -= 1;
        match flow.owner {
            None => {
                let known = flow.newest[owner.worker];
                flow.owner = Some(owner);
                self.count(|counts| &counts.flows);
                if owner.generation < known {
                    self.count(|counts| &counts.stale);
                    self.shared.describe(|| {
                        format!("a new flow went to {owner:?}, after generation {known} had one")
                    });
                }
                let target = self.flows[at].target;
                self.shared.newest(target).is_known(owner.worker, owner.generation);
            }
            Some(before) if !knows || owner != before => {
                if self.shared.was_killed(before.pid) {
                    self.count(|counts| &counts.orphaned);
                } else {
                    self.count(|counts| &counts.astray);
                    let (local, now) = (self.flows[at].socket.local_addr(), Instant::now());
                    let (silent, left) = (self.flows[at].silent(now), self.flows[at].left);
                    let describe = || {
                        format!(
                            "{local:?} of {before:?} went to {owner:?}, sent {silent:?} ago, {left:?} left"
                        )
                    };
                    self.shared.describe(describe);
                }
                return self.replace(at);
            }
            Some(_) => {}
        }
        let flow = &mut self.flows[at];
        flow.left = flow.left.map(|left| left.saturating_sub(1));
        if flow.left == Some(0) {
            self.replace(at);
        }
    }

    fn refused(&mut self, at: usize, error: &std::io::Error) {
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{:?}: {error}", self.flows[at]);
        self.count(|counts| &counts.refused);
        self.replace(at);
    }

    /// Looks which answers will not come any more.
    fn give_up(&mut self) {
        let now = Instant::now();
        (0..self.flows.len()).for_each(|at| self.give_up_on(at, now));
    }

    fn give_up_on(&mut self, at: usize, now: Instant) {
        let flow = &self.flows[at];
        if flow.is_waiting && flow.silent(now) > ANSWER {
            match flow.owner {
                None => self.count(|counts| &counts.unopened),
                Some(owner) if self.shared.was_killed(owner.pid) => self.count(|counts| &counts.orphaned),
                Some(_) => self.count(|counts| &counts.lost),
            }
            let (flow, time) = (&self.flows[at], SystemTime::UNIX_EPOCH.elapsed());
            self.shared
                .describe(|| format!("no answer: {flow:?}, given up {time:?} after the epoch of Unix"));
            self.replace(at);
        }
    }

    fn count(&self, which: impl FnOnce(&super::Counts) -> &AtomicU64) {
        which(&self.shared.counts).fetch_add(1, Relaxed);
    }
}
