//! New UDP flows after a generation's first instant: none to it, whatever becomes of its successor and however many there were.
//!
//! No clock decides what is after: a first datagram counts against a generation if, before it was sent, a later generation of the
//! worker had answered one or was seen to work.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use rustix::process::Signal;
use server_common::limits::SLOTS_DEFAULT;
use steer::control::api::{Status, WorkerStatus};
use steer_tests::{
    control::{Control, assert_drained},
    crowd::{Crowd, CrowdTally, Habits, IN_FLIGHT},
    netns, process,
    receipts::{group_of, until_event},
    steer::Steer,
};

const SOON: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_millis(300);

fn arguments(workers: &str) -> Vec<&str> {
    let listen = ["--listen", "udp://0.0.0.0:8053", "--listen", "udp://[::]:8055"];
    let rest = ["--workers", workers, "--flow-idle", "300ms", "--stop-timeout", "1s"];
    listen.into_iter().chain(rest).collect()
}

fn targets() -> Vec<SocketAddr> {
    let several = ["127.0.0.1:8053", "127.0.0.2:8053", "[::1]:8055", "127.0.0.3:8055"];
    several.map(|target| target.parse().expect("an address")).to_vec()
}

fn first(status: &Status) -> &WorkerStatus {
    &status.groups[0].workers[0]
}

#[track_caller]
fn assert_none_astray(tally: &CrowdTally) {
    assert_eq!((tally.stale, tally.astray, tally.lost), (0, 0, 0), "{tally:?}");
}

/// Slots are given out in turn: hands workers over, without flows, until those come next that were used before.
fn to_the_last_slots(steer: &Steer<'_>) {
    let last = SLOTS_DEFAULT - 40;
    thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                let control = Control::new(&steer.socket());
                while control.status().workers[worker as usize].slot.is_none_or(|slot| slot < last) {
                    control.restart(worker);
                }
            });
        }
    });
}

#[test]
fn no_new_flow_goes_to_any_of_a_hundred_generations_that_drain() {
    netns::run("flows-generations", |namespace| {
        let steer = Steer::run(namespace, &arguments("4"));
        to_the_last_slots(&steer);
        let crowd = Crowd::start(&targets(), Habits { flows: 400, length: Some(40), idle: IDLE });
        let control = Control::new(&steer.socket());
        let before = control.status().workers[0].generation;
        let (mut slots, mut flows) = (BTreeSet::new(), 0);
        for generation in before..before + 100 {
            let receipt = control.restart(0);
            assert_eq!((receipt.generation, receipt.successor), (generation, Some(generation + 1)));
            assert_drained(&receipt);
            assert_eq!((receipt.flows.ended, receipt.datagrams), (0, 0), "{receipt:?}");
            crowd.works(0, generation + 1);
            flows += receipt.flows.began;
            slots.extend(control.status().workers[0].slot);
        }
        crowd.more(2);
        let group = group_of(&steer);
        let tally = crowd.end();
        println!(
            "generations: {before} to {}, slots: {:?} to {:?}, flows at the begin of their drains: {flows}, {tally:?}",
            group.workers[0].generation,
            slots.first(),
            slots.last()
        );
        assert_none_astray(&tally);
        assert_eq!((tally.unopened, tally.refused, tally.orphaned), (0, 0, 0), "{tally:?}");
        assert!(slots.range(..100).next().is_some() && slots.range(400..).next().is_some(), "{slots:?}");
        assert!(flows > 1_000 && tally.flows > 10_000, "{flows}, {tally:?}");
    });
}

/// Kills each new generation as soon as it works, while the old one drains.
fn successors_die(name: &str, workers: &str, rounds: u64) {
    netns::run(name, |namespace| {
        let steer = Steer::run(namespace, &arguments(workers));
        // Long enough for the old generation to have flows until well after its successor's end.
        let crowd = Crowd::start(&targets(), Habits { flows: 400, length: Some(150), idle: IDLE });
        let mut during = 0;
        for _ in 0..rounds {
            let status = steer.until("the worker works", SOON, |status| first(status).state == "working");
            let generation = first(&status).generation;
            crowd.works(0, generation);
            thread::scope(|scope| {
                // It may fail: what it has started was lost.
                let restart = scope.spawn(|| steer.command(["restart", "web/0", "--json"]));
                let status = steer.until("the new generation works", SOON, |status| {
                    first(status).generation > generation && first(status).state == "working"
                });
                crowd.works(0, first(&status).generation);
                let victim = first(&status).pid.expect("it works");
                crowd.is_to_be_killed(victim);
                process::signal(victim, Signal::KILL);
                let before = crowd.tally().flows;
                let status = steer.until("another works", SOON, |status| {
                    first(status).state == "working" && first(status).pid != Some(victim)
                });
                during += crowd.tally().flows - before;
                crowd.works(0, first(&status).generation);
                restart.join().expect("the command ends");
            });
            until_event(&steer, "drained", "web/0", generation);
        }
        crowd.more(1);
        let generation = group_of(&steer).workers[0].generation;
        let tally = crowd.end();
        println!(
            "killed: {rounds}, now: generation {generation}, flows that began while none worked: {during}, {tally:?}"
        );
        assert_none_astray(&tally);
        assert!(tally.orphaned > 0 && generation > 2 * rounds, "{tally:?}");
        // What a killed process had not read is lost with it, and whoever waits for an answer sends nothing meanwhile.
        let most = rounds * IN_FLIGHT as u64;
        assert!(tally.unopened <= most && tally.refused <= most, "{tally:?}");
    });
}

#[test]
fn a_draining_generation_gets_no_new_flow_when_its_successor_dies() {
    successors_die("flows-successor", "3", 8);
}
