//! UDP: a flow stays with its worker's process through restarts, scales and the daemon's death, and new flows go to the new one.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use rustix::process::Signal;
use steer_tests::{
    control::Control,
    datagrams::{FlowTally, Flows, Habit},
    netns, process,
    receipts::{check_sums, group_of, receipt_of, receipts_of, until_event},
    steer::{Steer, binary},
    succession::die_amid_a_drain,
};

const SOON: Duration = Duration::from_secs(60);
const PORT: u16 = 8053;
/// As `arguments` says it.
const IDLE: Duration = Duration::from_millis(300);
/// Wildcards and addresses of their own, both families.
const LISTEN: [&str; 3] = ["udp://0.0.0.0:8053", "udp://[::1]:8053", "udp://127.0.0.9:8054"];

fn targets() -> Vec<SocketAddr> {
    let several = ["127.0.0.1:8053", "127.0.0.2:8053", "[::1]:8053", "127.0.0.9:8054"];
    several.map(|target| target.parse().expect("an address")).to_vec()
}

fn arguments<'a>(workers: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let listen = LISTEN.iter().flat_map(|address| ["--listen", address]);
    let rest = ["--workers", workers, "--flow-idle", "300ms"];
    let stop: &[&str] = if more.contains(&"--stop-timeout") { &[] } else { &["--stop-timeout", "1s"] };
    listen.chain(rest).chain(stop.iter().chain(more).copied()).collect()
}

/// Long enough for several handovers, short enough for drains to end.
const LIVELY: Habit = Habit { length: Some(200), size: 60, idle: IDLE };
const ENDLESS: Habit = Habit { length: None, size: 60, idle: IDLE };

#[test]
fn established_flows_stay_with_their_process_through_handovers_and_scales() {
    netns::run("flows", |namespace| {
        let steer = Steer::run(namespace, &arguments("4", &[]));
        let flows = Flows::start(&targets(), 100, LIVELY);
        let mut receipts = receipts_of(&steer.command(["restart", "web", "--json"]).succeeded());
        for count in ["2", "4"] {
            receipts.extend(receipts_of(&steer.command(["scale", "web", count, "--json"]).succeeded()));
        }
        receipts.extend(receipts_of(&steer.command(["restart", "web", "--json"]).succeeded()));
        flows.more(2);
        let tally = flows.end();
        let began: u64 = receipts.iter().map(|receipt| receipt.flows.began).sum();
        println!("drains: {}, flows at their begin: {began}, {tally:?}", receipts.len());
        assert_eq!(receipts.len(), 10);
        for receipt in &receipts {
            assert_eq!((receipt.outcome.as_str(), receipt.flows.ended, receipt.datagrams), ("drained", 0, 0));
        }
        assert!(began > 100, "drains had flows to wait for");
        assert_eq!((tally.astray, tally.lost, tally.refused), (0, 0, 0));
        let group = group_of(&steer);
        check_sums(&group.counters);
        assert!(group.counters.outcome.kept > tally.datagrams / 2, "{:?}", group.counters);
    });
}

#[test]
fn what_is_left_at_a_deadline_goes_by_the_table_and_the_receipt_says_how_much() {
    netns::run("flows-cut", |namespace| {
        // Long enough for the daemon to look twice whether anybody has undone anything of its own.
        let sample = binary();
        let ignoring = [
            "--stop-timeout",
            "3s",
            "--ready",
            "notify",
            "--",
            &*sample.to_string_lossy(),
            "worker",
            "--ignore-term",
        ];
        let steer = Steer::run(namespace, &arguments("2", &ignoring));
        let flows = Flows::start(&targets(), 50, ENDLESS);
        let of_worker = flows.owners().values().filter(|owner| owner.worker == "web/0").count() as u64;
        let receipt = receipt_of(&steer.command(["restart", "web/0", "--timeout", "1s", "--json"]).exited(6));
        flows.more(2);
        let owners = flows.owners();
        let tally = flows.end();
        println!("of the worker: {of_worker}, {:?}, {tally:?}", receipt.flows);
        assert_eq!((receipt.flows.began, receipt.flows.ended), (of_worker, of_worker));
        // Each has come to a process that did not know it, once; the others have not.
        assert_eq!((tally.astray + tally.late, tally.lost, tally.refused), (of_worker, 0, 0));
        let generations: BTreeSet<_> =
            owners.values().map(|owner| (owner.worker.as_str(), owner.generation)).collect();
        assert_eq!(generations, BTreeSet::from([("web/0", 2), ("web/1", 1)]));
        let mended = Control::new(&steer.socket()).events("mended");
        assert!(mended.is_empty(), "what it has cleared itself stays so: {mended:?}");
    });
}

