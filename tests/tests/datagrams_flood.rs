//! A million flows that are made up, and 500 that are not: the flood costs the established ones nothing, through a deadline and
//! through a drain.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use steer_tests::{
    datagrams::{Flows, Habit, Owner},
    netns,
    receipts::{group_of, receipt_of},
    spoofed,
    steer::Steer,
    wait,
};

const SOON: Duration = Duration::from_secs(60);
const SPOOFED: u32 = 1_000_000;
/// Of these, how many come while a generation drains, at least.
const DURING: u32 = 300_000;
/// Far fewer than the flood has at once: all sets are full of it, all the time. At each address.
const ROOM: u64 = 4_096;
const ARGUMENTS: [&str; 14] = [
    "--listen",
    "udp://0.0.0.0:8053",
    "--listen",
    "udp://[::1]:8055",
    "--workers",
    "4",
    "--flows",
    "4096",
    "--flow-idle",
    "300ms",
    "--settle",
    "0ms",
    "--stop-timeout",
    "1s",
];

fn targets() -> Vec<SocketAddr> {
    let several = ["127.0.0.1:8053", "127.0.0.2:8053", "127.0.0.3:8053", "127.0.0.4:8053", "[::1]:8055"];
    several.map(|target| target.parse().expect("an address")).to_vec()
}

/// Where the flood goes, a half each.
fn flooded() -> [SocketAddr; 2] {
    ["127.0.0.1:8053", "[::1]:8055"].map(|target| target.parse().expect("an address"))
}

fn of_worker(owners: &BTreeMap<SocketAddr, Owner>, worker: &str) -> u64 {
    owners.values().filter(|owner| owner.worker == worker).count() as u64
}

#[test]
fn a_flood_of_a_million_spoofed_flows_moves_no_established_one() {
    netns::run("flows-flood", |namespace| {
        let steer = Steer::run(namespace, &ARGUMENTS);
        let flows =
            Flows::start(&targets(), 100, Habit { length: None, size: 60, idle: Duration::from_millis(300) });
        flows.more(1);
        let before = flows.owners();
        let cut = of_worker(&before, "web/1");
        let (sent, began) = (AtomicU32::new(0), Instant::now());
        let until_sent = |part: u32| {
            wait::until("the flood goes on", SOON * 5, || match sent.load(Relaxed) {
                sent if sent >= part => Ok(()),
                sent => Err(format!("{sent} of {part}")),
            });
        };
        let (deadline, receipt) = thread::scope(|scope| {
            let flood = scope.spawn(|| {
                namespace
                    .inside(|| spoofed::flood(&flooded(), SPOOFED, |number| sent.store(number, Relaxed)));
            });
            until_sent(SPOOFED / 10);
            assert_eq!(flows.tally().astray, 0);
            let deadline =
                receipt_of(&steer.command(["restart", "web/1", "--timeout", "1s", "--json"]).exited(6));
            flows.more(2);
            let tally = flows.tally();
            assert_eq!(tally.astray + tally.late, cut, "what the receipt says, and nothing else: {tally:?}");
            // This one has all the time that it wants, and its flows stay with it for as long as they go on.
            let restart = scope.spawn(|| steer.command(["restart", "web/0", "--timeout", "110s", "--json"]));
            steer.until("the new generation works", SOON, |status| {
                let worker = &status.groups[0].workers[0];
                worker.generation == 2 && worker.state == "working"
            });
            // To the end of the flood, unless that would take longer than a command may.
            until_sent(SPOOFED.min(sent.load(Relaxed) + DURING));
            flows.more(2);
            let owners = flows.owners();
            let (stayed, moved): (Vec<_>, Vec<_>) =
                before.iter().partition(|(flow, owner)| owners[*flow] == **owner);
            assert!(moved.iter().all(|(_, owner)| owner.worker == "web/1"), "{moved:?}");
            assert_eq!(stayed.len() as u64 + cut, before.len() as u64);
            let receivers = flooded().into_iter().flat_map(spoofed::receivers);
            let dropped: u64 = receivers.map(|receiver| receiver.dropped).sum();
            let tally = flows.end();
            println!(
                "spoofed: {} of {SPOOFED} in {:.0?}, dropped for want of room: {dropped}, established: {}, of the one that was cut: {cut}, \
                 {tally:?}",
                sent.load(Relaxed),
                began.elapsed(),
                before.len()
            );
            assert_eq!((tally.astray + tally.late, tally.lost, tally.refused, dropped), (cut, 0, 0, 0));
            let receipt = receipt_of(&restart.join().expect("the command ends").succeeded());
            flood.join().expect("the flood comes to its end");
            println!("the flood: {:.0?}", began.elapsed());
            (deadline, receipt)
        });
        let group = group_of(&steer);
        let events = group.counters.flows;
        println!(
            "cut: {:?}, unread {}; drained: {:?}; {events:?}, {:?}",
            deadline.flows, deadline.datagrams, receipt.flows, group.counters.outcome
        );
        assert_eq!(
            (deadline.outcome.as_str(), deadline.flows.ended, deadline.datagrams),
            ("deadline", cut, 0)
        );
        assert_eq!((receipt.outcome.as_str(), receipt.flows.ended, receipt.datagrams), ("drained", 0, 0));
        assert!(receipt.flows.began >= of_worker(&before, "web/0"));
        // Each spoofed flow is remembered, in another's place where there is no room, or is not.
        assert!(events.remembered + events.not_remembered >= u64::from(SPOOFED));
        assert!(events.forgotten > u64::from(SPOOFED) / 2 && ROOM < u64::from(SPOOFED), "{events:?}");
    });
}
