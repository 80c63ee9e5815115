//! A canary: a new generation that is tried with a part of its worker's buckets, and goes back or takes over.

use std::{net::SocketAddr, thread, time::Duration};

use rustix::process::Signal;
use steer::{
    control::api::{Canary, CanaryStatus, Decision, Receipt, Request, Response},
    load::{FourTuple, Tally},
};
use steer_tests::{
    control::{Control, assert_counted_once, assert_drained, group},
    load::{Prediction, assert_nothing_lost, pool, visit},
    netns, process,
    steer::Steer,
    traffic::Traffic,
};

const LISTEN: &str = "127.0.0.1:8080";
const SEED: &str = "5eed0000000000000000000000000032";
const SOON: Duration = Duration::from_secs(30);

fn target() -> SocketAddr {
    LISTEN.parse().expect("an address")
}

fn start<'a>(namespace: &'a netns::Namespace, workers: &str, more: &[&str]) -> Steer<'a> {
    let arguments = ["--listen", LISTEN, "--workers", workers, "--seed", SEED];
    Steer::run(namespace, &[&arguments, more].concat())
}

/// 4-tuples to the one address.
fn tuples() -> Vec<FourTuple> {
    pool(64, 16).into_iter().filter(|tuple| tuple.target == target()).collect()
}

/// How many answers came from a generation of a worker.
fn answers_of(tally: &Tally, worker: &str, generation: u64) -> u64 {
    let of = tally.by_responder.iter().filter(|(responder, _)| {
        responder.worker == worker && responder.generation == generation.to_string()
    });
    of.map(|(_, count)| count).sum()
}

/// Starts a restart with a canary in a thread of its own; its receipts, or why it ended.
fn try_canary(
    steer: &Steer<'_>,
    worker: u32,
    hold: Option<Duration>,
) -> thread::JoinHandle<Result<Vec<Receipt>, String>> {
    let socket = steer.socket();
    let canary = Canary { permille: 250, hold_ms: hold.map(|hold| hold.as_millis() as u64) };
    thread::spawn(move || {
        let request =
            Request::Restart { group: group(), worker: Some(worker), timeout_ms: None, canary: Some(canary) };
        let (last, before) = Control::new(&socket).ask(request).map_err(|error| error.to_string())?;
        let receipt = |answer| if let Response::Receipt(receipt) = answer { Some(receipt) } else { None };
        Ok(before.into_iter().chain([last]).filter_map(receipt).collect())
    })
}

/// Waits until the canary has its buckets.
fn until_tried(steer: &Steer<'_>, worker: usize) -> CanaryStatus {
    let mut found = None;
    steer.until("the canary has its part", SOON, |status| {
        found =
            status.groups[0].workers[worker].canary.clone().filter(|canary| canary.remaining_ms.is_some());
        found.is_some()
    });
    found.expect("it was just seen")
}

#[test]
fn a_canary_has_its_part_and_goes_back_or_takes_over() {
    netns::run("canary", |namespace| {
        let steer = start(namespace, "3", &[]);
        let control = Control::new(&steer.socket());
        let own = Prediction::new(SEED, &[0, 1, 2]).of(1, &tuples());
        let traffic = Traffic::start(&[target()]);
        let hour = Some(Duration::from_secs(3_600));

        let restart = try_canary(&steer, 1, hour);
        let canary = until_tried(&steer, 1);
        let share = control.table().shares[1].share;
        assert!((canary.share / share - 0.25).abs() < 0.001, "{canary:?} of {share}");
        let tally = visit(&own, 16);
        assert_nothing_lost(&tally);
        let (old, new) = (answers_of(&tally, "web/1", 1), answers_of(&tally, "web/1", 2));
        assert_eq!(old + new, own.len() as u64, "{:?}", tally.by_responder);
        let expected = own.len() as f64 / 4.0;
        let deviation = (expected * 0.75).sqrt();
        println!("of {} 4-tuples of web/1 the canary has {new}, {expected} expected", own.len());
        assert!((new as f64 - expected).abs() < 4.0 * deviation, "{new} of {}", own.len());
        let judged = until_tried(&steer, 1);
        assert!(judged.selected >= new, "its own counters: {judged:?}");

        // Back: the old generation has all again, and the new one is drained.
        control.decide(Decision::Abort);
        let aborted = restart.join().expect("the client does not panic").unwrap_err();
        assert!(aborted.contains("aborted"), "{aborted}");
        let tally = visit(&own, 16);
        assert_eq!(answers_of(&tally, "web/1", 1), own.len() as u64, "{:?}", tally.by_responder);
        assert!(control.events("drained").iter().any(|event| event.generation == Some(2)));

        // On: the next takes over when it is told to.
        let restart = try_canary(&steer, 1, hour);
        until_tried(&steer, 1);
        control.decide(Decision::Proceed);
        let receipts = restart.join().expect("the client does not panic").expect("it goes on");
        assert_eq!(receipts.len(), 1, "{receipts:?}");
        assert_drained(&receipts[0]);
        assert_eq!((receipts[0].generation, receipts[0].successor), (1, Some(3)));
        let tally = visit(&own, 16);
        assert_eq!(answers_of(&tally, "web/1", 3), own.len() as u64, "{:?}", tally.by_responder);

        // By itself, after its time.
        let receipts = try_canary(&steer, 1, Some(Duration::from_millis(300))).join();
        assert_eq!(receipts.expect("no panic").expect("it goes on")[0].successor, Some(4));
        let tally = traffic.end();
        assert_eq!((tally.failed, tally.moved), (0, 0), "of {} connections", tally.connections);
        assert_counted_once(&control.status());
    });
}

#[test]
fn a_canary_that_dies_gives_its_part_back_and_one_whose_elder_dies_takes_all() {
    netns::run("canary-dies", |namespace| {
        let steer = start(namespace, "2", &[]);
        let control = Control::new(&steer.socket());
        let own = Prediction::new(SEED, &[0, 1]).of(0, &tuples());
        let hour = Some(Duration::from_secs(3_600));

        let restart = try_canary(&steer, 0, hour);
        let canary = until_tried(&steer, 0);
        process::signal(canary.pid.expect("it runs"), Signal::KILL);
        let failed = restart.join().expect("the client does not panic").unwrap_err();
        println!("a dead canary: {failed}");
        steer.until("the old generation has all", SOON, |status| {
            let worker = &status.groups[0].workers[0];
            worker.canary.is_none() && worker.generation == 1
        });
        let tally = visit(&own, 16);
        assert_eq!(answers_of(&tally, "web/0", 1), own.len() as u64, "{:?}", tally.by_responder);

        let restart = try_canary(&steer, 0, hour);
        let canary = until_tried(&steer, 0);
        process::signal(control.status().workers[0].pid.expect("it runs"), Signal::KILL);
        let status = steer.until("the canary has taken over", SOON, |status| {
            let worker = &status.groups[0].workers[0];
            worker.state == "working" && worker.generation == canary.generation && worker.canary.is_none()
        });
        let ended = restart.join().expect("the client does not panic");
        println!("a dead elder: {ended:?}");
        let tally = visit(&own, 16);
        assert_eq!(
            answers_of(&tally, "web/0", canary.generation),
            own.len() as u64,
            "{:?}",
            tally.by_responder
        );
        assert_counted_once(&status.groups[0]);
    });
}
