//! As many workers as a group can have: in the program and its maps, in a daemon with real processes, and in what is printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use server_common::{
    choice::choose,
    counters::{Outcome, SlotCounters},
    limits::{self, BUCKETS, DROPPED_SLOT, SCAN_MAX, WORKERS_MAX},
    table::Table as KernelTable,
};
use socket2::{Domain, Socket, Type};
use steer::{
    control::api::{Status, Table},
    daemon::flows::hash_of,
    dataplane::{
        kernel_group::{KernelGroup, Shape},
        publisher::Publisher,
    },
    engine::{event::Slot, layout::Layout},
    policy::Policy,
    sockets::{address::ListenAddress, listener::make_listener, options},
};
use steer_tests::{
    clients::{Answer, Client, Owners, SEED, ask_all, seed_argument},
    control::{Control, assert_counted_once, assert_drained},
    exact, netns,
    steer::{Steer, binary},
};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// For each of many processes to start, or to end.
const STARTED: Duration = Duration::from_secs(300);
const STOPPED: Duration = Duration::from_secs(120);
/// Connections to each worker.
const EACH: usize = 2;

/// How many workers there are in an ordinary run; `STEER_TEST_WORKERS` asks for another number.
fn workers() -> u32 {
    const WORKERS: u32 = WORKERS_MAX as u32;
    env::var("STEER_TEST_WORKERS").ok().and_then(|workers| workers.parse().ok()).unwrap_or(WORKERS)
}

/// Clients that nobody else is, in their order.
fn clients() -> impl Iterator<Item = SocketAddr> {
    let addresses = (1..=250).map(|number| Ipv4Addr::new(127, 9, 0, number));
    addresses.flat_map(|ip| (20_000..21_000).map(move |port| SocketAddr::new(ip.into(), port)))
}

/// A process's resident memory, as the kernel says it.
fn resident(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.expect("a process has memory").trim().to_owned()
}

/// What a step took, printed.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    println!("{what}: {:.2} s", began.elapsed().as_secs_f64());
    result
}

#[test]
fn a_group_of_as_many_workers_as_there_can_be_starts_serves_scales_and_ends() {
    if !exact::are_had() {
        return;
    }
    let count = workers();
    netns::run("thousand", |namespace| {
        let listen = SERVER.to_string();
        let (number, seed, sample) = (count.to_string(), seed_argument(), binary());
        let sample = sample.to_string_lossy();
        let group = ["--listen", &listen, "--workers", &number, "--seed", &seed, "--ready", "notify"];
        // Without beats: each worker's hundred a second are 1 % of a processor, which a thousand have not got.
        let arguments = [&group[..], &["--", &sample, "worker", "--silent"]].concat();
        let mut steer = Steer::start(namespace, &binary(), &arguments);
        timed("all work", || steer.until_all_work(count as usize, STARTED));
        serve(&steer, count);
        is_printed(&steer, count);
        let control = Control::new(&steer.socket());
        for worker in [0, count / 2, count - 1] {
            assert_drained(&timed("a restart", || control.restart(worker)));
        }
        let fewer = count - count / 40;
        let receipts = timed("fewer", || control.scale(fewer));
        receipts.iter().for_each(assert_drained);
        assert_eq!(receipts.len() as u32, count - fewer);
        assert!(timed("as many again", || control.scale(count)).is_empty());
        let status = control.status();
        assert!(status.workers.iter().all(|worker| worker.state == "working"), "{status:?}");
        assert_eq!(status.workers.len() as u32, count);
        assert_counted_once(&status);
        println!("the daemon's memory: {}", resident(steer.pid()));
        timed("the end", || steer.stop(STOPPED));
    });
}

