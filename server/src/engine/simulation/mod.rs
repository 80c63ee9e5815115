//! Property tests of the engine: a simulated world carries out its effects, late and badly, under clients that keep
//! arriving; after every event what the engine promises is checked.
//!
//! [`script`] is what proptest draws, [`world`] the time and the agenda, [`kernel`] sockets and tables, [`process`] the
//! workers, [`happen`] the daemon and the clients; [`ledger`] and [`tables`] know what must hold of effects alone, so that they
//! serve [`replay`] too. A failing case prints its log of events.

mod act;
mod daemon;
mod entropy;
mod happen;
mod kernel;
mod ledger;
mod process;
mod regressions;
mod replay;
mod script;
mod tables;
mod tally;
mod verdict;
mod watch;
mod world;

use std::cell::RefCell;

use proptest::test_runner::{Config, TestCaseError, TestRunner};

use script::{Action, Script};
use tally::Tally;

/// Cases of an ordinary run: under a minute in a debug build. `PROPTEST_CASES` asks for more.
const CASES: u32 = 80;

#[test]
fn the_engine_keeps_its_promises_in_any_world() {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let cases = asked.unwrap_or(CASES);
    let config = Config { cases, max_shrink_iters: 300, ..Config::with_source_file(file!()) };
    let total = RefCell::new(Tally::default());
    let result = TestRunner::new(config).run(&script::script(), |script| {
        let tally = world::play(&script).map_err(TestCaseError::fail)?;
        total.borrow_mut().add(&tally);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let total = total.into_inner();
    println!("{total:#?}");
    if cases >= CASES {
        total.check_is_not_vacuous();
    }
}

/// A world in which nothing goes wrong loses nothing, and lets every drain end with nothing left.
#[test]
fn a_benign_world_loses_nothing() {
    let action = |index: u64| match index % 4 {
        0 => Action::RestartAll,
        1 => Action::Scale(6),
        2 => Action::Restart(1),
        _ => Action::Scale(2),
    };
    let rules = replay::rules(4);
    let actions = (0..24).map(|index| (4_000, action(index))).collect();
    let script = Script { rules, own: false, bytes: vec![7, 31, 90, 3, 180], fates: vec![], actions };
    let tally = world::play(&script).unwrap_or_else(|broken| panic!("{broken}"));
    assert_eq!((tally.refused, tally.crashes, tally.deadlines, tally.lost), (0, 0, 0, 0), "{tally:?}");
    assert_eq!((tally.operations_failed, tally.operations_done), (0, 24), "{tally:?}");
    assert_eq!((tally.handovers, tally.accepted), (20, tally.connections), "{tally:?}");
}
