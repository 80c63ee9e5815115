//! Policies and weights, changed live: nothing is lost, everything is counted, and a 4-tuple moves when the dry run says so.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use steer::{
    control::api::{Change, Placed},
    load::{FourTuple, Plan, Running, Tally, four_tuples},
};
use steer_tests::{
    control::{Control, assert_counted_once, selected},
    footprint::Footprint,
    load::{assert_nothing_lost, visit},
    netns,
    steer::{Steer, binary},
};

const LISTEN: &str = "127.0.0.1:8080";
const SEED: &str = "5eed0000000000000000000000000031";
/// Long enough for the kernel to send a lost segment again a few times.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Clients of two /24 networks and of one NAT address, on loopback.
fn pool() -> Vec<FourTuple> {
    let address = |network: u8, host: u8| IpAddr::from([127, 3, network, host]);
    let clients: Vec<IpAddr> = (1..=16).flat_map(|host| [address(1, host), address(2, host)]).collect();
    let target: SocketAddr = LISTEN.parse().expect("an address");
    let mut pool = four_tuples(&clients, 20_000..20_012, &[target]);
    pool.extend(four_tuples(&[address(3, 1)], 20_000..20_128, &[target]));
    pool
}

/// Who answers each 4-tuple, one connection each.
fn observe(pool: &[FourTuple]) -> BTreeMap<SocketAddr, String> {
    // One worker at a time is found by visiting alone: the answers of a visit are told apart by worker only.
    pool.iter().map(|tuple| (tuple.client, only_worker(&visit(&[*tuple], 1)))).collect()
}

fn only_worker(tally: &Tally) -> String {
    assert_nothing_lost(tally);
    let mut workers = tally.by_worker.keys();
    let worker = workers.next().expect("somebody answered").clone();
    assert_eq!(workers.next(), None, "one connection is answered once");
    worker
}

/// Whether the answer is what was said: the one worker, or one of those that load or CPU may choose.
fn is_as_said(said: &Placed, worker: &str) -> bool {
    said.worker.iter().chain(&said.others).any(|name| name.to_string() == worker)
}

#[test]
fn a_four_tuple_changes_its_worker_only_when_the_dry_run_says_so() {
    netns::run("dry-run", |namespace| {
        // Workers that do not beat: on a busy machine one that does can miss its beats, and lose a flow for it that the table gives
        // to it.
        let worker = binary().display().to_string();
        let arguments = ["--listen", LISTEN, "--workers", "4", "--seed", SEED, "--ready", "notify", "--"];
        let steer = Steer::run(namespace, &[&arguments[..], &[&worker, "worker", "--silent"]].concat());
        let control = Control::new(&steer.socket());
        let pool = pool();
        let clients: Vec<SocketAddr> = pool.iter().map(|tuple| tuple.client).collect();
        let mut now = observe(&pool);
        let policy = |policy: &'static str| {
            move |dry_run, clients: &[SocketAddr], control: &Control| control.policy(policy, dry_run, clients)
        };
        let weight = |worker: u32, weight: u32| {
            move |dry_run, clients: &[SocketAddr], control: &Control| {
                control.weight(worker, weight, dry_run, clients)
            }
        };
        type Step = Box<dyn Fn(bool, &[SocketAddr], &Control) -> Change>;
        let steps: Vec<(&str, Step)> = vec![
            ("weight 3", Box::new(weight(1, 3))),
            ("source", Box::new(policy("source"))),
            ("source by /24", Box::new(policy("source:ipv4=24,ipv6=64"))),
            ("weight 0", Box::new(weight(2, 0))),
            ("hash", Box::new(policy("hash"))),
            ("weight 5", Box::new(weight(2, 5))),
            ("least-loaded", Box::new(policy("least-loaded"))),
            ("cpu, with nobody pinned", Box::new(policy("cpu"))),
            ("weight 1", Box::new(weight(2, 1))),
        ];
        for (what, step) in steps {
            let said = step(true, &clients, &control);
            assert!(!said.applied && said.clients.len() == clients.len(), "{what}: {said:?}");
            assert_eq!(observe(&pool), now, "{what}: the dry run changed nothing");
            let done = step(false, &clients, &control);
            assert!(done.applied, "{what}");
            assert_eq!(
                (done.moved_buckets, &done.shares, &done.clients),
                (said.moved_buckets, &said.shares, &said.clients),
                "{what}: what is done is what was said"
            );
            let after = observe(&pool);
            let mut moved = 0;
            for client in &said.clients {
                let (was, is) = (&now[&client.client], &after[&client.client]);
                assert!(is_as_said(&client.before, was), "{what}: {was} before, said: {client:?}");
                assert!(is_as_said(&client.after, is), "{what}: {is} after, said: {client:?}");
                moved += usize::from(was != is);
            }
            // What the whole table says of all flows, these flows say too.
            let expected = said.moved_share * pool.len() as f64;
            println!(
                "{what}: {moved} of {} 4-tuples moved, {:.1} by the table's share; {} buckets of 65536",
                pool.len(),
                expected,
                said.moved_buckets
            );
            if said.moved_share == 0.0 {
                assert_eq!(moved, 0, "{what}");
            }
            let table = control.table();
            for (share, told) in table.shares.iter().zip(&done.shares) {
                assert_eq!((share.buckets, share.weight), (told.buckets_after, told.weight_after), "{what}");
            }
            now = after;
        }
        assert_counted_once(&control.status());
    });
}

