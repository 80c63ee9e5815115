//! UDP flows that live for a while: each opens a session at its worker and says at once when it reaches a process that knows
//! nothing of it.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::wait;

/// How long an answer may take before the datagram, or its answer, is lost.
const ANSWER: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(120);

/// Who has answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// As `web/0`.
    pub worker: String,
    /// Counted from 1.
    pub generation: u64,
    /// Its process.
    pub pid: u32,
}

/// What became of the datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowTally {
    /// Answered ones.
    pub datagrams: u64,
    /// Flows that have begun.
    pub flows: u64,
    /// Without an answer.
    pub lost: u64,
    /// Answered with an ICMP error: nobody was there.
    pub refused: u64,
    /// Of established flows, those that came to a process that did not know them although their client had not been silent for
    /// as long as a flow may be.
    pub astray: u64,
    /// Those that did so when it may have been, on a busy machine: nothing that is promised to them was broken.
    pub late: u64,
}

/// What a flow says, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Habit {
    /// Datagrams after the first, until another flow begins in its place; without an end where it is `None`.
    pub length: Option<u32>,
    /// Bytes of each.
    pub size: usize,
    /// For how long a flow of the group may be silent and stay where it is (`--flow-idle`).
    pub idle: Duration,
}

/// Flows that are kept going by threads until they are ended.
pub struct Flows {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    habit: Habit,
    is_over: AtomicBool,
    /// How many times each thread has gone through its flows.
    rounds: Vec<AtomicU64>,
    tally: Mutex<FlowTally>,
    owners: Mutex<BTreeMap<SocketAddr, Owner>>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, FlowTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owners(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Flow {
    target: SocketAddr,
    socket: UdpSocket,
    local: SocketAddr,
    left: Option<u32>,
    /// When its last datagram began to be sent: no later than the program saw it.
    sent: Option<Instant>,
}

impl Flow {
    fn new(target: SocketAddr, length: Option<u32>) -> Self {
        let any: SocketAddr =
            if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).expect("there are ports left");
        socket.connect(target).expect("the target can be reached");
        socket.set_read_timeout(Some(ANSWER)).expect("a timeout can be set");
        let local = socket.local_addr().expect("it is bound");
        Self { target, socket, local, left: length, sent: None }
    }

    /// One datagram and its answer: who gave it, and whether it knew the flow.
    fn ask(&self, first: u8, size: usize) -> std::io::Result<(Owner, bool)> {
        let mut datagram = vec![b'.'; size.max(1)];
        datagram[0] = first;
        self.socket.send(&datagram)?;
        let mut buffer = vec![0; 65_536];
        // A wait with a timeout is not begun again after the process was stopped and went on.
        let length = loop {
            match self.socket.recv(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received?,
            }
        };
        let (line, echoed) = split(&buffer[..length]);
        assert!(echoed == datagram || length > 65_000, "what came back is not what was sent");
        let words: Vec<&str> = line.split(' ').collect();
        let [worker, generation, pid, verdict] = words[..] else {
            panic!("no answer of a sample worker: {line}")
        };
        let owner = Owner {
            worker: worker.to_owned(),
            generation: generation.parse().expect("a number"),
            pid: pid.parse().expect("a number"),
        };
        Ok((owner, verdict == "ok"))
    }
}

fn split(answer: &[u8]) -> (String, &[u8]) {
    let end = answer.iter().position(|byte| *byte == b'\n').expect("a line of names");
    (String::from_utf8_lossy(&answer[..end]).into_owned(), &answer[end + 1..])
}

impl Flows {
    /// Begins `count` flows to each target and keeps them going, one datagram after another, by one thread for each target.
    pub fn start(targets: &[SocketAddr], count: usize, habit: Habit) -> Self {
        let shared = Arc::new(Shared {
            habit,
            is_over: AtomicBool::new(false),
            rounds: targets.iter().map(|_| AtomicU64::new(0)).collect(),
            tally: Mutex::default(),
            owners: Mutex::default(),
        });
        let keep = |(number, &target): (usize, &SocketAddr)| {
            let shared = shared.clone();
            thread::spawn(move || keep_going(&shared, number, target, count))
        };
        let threads = targets.iter().enumerate().map(keep).collect();
        let flows = Self { shared, threads };
        flows.more(1);
        flows
    }

    /// Waits until every flow has been answered this many more times, or has begun anew.
    #[track_caller]
    pub fn more(&self, rounds: u64) {
        let now: Vec<u64> = self.shared.rounds.iter().map(|rounds| rounds.load(Relaxed)).collect();
        wait::until("every flow goes on", SOON, || {
            let done = self.shared.rounds.iter().zip(&now).all(|(at, from)| at.load(Relaxed) > from + rounds);
            if self.threads.iter().any(JoinHandle::is_finished) {
                return Ok(());
            }
            if done { Ok(()) } else { Err(format!("{:?} of {now:?}", self.shared.rounds)) }
        });
    }

    /// Who answers each flow, by the flow's own address.
    pub fn owners(&self) -> BTreeMap<SocketAddr, Owner> {
        self.shared.owners().clone()
    }

    /// What has become of the datagrams so far.
    pub fn tally(&self) -> FlowTally {
        *self.shared.tally()
    }

    /// Ends the flows.
    #[track_caller]
    pub fn end(self) -> FlowTally {
        self.shared.is_over.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("the flows go on"));
        *self.shared.tally()
    }
}

fn keep_going(shared: &Shared, number: usize, target: SocketAddr, count: usize) {
    // Of different lengths at first, so that they do not all end at once.
    let habit = shared.habit;
    let first = |at: usize| habit.length.map(|length| 1 + length * (at as u32 + 1) / count as u32);
    let mut flows: Vec<Option<Flow>> = (0..count).map(|at| Some(Flow::new(target, first(at)))).collect();
    let mut is_open = vec![false; count];
    while !shared.is_over.load(Relaxed) {
        for (place, is_open) in flows.iter_mut().zip(&mut is_open) {
            let flow = place.get_or_insert_with(|| Flow::new(target, habit.length));
            step(shared, flow, is_open);
            if flow.left == Some(0) {
                shared.owners().remove(&flow.local);
                *place = None;
                *is_open = false;
            }
        }
        shared.rounds[number].fetch_add(1, Relaxed);
    }
}

fn step(shared: &Shared, flow: &mut Flow, is_open: &mut bool) {
    let before = flow.sent.replace(Instant::now());
    let answer = flow.ask(if *is_open { b'=' } else { b'+' }, shared.habit.size);
    // No earlier than the program saw the datagram: between the two it can have been silent for this long, and no longer.
    let silent = before.map_or(Duration::ZERO, |before| before.elapsed());
    let mut tally = shared.tally();
    match answer {
        Ok((owner, knows)) => {
            tally.datagrams += 1;
            if *is_open && !knows && silent > shared.habit.idle {
                tally.late += 1;
            } else if *is_open && !knows {
                tally.astray += 1;
            } else if !*is_open {
                tally.flows += 1;
            }
            *is_open = knows;
            flow.left = flow.left.map(|left| left.saturating_sub(1));
            shared.owners().insert(flow.local, owner);
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => tally.refused += 1,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => tally.lost += 1,
        Err(error) => panic!("{} to {}: {error}", flow.local, flow.target),
    }
}