#[test]
fn flows_of_a_killed_worker_go_to_one_other_each_and_stay_there() {
    netns::run("flows-killed", |namespace| {
        let steer = Steer::run(namespace, &arguments("4", &[]));
        let flows = Flows::start(&targets(), 50, ENDLESS);
        let before = flows.owners();
        let victim = group_of(&steer).workers[1].pid.expect("it works");
        process::signal(victim, Signal::KILL);
        flows.more(3);
        let moved = flows.owners();
        // It is back, and what has moved stays where it is.
        steer.until("another process works", SOON, |status| {
            let worker = &status.groups[0].workers[1];
            worker.state == "working" && worker.pid != Some(victim)
        });
        flows.more(5);
        let after = flows.owners();
        let tally = flows.end();
        let orphans = before.values().filter(|owner| owner.pid == victim).count() as u64;
        println!("flows of the killed: {orphans}, {tally:?}");
        assert!(orphans > 20);
        assert!(before.iter().all(|(flow, owner)| owner.pid == victim || after[flow] == *owner));
        assert_eq!(moved, after);
        // A datagram that the killed process had received and not answered is lost with it.
        assert!(tally.lost <= targets().len() as u64 && tally.refused == 0, "{tally:?}");
        assert_eq!(tally.astray + tally.late, orphans);
    });
}

#[test]
fn the_daemon_is_not_in_the_way_of_a_flow() {
    netns::run("flows-daemon", |namespace| {
        let addresses: Vec<String> = LISTEN.iter().map(|address| format!("\"{address}\"")).collect();
        let configured = format!(
            "[[group]]\nname = \"web\"\nlisten = [{}]\n[group.workers]\ncount = 3\n[group.flows]\nidle = \"300ms\"\n",
            addresses.join(", ")
        );
        let mut steer = Steer::configured(namespace, &configured);
        let flows = Flows::start(&targets(), 60, LIVELY);
        for _ in 0..3 {
            let generation = die_amid_a_drain(&mut steer, "web", |times| flows.more(times));
            // The restart goes on, to its end.
            until_event(&steer, "drained", "web/2", generation);
        }
        flows.more(2);
        let tally = flows.end();
        println!("the daemon was killed 3 times: {tally:?}");
        assert_eq!((tally.astray, tally.lost, tally.refused), (0, 0, 0));
        steer.stop(SOON);
    });
}

#[test]
fn large_datagrams_arrive_whole_and_in_pieces() {
    netns::run("flows-large", |namespace| {
        namespace.execute("ip", &["link", "set", "lo", "mtu", "1500"]);
        let steer = Steer::run(namespace, &arguments("3", &[]));
        // Two in flight: a socket has room for that many and no more.
        let flows = Flows::start(&targets()[1..3], 8, Habit { length: Some(40), size: 60_000, idle: IDLE });
        let receipts = receipts_of(&steer.command(["restart", "web", "--json"]).succeeded());
        let tally: FlowTally = flows.end();
        println!("60,000 bytes in pieces of 1,500: {tally:?}");
        assert_eq!(receipts.len(), 3);
        assert!(tally.datagrams > 200 && (tally.astray, tally.lost, tally.refused) == (0, 0, 0), "{tally:?}");
        assert_eq!(targets()[0].port(), PORT);
    });
}
