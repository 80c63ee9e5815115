//! QUIC connections that live for a while: each asks on one stream after another, and is lost if the process that knows it does
//! not answer. Every one has a socket to itself, so that it is a flow.

mod client;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{runtime, task::JoinSet};

use crate::{datagrams::Owner, wait};

/// Longer than a connection takes to find out that it is lost.
const SOON: Duration = Duration::from_secs(120);

/// What became of the connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuicTally {
    /// Those that were begun.
    pub connections: u64,
    /// Those whose handshake was completed.
    pub established: u64,
    /// Answered ones.
    pub streams: u64,
    /// Connections that ended with an error, in their handshake or later.
    pub lost: u64,
    /// Why, and how many of each.
    pub losses: BTreeMap<String, u64>,
    /// Streams that were answered by another process than the connection's first.
    pub moved: u64,
    /// Changes of a client's port in the middle of its connection.
    pub rebinds: u64,
}

/// What a connection does, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Habit {
    /// Streams until its client closes it and another begins in its place; without an end where it is `None`.
    pub streams: Option<u32>,
    /// Between a stream's answer and the next stream: what bounds the load.
    pub pause: Duration,
    /// Bytes of each stream.
    pub size: usize,
    /// The client goes on from another port after each so many streams.
    pub rebind_every: Option<u32>,
}

/// Connections that are kept going until they are ended, by a thread for each target: a thread is in the network namespace of the
/// one that has started it.
pub struct Connections {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    habit: Habit,
    is_over: AtomicBool,
    /// How many times the connection in each place was answered or has ended, in any way.
    progress: Vec<AtomicU64>,
    tally: Mutex<QuicTally>,
    owners: Mutex<BTreeMap<usize, Owner>>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, QuicTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owners(&self) -> MutexGuard<'_, BTreeMap<usize, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }
}

impl Connections {
    /// Begins `count` connections to each target and keeps them going; returns when each was answered once or has ended.
    #[track_caller]
    pub fn start(targets: &[SocketAddr], count: usize, habit: Habit) -> Self {
        raise_descriptor_limit();
        let shared = Arc::new(Shared {
            habit,
            is_over: AtomicBool::new(false),
            progress: (0..targets.len() * count).map(|_| AtomicU64::new(0)).collect(),
            tally: Mutex::default(),
            owners: Mutex::default(),
        });
        let keep = |(number, &target): (usize, &SocketAddr)| {
            let shared = shared.clone();
            thread::spawn(move || keep_going(&shared, number * count, count, target))
        };
        let threads = targets.iter().enumerate().map(keep).collect();
        let connections = Self { shared, threads };
        connections.more(1);
        connections
    }

    /// Waits until the connection in each place was answered this many more times; the end of one counts as well.
    #[track_caller]
    pub fn more(&self, streams: u64) {
        let progress = || self.shared.progress.iter().map(|at| at.load(Relaxed));
        let from: Vec<u64> = progress().collect();
        wait::until("every connection goes on", SOON, || {
            let behind = progress().zip(&from).filter(|(at, from)| *at < **from + streams).count();
            let has_failed = self.threads.iter().any(JoinHandle::is_finished);
            if behind == 0 || has_failed {
                Ok(())
            } else {
                Err(format!("{behind} behind, {:?}", self.tally()))
            }
        });
    }

    /// Who answers the connection in each place; nobody yet where one has just begun.
    pub fn owners(&self) -> BTreeMap<usize, Owner> {
        self.shared.owners().clone()
    }

    /// What has become of the connections so far.
    pub fn tally(&self) -> QuicTally {
        self.shared.tally().clone()
    }

    /// Closes the connections.
    #[track_caller]
    pub fn end(self) -> QuicTally {
        self.shared.is_over.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("the connections go on"));
        self.shared.tally().clone()
    }
}

fn keep_going(shared: &Arc<Shared>, first: usize, count: usize, target: SocketAddr) {
    // Has no threads but this one, which is in the namespace.
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let config = client::config();
    runtime.block_on(async {
        let mut places = JoinSet::new();
        for at in 0..count {
            // Of different lengths at first, so that they do not all end at once.
            let streams = shared.habit.streams.map(|all| 1 + all * at as u32 / count as u32);
            let place = client::Place { number: first + at, target, config: config.clone() };
            places.spawn(keep_place(shared.clone(), place, streams));
        }
        while let Some(ended) = places.join_next().await {
            ended.expect("a connection is kept going");
        }
    });
}

async fn keep_place(shared: Arc<Shared>, place: client::Place, first: Option<u32>) {
    let mut streams = first;
    while !shared.is_over() {
        shared.tally().connections += 1;
        if let Err(error) = place.live(&shared, streams).await {
            let mut tally = shared.tally();
            tally.lost += 1;
            *tally.losses.entry(format!("{error:#}")).or_default() += 1;
        }
        shared.owners().remove(&place.number);
        shared.progress[place.number].fetch_add(1, Relaxed);
        streams = shared.habit.streams;
    }
}

/// A connection is a descriptor: as many as are allowed.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .expect("a limit can be raised to its maximum");
}
