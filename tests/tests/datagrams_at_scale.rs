//! Ten thousand UDP flows at the machine's rate, through handovers of all workers at once, scales and the daemon's death.

use std::{
    env,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use steer::control::api::Receipt;
use steer_tests::{
    control::{Control, assert_drained},
    crowd::{Crowd, Habits},
    netns,
    receipts::{group_of, udp_counters, until_event},
    steer::Steer,
    succession::die_amid_a_drain,
};

const SOON: Duration = Duration::from_secs(60);

/// How long handovers go on in an ordinary run; `STEER_TEST_HANDOVERS` asks for a number of them instead.
const HANDOVERS_FOR: Duration = Duration::from_secs(60);

fn wanted_handovers() -> Option<u64> {
    env::var("STEER_TEST_HANDOVERS").ok().and_then(|handovers| handovers.parse().ok())
}

const WORKERS: u32 = 8;
const FLOWS: usize = 10_000;
/// What the clients need for all flows in turn, several times over.
const IDLE: Duration = Duration::from_secs(1);
/// A few seconds of a flow.
const LENGTH: u32 = 12;

/// Wildcards of each family, the second of which takes both, and addresses of their own.
const LISTEN: [&str; 4] =
    ["udp://0.0.0.0:8053", "udp://[::]:8055", "udp://[::1]:8056", "udp://127.0.0.9:8054"];

fn targets() -> Vec<SocketAddr> {
    let several = [
        "127.0.0.1:8053",
        "127.0.0.2:8053",
        "127.0.0.3:8055",
        "[::1]:8055",
        "[fd00:57ee:7::2]:8055",
        "[::1]:8056",
        "127.0.0.9:8054",
    ];
    several.map(|target| target.parse().expect("an address")).to_vec()
}

fn configuration() -> String {
    // Room for eight times as many as there are at each address: that nine fall into one set is out of the question.
    format!(
        "[[group]]\nname = \"web\"\nlisten = {LISTEN:?}\n[group.workers]\ncount = {WORKERS}\n\
         [group.flows]\nmax = 131072\nidle = \"{}ms\"\n[group.deadlines]\ndrain = \"60s\"\n",
        IDLE.as_millis()
    )
}

/// Hands all workers over, all at the same time, again and again until it is over: so many in all, or for so long.
fn hand_over(steer: &Steer<'_>, count: Option<u64>, duration: Duration) -> Vec<Receipt> {
    let (taken, began) = (AtomicU64::new(0), Instant::now());
    let goes_on = || match count {
        Some(count) => taken.fetch_add(1, Relaxed) < count,
        None => began.elapsed() < duration,
    };
    let of_worker = |worker| {
        let control = Control::new(&steer.socket());
        std::iter::from_fn(|| goes_on().then(|| control.restart(worker))).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let lanes = (0..WORKERS).map(|worker| scope.spawn(move || of_worker(worker)));
        let lanes: Vec<_> = lanes.collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("handovers succeed")).collect()
    })
}

#[test]
fn no_flow_of_ten_thousand_goes_astray_through_handovers_scales_and_the_daemons_death() {
    netns::run("flows-scale", |namespace| {
        let mut steer = Steer::configured(namespace, &configuration());
        let crowd = Crowd::start(&targets(), Habits { flows: FLOWS, length: Some(LENGTH), idle: IDLE });
        let began = Instant::now();
        let half = wanted_handovers().map(|handovers| handovers / 2);
        let mut receipts = hand_over(&steer, half, HANDOVERS_FOR / 2);
        let control = Control::new(&steer.socket());
        let down = control.scale(2);
        assert_eq!(down.len(), 6);
        control.scale(WORKERS);
        let generation = die_amid_a_drain(&mut steer, "web/0", |times| crowd.more(times));
        let drained = until_event(&steer, "drained", "web/0", generation);
        assert!(drained.detail.contains("nothing is left"), "{drained:?}");
        let rest = wanted_handovers().map(|handovers| handovers - receipts.len() as u64);
        receipts.extend(hand_over(&steer, rest, HANDOVERS_FOR / 2));
        crowd.more(2);
        let (took, group) = (began.elapsed(), group_of(&steer));
        let tally = crowd.end();
        println!("{}", udp_counters());
        let flows: u64 = receipts.iter().map(|receipt| receipt.flows.began).sum();
        let rate = tally.datagrams as f64 / took.as_secs_f64();
        println!(
            "flows at once: {FLOWS}, handovers: {} in {took:.0?}, flows at the begin of their drains: {flows}, {rate:.0} datagrams a \
             second, {tally:?}, {:?}, {:?}",
            receipts.len(),
            group.counters.outcome,
            group.counters.flows
        );
        for receipt in receipts.iter().chain(&down) {
            assert_drained(receipt);
            assert_eq!((receipt.flows.ended, receipt.datagrams), (0, 0), "{receipt:?}");
        }
        assert_eq!((tally.astray, tally.stale, tally.orphaned), (0, 0, 0));
        assert_eq!((tally.lost, tally.unopened, tally.refused), (0, 0, 0));
        assert!(receipts.len() >= wanted_handovers().unwrap_or(u64::from(WORKERS)) as usize);
        assert!(flows > receipts.len() as u64 * 100, "drains had flows to wait for");
        assert!(
            tally.flows > 2 * FLOWS as u64 && tally.late < tally.flows / 4,
            "the clients had time for them"
        );
        assert!(group.counters.outcome.kept > tally.datagrams / 2);
        steer.stop(SOON);
    });
}
