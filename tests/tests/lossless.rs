//! No connection is lost, whatever the workers go through; of those that a killed process had accepted, see `killed.rs`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Instant,
};

use steer_tests::{
    control::{Control, assert_counted_once, assert_drained, selected},
    load::{Load, Prediction, arguments, assert_nothing_lost, pool},
    netns,
    steer::Steer,
};

const SEED: &str = "5eed0000000000000000000000000001";

#[test]
fn nothing_is_lost_through_a_thousand_handovers() {
    const WORKERS: u32 = 8;
    const HANDOVERS: u64 = 1_000;
    const CONNECTIONS: u64 = 500_000;
    netns::run("handovers", |namespace| {
        let steer = Steer::run(namespace, &arguments(&["--workers", &WORKERS.to_string()]));
        let began = Instant::now();
        let load = Load::start(pool(64, 32), 32);
        let handovers = AtomicU64::new(0);
        thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (socket, load, handovers) = (steer.socket(), &load, &handovers);
                scope.spawn(move || {
                    let control = Control::new(&socket);
                    // Both go on until both have enough, so that each handover is under load.
                    while (handovers.load(Relaxed) < HANDOVERS || load.connections() < CONNECTIONS)
                        && !load.is_finished()
                    {
                        assert_drained(&control.restart(worker));
                        handovers.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        let tally = load.end();
        let (handovers, took) = (handovers.into_inner(), began.elapsed());
        let status = Control::new(&steer.socket()).status();
        println!(
            "handovers: {handovers}, connections: {}, failed: {}, moved: {} of {}, processes that answered: {}, \
             SYNs: {}, migrated: {}, p99: {} us, took: {} s",
            tally.connections,
            tally.failed,
            tally.moved,
            tally.compared,
            tally.by_responder.len(),
            status.counters.asked.connection,
            status.counters.asked.migration,
            tally.p99_us(),
            took.as_secs(),
        );
        assert_nothing_lost(&tally);
        assert!(tally.connections >= CONNECTIONS && handovers >= HANDOVERS);
        assert!(tally.compared >= tally.connections / 2, "stickiness was watched: {}", tally.compared);
        assert_counted_once(&status);
        assert_eq!(status.counters.outcome.held, 0, "a worker was always there");
        assert_eq!(selected(&status), status.counters.asked.connection);
        assert!(status.counters.asked.connection >= tally.connections);
        assert_eq!(status.workers.iter().map(|worker| worker.restarts).sum::<u64>(), handovers);
        let by_worker: BTreeMap<String, u64> =
            status.workers.iter().map(|worker| (worker.name.to_string(), worker.selected)).collect();
        assert!(tally.by_worker.iter().all(|(name, answered)| by_worker[name] >= *answered), "{by_worker:?}");
    });
}

#[test]
fn nothing_is_lost_when_eight_workers_become_two_and_eight_again() {
    const SCALES: u32 = 5;
    netns::run("scale", |namespace| {
        let steer = Steer::run(namespace, &arguments(&["--workers", "8", "--seed", SEED]));
        let control = Control::new(&steer.socket());
        // Those of 4-tuples of the two workers that stay which they have in each of the tables that there can be on the way are not to
        // move at all; the others are in a load of their own.
        let everybody = Prediction::new(SEED, &[0, 1, 2, 3, 4, 5, 6, 7]);
        let on_the_way: Vec<Prediction> = (0..1 << 6)
            .map(|others: u32| {
                let others = (2..8).filter(|worker| others >> (worker - 2) & 1 == 1);
                Prediction::new(SEED, &[0, 1].into_iter().chain(others).collect::<Vec<u32>>())
            })
            .collect();
        let of_two = everybody.of(0, &pool(64, 8)).len() + everybody.of(1, &pool(64, 8)).len();
        let (stay, leave): (Vec<_>, Vec<_>) = pool(64, 8).into_iter().partition(|tuple| {
            let worker = everybody.worker(tuple);
            worker < 2 && on_the_way.iter().all(|table| table.worker(tuple) == worker)
        });
        println!("of {of_two} 4-tuples of the two that stay, {} are theirs in every table", stay.len());
        assert!(stay.len() * 100 >= of_two * 99, "{} of {of_two}", stay.len());
        let (stay, leave) = (Load::start(stay, 8), Load::start(leave, 24));
        for _ in 0..SCALES {
            let receipts = control.scale(2);
            assert_eq!(receipts.len(), 6, "{receipts:?}");
            receipts.iter().for_each(assert_drained);
            assert_eq!(control.status().workers.len(), 2);
            leave.wait_for(1_000);
            assert_eq!(control.scale(8), []);
            assert!(control.status().workers.iter().all(|worker| worker.state == "working"));
            leave.wait_for(1_000);
        }
        let (stay, leave, status) = (stay.end(), leave.end(), control.status());
        println!(
            "scales: {}, connections: {}, failed: {}, moved of those that stay: {} of {}, migrated: {}",
            2 * SCALES,
            stay.connections + leave.connections,
            stay.failed + leave.failed,
            stay.moved,
            stay.compared,
            status.counters.asked.migration,
        );
        assert_nothing_lost(&stay);
        assert_eq!(leave.failed, 0, "{:#?}", leave.first_failures);
        assert!(leave.moved > 0, "those of workers that leave have to move");
        assert_counted_once(&status);
        assert_eq!(status.counters.outcome.held, 0, "a worker was always there");
        assert!(status.counters.asked.connection >= stay.connections + leave.connections);
    });
}

#[test]
fn nothing_is_lost_when_the_only_worker_is_replaced() {
    const RESTARTS: u64 = 40;
    netns::run("replace", |namespace| {
        let steer = Steer::run(namespace, &arguments(&["--workers", "1", "--restart", "replace"]));
        let control = Control::new(&steer.socket());
        let load = Load::start(pool(64, 8), 32);
        for _ in 0..RESTARTS {
            assert_drained(&control.restart(0));
            // Long enough for the hold to have ended, so that the next begins anew.
            load.wait_for(200);
        }
        let (tally, status) = (load.end(), control.status());
        println!(
            "replaced: {RESTARTS}, connections: {}, failed: {}, held: {}, migrated: {}, p99: {} us",
            tally.connections,
            tally.failed,
            status.counters.outcome.held,
            status.counters.asked.migration,
            tally.p99_us(),
        );
        assert_nothing_lost(&tally);
        assert_eq!(status.workers[0].restarts, RESTARTS);
        assert_eq!((status.holding, status.held), (false, 0));
        assert_counted_once(&status);
        // What waited in the hold has migrated to the worker: each replacement lasts for many connections.
        assert!(status.counters.outcome.held >= RESTARTS, "{status:?}");
        assert!(status.workers[0].migrated_in >= RESTARTS, "{status:?}");
    });
}
