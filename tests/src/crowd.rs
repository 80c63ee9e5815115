//! Thousands of UDP flows at the machine's rate: each thread has many datagrams in flight, each of another flow.
//!
//! A flow has a socket, and source ports are used one after another, so that no flow has the 4-tuple of one that has just
//! ended. Its datagrams are as those of [`datagrams`](crate::datagrams): the first opens a session, and an answer says whether
//! the process that gives it knows the session.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::wait;

mod flow;
mod lane;

/// How long an answer may take before the datagram, or its answer, is lost.
const ANSWER: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(120);
const LANES: usize = 2;
/// Datagrams in flight, of all flows together: if one socket gets them all it has room for them, so that none is lost for
/// want of room (`net.core.rmem_default` is 208 KiB, and a small datagram takes 768 bytes of it).
pub const IN_FLIGHT: usize = 192;
/// The most workers of a group under test.
const WORKERS: usize = 16;
/// How many of what went wrong are described.
const DESCRIBED: usize = 8;

/// What flows do.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// How many there are at any time, to all targets together.
    pub flows: usize,
    /// After how many datagrams one ends and another begins; `None` for never.
    pub length: Option<u32>,
    /// How long the group remembers a flow that is silent. One for which the clients had no time for nearly as long is ended by
    /// them and counted: nothing is promised of it.
    pub idle: Duration,
}

/// What became of the datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrowdTally {
    /// Answered ones.
    pub datagrams: u64,
    /// Flows that have begun.
    pub flows: u64,
    /// Without an answer, of established flows.
    pub lost: u64,
    /// First datagrams without an answer: whose they would have been is not known.
    pub unopened: u64,
    /// Answered with an ICMP error: nobody was there.
    pub refused: u64,
    /// Of established flows, those that came to another process than the one that had them.
    pub astray: u64,
    /// The same, or without an answer, of flows whose process the test had killed.
    pub orphaned: u64,
    /// First datagrams that a generation got after a later one of the same worker was known to get them at the same address.
    pub stale: u64,
    /// Flows that the clients had no time for.
    pub late: u64,
}

#[derive(Debug, Default)]
struct Counts {
    datagrams: AtomicU64,
    flows: AtomicU64,
    lost: AtomicU64,
    unopened: AtomicU64,
    refused: AtomicU64,
    astray: AtomicU64,
    orphaned: AtomicU64,
    stale: AtomicU64,
    late: AtomicU64,
}

/// Generations by worker.
#[derive(Debug, Default)]
struct Newest([AtomicU64; WORKERS]);

impl Newest {
    fn read(&self) -> [u64; WORKERS] {
        std::array::from_fn(|worker| self.0[worker].load(SeqCst))
    }

    fn is_known(&self, worker: usize, generation: u64) {
        self.0[worker].fetch_max(generation, SeqCst);
    }
}

#[derive(Debug)]
struct Shared {
    habits: Habits,
    is_over: AtomicBool,
    /// How many times each thread has gone through its flows.
    rounds: [AtomicU64; LANES],
    counts: Counts,
    /// The last generation of each worker that is known to get first datagrams, by listen address: each has a table of its own, and
    /// they are not published at the same instant.
    newest: Vec<Newest>,
    /// The number of the listen address of each target.
    addresses: Vec<usize>,
    killed: Mutex<BTreeSet<u32>>,
    described: Mutex<Vec<String>>,
}

impl Shared {
    fn newest(&self, target: usize) -> &Newest {
        &self.newest[self.addresses[target]]
    }

    fn was_killed(&self, pid: u32) -> bool {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
    }

    fn describe(&self, what: impl FnOnce() -> String) {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        if described.len() < DESCRIBED {
            described.push(what());
        }
    }

    fn tally(&self) -> CrowdTally {
        let of = |count: &AtomicU64| count.load(Relaxed);
        let Counts { datagrams, flows, lost, unopened, refused, astray, orphaned, stale, late } =
            &self.counts;
        CrowdTally {
            datagrams: of(datagrams),
            flows: of(flows),
            lost: of(lost),
            unopened: of(unopened),
            refused: of(refused),
            astray: of(astray),
            orphaned: of(orphaned),
            stale: of(stale),
            late: of(late),
        }
    }
}

/// Flows that are kept going by threads until they are ended.
#[derive(Debug)]
pub struct Crowd {
    shared: Arc<Shared>,
    lanes: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Begins the flows, spread evenly over the targets, and waits until each is established. Targets of one port are at one listen
    /// address.
    #[track_caller]
    pub fn start(targets: &[SocketAddr], habits: Habits) -> Self {
        make_room(habits.flows);
        let ports: BTreeSet<u16> = targets.iter().map(SocketAddr::port).collect();
        let address = |target: &SocketAddr| ports.iter().position(|port| *port == target.port());
        let shared = Arc::new(Shared {
            habits,
            is_over: AtomicBool::new(false),
            rounds: Default::default(),
            counts: Counts::default(),
            newest: ports.iter().map(|_| Newest::default()).collect(),
            addresses: targets.iter().filter_map(address).collect(),
            killed: Mutex::default(),
            described: Mutex::default(),
        });
        let start = |number: usize| {
            let (shared, targets) = (shared.clone(), targets.to_vec());
            thread::spawn(move || lane::Lane::new(&shared, number, &targets).run())
        };
        let crowd = Self { lanes: (0..LANES).map(start).collect(), shared };
        crowd.more(2);
        crowd
    }

