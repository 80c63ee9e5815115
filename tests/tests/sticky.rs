//! The same 4-tuple goes to the same worker, which can be told from the seed and the workers alone.

use rustix::process::Signal;
use std::time::Duration;
use steer::load::FourTuple;
use steer_tests::{
    control::{Control, assert_counted_once, assert_drained},
    load::{Prediction, arguments, pool},
    netns, process,
    steer::Steer,
};

const SEED: &str = "5eed0000000000000000000000000003";
const OTHER_SEED: &str = "5eed0000000000000000000000000004";
const SOON: Duration = Duration::from_secs(60);

fn moved(pool: &[FourTuple], before: &Prediction, after: &Prediction) -> usize {
    pool.iter().filter(|tuple| before.worker(tuple) != after.worker(tuple)).count()
}

#[test]
fn a_four_tuple_keeps_its_worker_through_handovers_crashes_and_a_new_daemon() {
    netns::run("sticky", |namespace| {
        let pool = pool(32, 8);
        let table = Prediction::new(SEED, &[0, 1, 2, 3]);
        let mut steer = Steer::run(namespace, &arguments(&["--workers", "4", "--seed", SEED]));
        let control = Control::new(&steer.socket());
        table.assert_holds("at first", &pool);

        let receipts = control.restart_all();
        assert_eq!(receipts.len(), 4);
        receipts.iter().for_each(assert_drained);
        table.assert_holds("after a handover of each worker", &pool);

        let pid = control.status().workers[2].pid.expect("it works");
        process::signal(pid, Signal::KILL);
        steer.until("another process works", SOON, |status| {
            let worker = &status.groups[0].workers[2];
            worker.state == "working" && worker.pid != Some(pid)
        });
        table.assert_holds("after a crash", &pool);

        assert_drained(&control.drain(1));
        let without = Prediction::new(SEED, &[0, 2, 3]);
        without.assert_holds("while one is drained", &pool);
        let left = table.of(1, &pool).len();
        assert_eq!(moved(&pool, &table, &without), left, "only what the drained one had has moved");
        control.undrain(1);
        table.assert_holds("after it is back", &pool);

        let status = control.status();
        assert_counted_once(&status);
        assert_eq!(status.counters.outcome.first_choice, status.counters.runs, "{status:?}");
        steer.stop(SOON);
        steer.start_daemon();
        steer.until_working();
        table.assert_holds("after a new daemon with the same seed", &pool);
        steer.stop(SOON);

        // Another seed is another table: what is above is no luck.
        let other = Prediction::new(OTHER_SEED, &[0, 1, 2, 3]);
        let steer = Steer::run(namespace, &arguments(&["--workers", "4", "--seed", OTHER_SEED]));
        other.assert_holds("with another seed", &pool);
        let strays = moved(&pool, &table, &other) as f64 / pool.len() as f64;
        println!(
            "4-tuples: {}, moved by handovers, a crash, a new daemon: 0, by a drain: {left}, by another seed: {strays:.3}",
            pool.len()
        );
        assert!((strays - 0.75).abs() < 0.05, "{strays}");
        assert_counted_once(&Control::new(&steer.socket()).status());
    });
}

#[test]
fn a_scale_moves_the_share_that_the_table_says() {
    netns::run("shares", |namespace| {
        let pool = pool(32, 16);
        let steer = Steer::run(namespace, &arguments(&["--workers", "4", "--seed", SEED]));
        let control = Control::new(&steer.socket());
        for (before, after) in [(4_u32, 5_u32), (5, 8), (8, 3), (3, 4)] {
            let predict = |count: u32| Prediction::new(SEED, &(0..count).collect::<Vec<_>>());
            let (old, new) = (predict(before), predict(after));
            old.assert_holds("before the scale", &pool);
            let table_before = control.table();
            control.scale(after);
            let table = control.table();
            for (table, prediction) in [(&table_before, &old), (&table, &new)] {
                assert_eq!(table.shares.iter().map(|share| share.buckets).sum::<u32>(), table.buckets);
                for share in &table.shares {
                    assert_eq!(share.buckets as usize, prediction.buckets(share.worker.index), "{share:?}");
                }
            }
            new.assert_holds("after the scale", &pool);

            // What comes takes its share from all, what goes leaves its share to all: nothing else moves.
            let (larger, fewer) = if after > before { (&table, before) } else { (&table_before, after) };
            let share: f64 =
                larger.shares.iter().filter(|of| of.worker.index >= fewer).map(|of| of.share).sum();
            let moved = moved(&pool, &old, &new) as f64 / pool.len() as f64;
            let deviation = (share * (1.0 - share) / pool.len() as f64).sqrt();
            println!(
                "{before} workers to {after}: 4-tuples: {}, moved: {moved:.4}, by the table: {share:.4}, three \
                 deviations: {:.4}",
                pool.len(),
                3.0 * deviation
            );
            assert!((moved - share).abs() <= 3.0 * deviation);
        }
        assert_counted_once(&control.status());
    });
}
