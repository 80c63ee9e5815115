//! QUIC: connections of real clients to real servers live through handovers and scales, in the process that began them.

use std::{env, net::SocketAddr, time::Duration};

use steer::control::api::{Counters, Receipt};
use steer_tests::{
    netns,
    quic::{Connections, Habit, QuicTally},
    receipts::{group_of, receipts_of, until_event},
    steer::Steer,
    succession::die_amid_a_drain,
};

const SOON: Duration = Duration::from_secs(60);
const SERVER: &str = env!("CARGO_BIN_EXE_quic-echo-server");
const LISTEN: [&str; 2] = ["udp://127.0.0.1:8443", "udp://[::1]:8443"];

/// At any time in an ordinary run; `STEER_TEST_QUIC_CONNECTIONS` asks for more.
const CONNECTIONS: u64 = 200;
/// Handovers of a worker in an ordinary run; `STEER_TEST_QUIC_RESTARTS` asks for more.
const RESTARTS: u64 = 8;

/// All connections together, per second: what leaves two processors room for the handovers.
const STREAMS_PER_SECOND: u64 = 2_000;

fn wanted(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

fn targets() -> Vec<SocketAddr> {
    LISTEN.map(|address| address["udp://".len()..].parse().expect("an address")).to_vec()
}

/// The server as each worker. A drain ends when nothing has come of its flows for longer than any connection pauses.
fn arguments<'a>(workers: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let listen = LISTEN.iter().flat_map(|address| ["--listen", address]);
    let rest = ["--workers", workers, "--mode", "inherit", "--ready", "notify", "--drain-timeout", "60s"];
    listen.chain(rest).chain(more.iter().copied()).chain(["--", SERVER]).collect()
}

/// So many connections at once, each of which lives for a second or two.
fn habit(connections: u64) -> Habit {
    let pause =
        Duration::from_millis(1_000 * connections / STREAMS_PER_SECOND).max(Duration::from_millis(50));
    let streams = (1_500 / pause.as_millis()).max(4) as u32;
    Habit { streams: Some(streams), pause, size: 200, rebind_every: None }
}

fn start(connections: u64, habit: Habit) -> Connections {
    let targets = targets();
    Connections::start(&targets, connections as usize / targets.len(), habit)
}

/// Nothing was lost, and each connection was answered by one process.
#[track_caller]
fn assert_whole(tally: &QuicTally) {
    assert_eq!((tally.lost, tally.moved), (0, 0), "{tally:?}");
    assert_eq!(tally.established, tally.connections, "{tally:?}");
}

/// Each generation has ended by itself, with nothing left.
#[track_caller]
fn assert_drained(receipts: &[Receipt]) {
    for receipt in receipts {
        let Receipt { outcome, flows, datagrams, exit, .. } = receipt;
        let found = (outcome.as_str(), flows.ended, *datagrams, exit.as_deref());
        assert_eq!(found, ("drained", 0, 0, Some("exit 0")), "{receipt:?}");
    }
}

/// Restarts all four workers until there were so many handovers, with fewer workers and again four after the first time.
fn hand_over(steer: &Steer<'_>, restarts: u64) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    let mut handed_over = 0;
    while handed_over < restarts {
        let more = receipts_of(&steer.command(["restart", "web", "--json"]).succeeded());
        handed_over += more.len() as u64;
        receipts.extend(more);
        if handed_over == 4 {
            for count in ["2", "4"] {
                receipts.extend(receipts_of(&steer.command(["scale", "web", count, "--json"]).succeeded()));
            }
        }
    }
    receipts
}

#[test]
fn connections_stay_with_their_process_through_handovers_and_scales() {
    let connections = wanted("STEER_TEST_QUIC_CONNECTIONS", CONNECTIONS);
    let restarts = wanted("STEER_TEST_QUIC_RESTARTS", RESTARTS);
    netns::run("quic", |namespace| {
        let steer = Steer::run(namespace, &arguments("4", &["--flows", "65536", "--flow-idle", "2s"]));
        let running = start(connections, habit(connections));
        let receipts = hand_over(&steer, restarts);
        running.more(2);
        let tally = running.end();
        let began: u64 = receipts.iter().map(|receipt| receipt.flows.began).sum();
        println!("drains: {}, flows at their begin: {began}, {tally:?}", receipts.len());
        assert_whole(&tally);
        assert_drained(&receipts);
        // The two of the scale as well.
        assert!(receipts.len() as u64 >= restarts + 2);
        assert!(began > receipts.len() as u64 * connections / 16, "drains had connections to wait for");
        assert!(tally.connections > 2 * connections, "others have begun");
        assert!(group_of(&steer).counters.outcome.kept > 0);
    });
}