/// Each worker gets the connections that are its own by the table, and those are counted, and no others.
fn serve(steer: &Steer<'_>, count: u32) {
    let owners = Owners::among(0..count);
    let mut missing: BTreeMap<u32, usize> = (0..count).map(|worker| (worker, EACH)).collect();
    let mut chosen = Vec::new();
    for client in clients() {
        let owner = owners.of_flow(client, SERVER);
        let Some(left) = missing.get_mut(&owner) else { continue };
        *left -= 1;
        if *left == 0 {
            missing.remove(&owner);
        }
        chosen.push(client);
    }
    assert!(missing.is_empty(), "no client found for {missing:?}");
    timed("the connections", || {
        // A few at a time: one process has as many descriptors as one may.
        for some in chosen.chunks(256) {
            let clients = some.iter().map(|client| Client::connect_from(*client, SERVER)).collect();
            ask_all(clients, |client| Answer { worker: owners.of(client), generation: 1 });
        }
    });
    let status = Control::new(&steer.socket()).status();
    assert_counted_once(&status);
    let uneven = status.workers.iter().filter(|worker| worker.selected != EACH as u64);
    assert_eq!(uneven.count(), 0, "{status:?}");
    assert_eq!(status.counters.asked.connection, (EACH * count as usize) as u64);
    assert_eq!(status.counters.outcome.first_choice, (EACH * count as usize) as u64);
}

/// Every worker is in everything that is printed, once.
fn is_printed(steer: &Steer<'_>, count: u32) {
    let print = |arguments: &[&str]| {
        let output = timed(&arguments.join(" "), || steer.command(arguments).succeeded());
        println!("    {} KiB", output.stdout.len() / 1024);
        output
    };
    let all: BTreeSet<String> = (0..count).map(|worker| format!("web/{worker}")).collect();
    let check = |what: &str, named: Vec<String>| {
        assert_eq!(named.len() as u32, count, "{what}");
        assert_eq!(BTreeSet::from_iter(named), all, "{what}");
    };
    let status: Status = print(&["status", "--json"]).parse();
    let named = status.groups[0].workers.iter().map(|worker| worker.name.to_string());
    check("status --json", named.collect());
    let shares: f64 = status.groups[0].workers.iter().map(|worker| worker.share).sum();
    assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    let table: Table = print(&["table", "web", "--json"]).parse();
    check("table --json", table.shares.iter().map(|share| share.worker.to_string()).collect());
    let first_words = |text: &str| -> Vec<String> {
        let words =
            text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with("web/")));
        words.map(str::to_owned).collect()
    };
    check("status", first_words(&print(&["status"]).stdout));
    check("table", first_words(&print(&["table", "web"]).stdout));
    let metrics = print(&["metrics"]).stdout;
    let family = "steer_worker_selected_connections_total{";
    let label = |line: &str| Some(line.split("worker=\"").nth(1)?.split('"').next()?.to_owned());
    let named = metrics.lines().filter(|line| line.starts_with(family)).filter_map(label);
    check(
        "metrics",
        named.map(|name| if name.contains('/') { name } else { format!("web/{name}") }).collect(),
    );
}

/// Listeners in as many slots as there are workers, without a daemon.
struct Fixture {
    kernel: KernelGroup,
    publisher: Publisher,
    listeners: Vec<TcpListener>,
    table: Box<KernelTable>,
}

impl Fixture {
    /// The workers have the slots from 1 on, one more is the holding listener's.
    fn new() -> Self {
        let shape = Shape::without_flows(limits::slots(WORKERS_MAX as u32));
        let (kernel, mut publisher) = KernelGroup::load(shape).expect("the program can be loaded");
        let address: ListenAddress = SERVER.to_string().parse().expect("an address");
        let mut listeners = Vec::new();
        for slot in 1..=WORKERS_MAX as Slot + 1 {
            let listener = make_listener(address, None, 1024).expect("a listener can be made");
            kernel.put(slot, 0, listener.as_fd()).expect("the sockarray has room");
            let listener = TcpListener::from(listener);
            listener.set_nonblocking(true).expect("a listener can be set up");
            listeners.push(listener);
        }
        // SAFETY: a table is `repr(C)` of integers: all zeroes is a value.
        let mut table = unsafe { Box::<KernelTable>::new_zeroed().assume_init() };
        let layout = layout();
        layout.write(&mut table);
        publisher.publish(&layout).expect("a table can be published");
        kernel.attach(listeners[0].as_fd()).expect("the program can be attached");
        Self { kernel, publisher, listeners, table }
    }