#[test]
fn clients_of_one_network_stay_together() {
    netns::run("source", |namespace| {
        let arguments =
            ["--listen", LISTEN, "--workers", "8", "--seed", SEED, "--policy", "source:ipv4=24,ipv6=64"];
        let steer = Steer::run(namespace, &arguments);
        let workers_of = |network: u8| {
            let clients: Vec<IpAddr> = (1..=32).map(|host| IpAddr::from([127, 4, network, host])).collect();
            let target = LISTEN.parse().expect("an address");
            let tally = visit(&four_tuples(&clients, 20_000..20_002, &[target]), 16);
            only_worker(&tally)
        };
        let by_network: Vec<String> = (0..24).map(workers_of).collect();
        let mut distinct = by_network.clone();
        distinct.sort();
        distinct.dedup();
        println!("24 networks of 64 4-tuples each are at {} workers", distinct.len());
        // 24 balls into 8 boxes: fewer than 4 would be a chance below one in a billion.
        assert!(distinct.len() >= 4, "{by_network:?}");
        assert_counted_once(&Control::new(&steer.socket()).status());
    });
}

#[test]
fn changes_ten_times_a_second_lose_nothing_and_every_connection_is_counted_once() {
    const CHANGES: u32 = 120;
    const POLICIES: [&str; 5] = ["hash", "source", "least-loaded", "source:ipv4=16,ipv6=48", "cpu"];
    netns::run("flips", |namespace| {
        let steer = Steer::run(namespace, &["--listen", LISTEN, "--workers", "4", "--seed", SEED]);
        let control = Control::new(&steer.socket());
        let clients: Vec<IpAddr> = (1..=64).map(|host| IpAddr::from([127, 5, 0, host])).collect();
        let tuples = four_tuples(&clients, 20_000..20_200, &[LISTEN.parse().expect("an address")]);
        let plan = Plan { concurrency: 32, timeout: TIMEOUT, ..Plan::new(tuples) };
        let load = Running::start(plan.split(2)).expect("load threads can be started");
        let began = Instant::now();
        for change in 0..CHANGES {
            let at = Duration::from_millis(100) * change;
            // The pace of the changes, not a wait for anything.
            std::thread::sleep(at.saturating_sub(began.elapsed()));
            let applied = match change % 3 {
                0 => control.weight(change % 4, change * 7 % 10, false, &[]),
                _ => control.policy(POLICIES[change as usize % POLICIES.len()], false, &[]),
            };
            assert!(applied.applied);
        }
        load.probe().stop();
        let tally = load.join().expect("the load runs");
        let status = control.status();
        println!(
            "changes: {CHANGES}, connections: {}, failed: {}, SYNs: {}, sent again: {}, outcomes: {:?}",
            tally.connections,
            tally.failed,
            status.counters.asked.connection,
            namespace_counter("TCPSynRetrans"),
            status.counters.outcome,
        );
        assert_eq!(tally.failed, 0, "{:#?}", tally.first_failures);
        assert!(tally.connections > 10_000, "at full rate: {}", tally.connections);
        assert_counted_once(&status);
        let sent = tally.connections + namespace_counter("TCPSynRetrans");
        assert_eq!(status.counters.asked.connection, sent, "each SYN is counted once");
        assert_eq!(selected(&status), sent);
        assert!(status.counters.outcome.held == 0 && status.epoch > u64::from(CHANGES), "{status:?}");
    });
}

#[test]
fn five_hundred_changes_of_policy_leave_nothing_behind() {
    // The benchmark `policy` makes 4,096: each ends with a grace period of the kernel's, and a minute is long for a test.
    const CHANGES: usize = 512;
    const POLICIES: [&str; 4] = ["source", "least-loaded", "hash", "cpu"];
    netns::run("leave-nothing", |namespace| {
        let steer = Steer::run(namespace, &["--listen", LISTEN, "--workers", "4", "--seed", SEED]);
        let control = Control::new(&steer.socket());
        let change = |number: usize| assert!(control.policy(POLICIES[number % 4], false, &[]).applied);
        (0..128).for_each(change);
        let (before, epoch) = (Footprint::settled(steer.pid()), control.status().epoch);
        (0..CHANGES).for_each(change);
        let (after, status) = (Footprint::settled(steer.pid()), control.status());
        println!("changes: {CHANGES}, before: {before:?}, after: {after:?}");
        assert_eq!(after.counts(), before.counts(), "descriptors, maps and programs");
        assert!(after.resident <= before.resident + 1_024, "{before:?}, then {after:?}");
        assert!(status.epoch >= epoch + CHANGES as u64, "each was published: {epoch}, then {}", status.epoch);
        assert_counted_once(&status);
    });
}

/// A counter of this thread's network namespace, of `TcpExt`.
fn namespace_counter(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").expect("the kernel counts");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let of = names.split(' ').zip(values.split(' ')).find(|(of, _)| *of == name);
    of.and_then(|(_, value)| value.parse().ok()).unwrap_or_else(|| panic!("there is no counter {name}"))
}