    /// Waits until each flow has sent this many times more.
    #[track_caller]
    pub fn more(&self, rounds: u64) {
        let now: Vec<u64> = self.shared.rounds.iter().map(|rounds| rounds.load(Relaxed)).collect();
        wait::until("every flow goes on", SOON, || {
            assert!(!self.lanes.iter().any(JoinHandle::is_finished), "the flows have ended by themselves");
            // The round that is under way does not count.
            let done = self.shared.rounds.iter().zip(&now).all(|(at, from)| at.load(Relaxed) > from + rounds);
            if done { Ok(()) } else { Err(format!("{:?} of {now:?}", self.shared.rounds)) }
        });
    }

    /// From now on this generation, or a later one, of the worker gets first datagrams at all addresses: it has been seen to work.
    pub fn works(&self, worker: usize, generation: u64) {
        self.shared.newest.iter().for_each(|newest| newest.is_known(worker, generation));
    }

    /// The process is about to be killed.
    pub fn is_to_be_killed(&self, pid: u32) {
        self.shared.killed.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
    }

    /// What has become of the datagrams so far.
    pub fn tally(&self) -> CrowdTally {
        self.shared.tally()
    }

    /// The first of what went wrong.
    pub fn described(&self) -> Vec<String> {
        self.shared.described.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the flows; prints the first of what went wrong, if anything did.
    #[track_caller]
    pub fn end(mut self) -> CrowdTally {
        self.shared.is_over.store(true, Relaxed);
        self.lanes.drain(..).for_each(|lane| lane.join().expect("the flows go on"));
        self.described().iter().for_each(|line| println!("{line}"));
        self.shared.tally()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Relaxed);
        for lane in self.lanes.drain(..) {
            // It has printed its panic.
            let _ = lane.join();
        }
    }
}

/// Descriptors that a test has beside those that it asks for.
const OWN: usize = 512;

/// Makes room for so many descriptors, in this process and those that it starts, as far as it may; gives how many there is room for.
pub fn room_for(descriptors: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let needed = (descriptors + OWN) as u64;
    if limit.current.is_none_or(|current| current >= needed) {
        return descriptors;
    }
    let set = |maximum| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    // Beyond the hard limit, where this process may.
    let raised = limit.maximum.map(|maximum| maximum.max(needed));
    let room = if set(raised) {
        raised
    } else {
        set(limit.maximum);
        limit.maximum
    };
    room.map_or(descriptors, |room| descriptors.min((room as usize).saturating_sub(OWN)))
}

/// Makes room for so many descriptors in this process, and some for whatever else it does. Each flow is one.
#[track_caller]
pub fn make_room(flows: usize) {
    let room = room_for(flows);
    assert!(
        room >= flows,
        "there is room for {room} descriptors of {flows}\nhint: raise it: ulimit -n {}",
        flows + OWN
    );
}

/// The address of a thread's flows to a target.
fn source(lane: usize, target: usize, to: SocketAddr) -> IpAddr {
    let (lane, target) = (lane as u8 + 1, target as u8 + 1);
    match to {
        SocketAddr::V4(_) => Ipv4Addr::new(127, 1, lane, target).into(),
        SocketAddr::V6(_) => {
            Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 0, 1, u16::from(lane), u16::from(target)).into()
        }
    }
}

/// Source ports of one thread and target, one after another.
#[derive(Debug)]
struct Ports {
    source: IpAddr,
    target: SocketAddr,
    next: u16,
}

impl Ports {
    const FIRST: u16 = 10_000;
    const LAST: u16 = 60_000;

    fn new(lane: usize, number: usize, target: SocketAddr) -> Self {
        Self { source: source(lane, number, target), target, next: Self::FIRST }
    }

    /// A socket of the next port that is free.
    fn socket(&mut self) -> UdpSocket {
        for _ in Self::FIRST..=Self::LAST {
            let port = self.next;
            self.next = if port == Self::LAST { Self::FIRST } else { port + 1 };
            match UdpSocket::bind((self.source, port)) {
                Ok(socket) => {
                    socket.connect(self.target).expect("the target can be reached");
                    socket.set_nonblocking(true).expect("a socket can be set up");
                    return socket;
                }
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => panic!("binding {}:{port}: {error}", self.source),
            }
        }
        panic!("no port of {} is free", self.source);
    }
}