    /// Connects so that each slot has a connection of its own, and compares slot and outcome of each with what the host's copy says
    /// where only these slots can be selected. How often each outcome came.
    fn compare(&self, is_there: impl Fn(Slot) -> bool) -> BTreeMap<u32, u64> {
        let hashed = clients().map(|client| (client, hash_of(&SEED, client, SERVER)));
        let mut missing: BTreeSet<Slot> = (1..=WORKERS_MAX as Slot).collect();
        let chosen = hashed.filter(|(_, hash)| missing.remove(&self.table.slot(*hash as usize % BUCKETS)));
        let chosen: Vec<(SocketAddr, u64)> = chosen.collect();
        assert_eq!(chosen.len(), WORKERS_MAX);
        let before = self.counted();
        let mut expected = BTreeMap::<(Slot, u32), u64>::new();
        for (client, hash) in chosen {
            let chosen = choose(&self.table, hash, &mut |slot: Slot| is_there(slot));
            *expected.entry((chosen.slot, chosen.outcome as u32)).or_default() += 1;
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_reuse_address(true).expect("a socket can be set up");
            socket.bind(&client.into()).expect("nobody has the client's address");
            socket.connect(&SERVER.into()).expect("a listener is there");
            // With a reset: the 4-tuple is free for the next time at once.
            socket.set_linger(Some(Duration::ZERO)).expect("a socket can be set up");
        }
        // What nobody accepts takes up room, though its client is gone.
        self.listeners.iter().for_each(|listener| while listener.accept().is_ok() {});
        let counted: BTreeMap<(Slot, u32), u64> = self
            .counted()
            .into_iter()
            .flat_map(|(slot, counters)| {
                let counters = counters.since(&before[&slot]);
                (0..).zip(counters.outcome).map(move |(outcome, count)| ((slot, outcome), count))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(counted, expected);
        let mut outcomes = BTreeMap::new();
        expected.into_iter().for_each(|((_, outcome), count)| *outcomes.entry(outcome).or_default() += count);
        outcomes
    }

    fn counted(&self) -> BTreeMap<Slot, SlotCounters> {
        let slots = DROPPED_SLOT..=WORKERS_MAX as Slot + 1;
        slots.map(|slot| (slot, self.kernel.counters(slot).expect("the counters can be read"))).collect()
    }
}

fn layout() -> Layout {
    let slot = |bucket: usize| 1 + (bucket % WORKERS_MAX) as Slot;
    let buckets: Arc<[Slot]> = (0..BUCKETS).map(slot).collect();
    Layout {
        epoch: 1,
        seed: SEED,
        policy: Policy::Hash,
        hold: Some(WORKERS_MAX as Slot + 1),
        probe: None,
        working: (1..=WORKERS_MAX as Slot).collect(),
        cpus: BTreeMap::new(),
        buckets,
    }
}

#[test]
fn the_program_chooses_among_a_thousand_listeners_as_the_hosts_copy_does() {
    let (first, further, held) =
        (Outcome::FirstChoice as u32, Outcome::FurtherChoice as u32, Outcome::Held as u32);
    netns::run("listeners", |_| {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.compare(|_| true), BTreeMap::from([(first, WORKERS_MAX as u64)]));
        // Half of them stop: the others are found by further choices or by looking on.
        let shut = |fixture: &Fixture, slots: std::ops::RangeInclusive<Slot>| {
            for slot in slots {
                options::shut_listener(&fixture.listeners[usize::from(slot) - 1])
                    .expect("it can be shut down");
            }
        };
        shut(&fixture, 1..=512);
        let half = fixture.compare(|slot| slot > 512);
        println!("without half of {WORKERS_MAX} listeners: {half:?}");
        assert_eq!(
            (half[&first], half[&first] + half[&further] + half.get(&held).unwrap_or(&0)),
            (512, 1024)
        );
        // All but one, and the holding listener: it is found by those who look on from where it is near.
        shut(&fixture, 513..=1_023);
        let alone = fixture.compare(|slot| slot > 1_023);
        println!("without all but one: {alone:?}");
        assert_eq!((alone[&first], alone.values().sum::<u64>()), (1, 1024));
        assert!((1..=6 * u64::from(SCAN_MAX)).contains(&alone[&further]) && alone[&held] > 512, "{alone:?}");
        fixture.publisher.publish(&layout()).expect("a table can be published");
        let one_more = TcpStream::connect(SERVER);
        assert!(one_more.is_ok(), "{one_more:?}");
    });
}
