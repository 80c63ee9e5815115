//! Load over a pool of 4-tuples that reaches a group in every way, and what the table makes of that pool.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use steer::{
    daemon::flows::bucket_of,
    engine::assign::{Member, assign},
    load::{FourTuple, Plan, Probe, Running, Tally, four_tuples, run},
};

use crate::wait;

/// Where a group listens: specific and wildcard, IPv4 and IPv6. Nothing else is on the last one's port, so that it takes
/// IPv4 as well.
pub const LISTEN: [&str; 4] = ["127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8081", "[::]:8082"];

/// Where clients connect: each listen address, the wildcards at addresses that are not the clients' default, and the
/// dual-stack one in both families.
const TARGETS: [&str; 6] = [
    "127.0.0.1:8080",
    "[::1]:8080",
    "127.0.0.2:8081",
    "127.0.0.3:8082",
    "[::1]:8082",
    "[fd00:57ee:7::2]:8082",
];

/// Well apart from the servers' ports.
const FIRST_PORT: u16 = 20_000;

/// How long one connection may take: far longer than any handover, drain or start of a worker, and long enough for the
/// kernel to send a lost segment again a few times.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Per second and load: what leaves two processors room for the handovers that the load is there to see.
const RATE_MAX: f64 = 7_000.0;

/// How long a load may take to come as far as it is awaited.
const PATIENCE: Duration = Duration::from_secs(280);

/// The arguments of `steer run` for [`LISTEN`], and `more`.
pub fn arguments(more: &[&str]) -> Vec<String> {
    let listen = LISTEN.iter().flat_map(|address| ["--listen", address]);
    listen.chain(more.iter().copied()).map(str::to_owned).collect()
}

/// Every combination of `addresses` client addresses of each family, this many ports of each, and the six targets that
/// reach [`LISTEN`]: `6 * addresses * ports` 4-tuples.
pub fn pool(addresses: u16, ports: u16) -> Vec<FourTuple> {
    let targets = TARGETS.map(|target| target.parse::<SocketAddr>().expect("an address"));
    four_tuples(&clients(addresses), port_range(ports), &targets)
}

fn clients(addresses: u16) -> Vec<IpAddr> {
    let one = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let v6 = Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 1, 0, 0, number);
        [IpAddr::from(Ipv4Addr::new(127, 1, high, low)), IpAddr::from(v6)]
    };
    (1..=addresses).flat_map(one).collect()
}

fn port_range(ports: u16) -> Range<u16> {
    FIRST_PORT..FIRST_PORT + ports
}

/// A load that runs until it is told to end.
#[derive(Debug)]
pub struct Load {
    running: Running,
}

impl Load {
    /// Loads over the pool, in two threads, with this many connections open at once.
    #[track_caller]
    pub fn start(pool: Vec<FourTuple>, concurrency: usize) -> Self {
        let plan = Plan { concurrency, timeout: TIMEOUT, rate: Some(RATE_MAX), ..Plan::new(pool) };
        let running = Running::start(plan.split(2)).unwrap_or_else(|error| panic!("{error}"));
        Self { running }
    }

    /// What can be seen while it runs.
    pub fn probe(&self) -> &Probe {
        self.running.probe()
    }

    /// How many connections have ended.
    pub fn connections(&self) -> u64 {
        self.probe().snapshot().connections
    }

    /// Whether the threads have ended without being told to, as they do when the client itself cannot work.
    pub fn is_finished(&self) -> bool {
        self.running.is_finished()
    }

    /// Waits for this many connections more.
    #[track_caller]
    pub fn wait_for(&self, more: u64) {
        let wanted = self.connections() + more;
        wait::until("the load goes on", PATIENCE, || {
            assert!(!self.is_finished(), "the load has ended by itself");
            let snapshot = self.probe().snapshot();
            if snapshot.connections >= wanted { Ok(()) } else { Err(format!("{snapshot:?} of {wanted}")) }
        });
    }

    /// Stops, waits for what is open, and gives the result.
    #[track_caller]
    pub fn end(self) -> Tally {
        self.probe().stop();
        self.running.join().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Visits each 4-tuple of the pool once.
#[track_caller]
pub fn visit(pool: &[FourTuple], concurrency: usize) -> Tally {
    let connections = Some(pool.len() as u64);
    let plan = Plan { concurrency, connections, timeout: TIMEOUT, ..Plan::new(pool.to_vec()) };
    run(&plan, &Probe::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Panics if a connection failed or a 4-tuple changed worker.
#[track_caller]
pub fn assert_nothing_lost(tally: &Tally) {
    let Tally { connections, failed, moved, compared, first_failures, .. } = tally;
    assert_eq!(*failed, 0, "{failed} of {connections} failed, these first: {first_failures:#?}");
    assert_eq!(*moved, 0, "{moved} of {compared} visits were answered by another worker than the one before");
}

/// Who the table gives each 4-tuple to, worked out here from the seed and the workers in it.
#[derive(Debug, Clone)]
pub struct Prediction {
    seed: [u64; 2],
    owners: Vec<u32>,
}

impl Prediction {
    /// With this seed, as given to `steer run --seed`, and these workers.
    #[track_caller]
    pub fn new(seed: &str, workers: &[u32]) -> Self {
        let half = |digits| u64::from_str_radix(digits, 16).expect("a seed has 32 hexadecimal digits");
        let members: Vec<Member> = workers.iter().map(|&index| Member { index, weight: 1_000 }).collect();
        Self { seed: [half(&seed[..16]), half(&seed[16..])], owners: assign(&members) }
    }

    /// The index of the worker that the 4-tuple belongs to.
    pub fn worker(&self, tuple: &FourTuple) -> u32 {
        self.owners[bucket_of(&self.seed, tuple.client, tuple.target)]
    }

    /// The part of the pool that belongs to a worker.
    pub fn of(&self, worker: u32, pool: &[FourTuple]) -> Vec<FourTuple> {
        pool.iter().filter(|tuple| self.worker(tuple) == worker).copied().collect()
    }

    /// How many buckets a worker has.
    pub fn buckets(&self, worker: u32) -> usize {
        self.owners.iter().filter(|&&owner| owner == worker).count()
    }

    /// Visits each 4-tuple of the pool once; panics unless each is answered, and by the worker it belongs to.
    #[track_caller]
    pub fn assert_holds(&self, when: &str, pool: &[FourTuple]) {
        let workers: BTreeSet<u32> = self.owners.iter().copied().collect();
        for worker in workers {
            let own = self.of(worker, pool);
            let tally = visit(&own, 16);
            assert_nothing_lost(&tally);
            let expected = BTreeMap::from([(format!("web/{worker}"), own.len() as u64)]);
            assert_eq!(tally.by_worker, expected, "{when}: the answers to the 4-tuples of web/{worker}");
        }
    }
}