/// Flows are all that ties a connection to its worker here, and a client at another port is another flow. Shows too that a
/// connection that comes to the wrong process is seen as lost.
#[test]
fn a_client_that_changes_its_port_keeps_its_connection_only_where_no_other_worker_can_get_it() {
    let rebinding = Habit { streams: Some(12), rebind_every: Some(4), ..habit(CONNECTIONS) };
    netns::run("quic-rebinds", |namespace| {
        for (workers, is_kept) in [("1", true), ("4", false)] {
            let steer = Steer::run(namespace, &arguments(workers, &[]));
            let running = start(40, rebinding);
            running.more(16);
            let tally = running.end();
            println!("workers: {workers}, {tally:?}");
            assert!(tally.rebinds > 40, "{tally:?}");
            assert_eq!(tally.lost == 0, is_kept, "{tally:?}");
            assert_eq!(tally.moved, 0, "nobody else can answer");
            drop(steer);
        }
    });
}

#[test]
fn with_ids_that_tell_the_worker_a_client_keeps_its_connection_wherever_it_comes_from() {
    let connections = wanted("STEER_TEST_QUIC_CONNECTIONS", CONNECTIONS);
    let restarts = wanted("STEER_TEST_QUIC_RESTARTS", RESTARTS);
    netns::run("quic-cid", |namespace| {
        let steer = Steer::run(
            namespace,
            &arguments("4", &["--policy", "quic-cid:host=0a01", "--flows", "0", "--flow-idle", "2s"]),
        );
        let running = start(connections, Habit { rebind_every: Some(2), ..habit(connections) });
        let receipts = hand_over(&steer, restarts);
        running.more(2);
        let tally = running.end();
        println!("drains: {}, {tally:?}", receipts.len());
        assert_whole(&tally);
        assert_drained(&receipts);
        // With no flow remembered, the IDs alone have told the drains when they were over.
        assert!(receipts.iter().all(|receipt| receipt.flows.began == 0 && receipt.by_id.ended == 0));
        assert!(receipts.iter().any(|receipt| receipt.by_id.began > 0));
        let Counters { asked, outcome, ids, .. } = group_of(&steer).counters;
        println!("{outcome:?}, {ids:?}");
        assert_eq!(outcome.by_id + ids.opening + ids.gone + ids.unknown, asked.datagram);
        assert!(outcome.by_id > asked.datagram / 2 && ids.opening > 0, "{outcome:?}, {ids:?}");
        assert!(tally.rebinds > 2 * connections, "{tally:?}");
    });
}

#[test]
fn the_daemon_is_not_in_the_way_of_connections_by_id() {
    netns::run("quic-daemon", |namespace| {
        let configuration = format!(
            "[[group]]\nname = \"web\"\nlisten = {LISTEN:?}\npolicy = \"quic-cid\"\n[group.workers]\ncount = 3\ncommand = [{SERVER:?}]\n\
             ready = \"notify\"\n[group.flows]\nmax = 0\nidle = \"1s\"\n[group.deadlines]\ndrain = \"60s\"\n"
        );
        let mut steer = Steer::configured(namespace, &configuration);
        let running = start(100, Habit { rebind_every: Some(5), ..habit(100) });
        for _ in 0..2 {
            let generation = die_amid_a_drain(&mut steer, "web/0", |times| running.more(times));
            until_event(&steer, "drained", "web/0", generation);
        }
        running.more(2);
        let tally = running.end();
        println!("the daemon was killed twice: {tally:?}");
        assert_whole(&tally);
        assert!(group_of(&steer).counters.outcome.by_id > tally.streams);
        steer.stop(SOON);
    });
}
