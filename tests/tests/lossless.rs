//! No connection is lost, whatever the workers go through, but what a killed process had accepted.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Instant,
};

use steer::{control::api::Receipt, load::Tally};
use steer_tests::{
    control::{Control, assert_counted_once, selected},
    load::{Load, assert_nothing_lost, listen_arguments, pool},
    netns,
    steer::Steer,
};

fn arguments(more: &[&str]) -> Vec<String> {
    listen_arguments().into_iter().chain(more.iter().map(|argument| (*argument).to_owned())).collect()
}

#[track_caller]
fn assert_drained(receipt: &Receipt) {
    let at_the_end = [receipt.handshakes, receipt.unaccepted, receipt.connections].map(|count| count.ended);
    assert_eq!((receipt.outcome.as_str(), at_the_end), ("drained", [0; 3]), "{receipt:?}");
    assert_eq!(receipt.exit.as_deref(), Some("exit 0"), "{receipt:?}");
}

fn generations(tally: &Tally) -> usize {
    tally.by_responder.len()
}

#[test]
fn nothing_is_lost_through_a_thousand_handovers() {
    const WORKERS: u32 = 4;
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
            "handovers: {handovers}, connections: {}, failed: {}, moved: {} of {}, generations seen: {}, \
             skipped: {}, SYNs: {}, migrated: {}, p99: {} us, took: {:.0} s",
            tally.connections,
            tally.failed,
            tally.moved,
            tally.compared,
            generations(&tally),
            tally.skipped,
            status.counters.asked.connection,
            status.counters.asked.migration,
            tally.p99_us(),
            took.as_secs_f64(),
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
