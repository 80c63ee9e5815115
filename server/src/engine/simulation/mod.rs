//! Property tests of the engine: a simulated world carries out its effects, late and badly, under clients that keep
//! arriving; after every event what the engine promises is checked.
//!
//! [`script`] is what proptest draws, [`world`] the time and the agenda, [`kernel`] sockets and tables, [`process`] the
//! workers, [`happen`] the daemon and the clients, [`notifications`] their socket, [`flows`] those of datagrams; [`ledger`] and [`tables`] know what must hold of
//! effects alone, so that they serve [`replay`] too. A failing case prints its log of events.

mod act;
mod adopted;
mod canaries;
mod daemon;
mod entropy;
mod flows;
mod happen;
mod kernel;
mod ledger;
mod notifications;
mod process;
mod regressions;
mod replay;
mod script;
mod succession;
mod tables;
mod tally;
mod verdict;
mod watch;
mod weights;
mod world;

use std::cell::RefCell;

use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::policy::Policy;

use super::{event::Decision, group::Rules};
use script::{Action, Script};
use tally::Tally;

/// Cases of an ordinary run: under a minute in a debug build.
const CASES: u32 = 80;

/// How many cases are played: so many, or as `PROPTEST_CASES` asks for.
fn cases(ordinary: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(ordinary)
}

#[test]
fn the_engine_keeps_its_promises_in_any_world() {
    let cases = cases(CASES);
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

/// Plays a world in which nothing goes wrong, one action every so often.
fn play_benign(rules: Rules, actions: &[Action]) -> Tally {
    let actions = actions.iter().map(|action| (4_000, action.clone())).collect();
    let script = Script { rules, own: false, bytes: vec![7, 31, 90, 3, 180], fates: vec![], actions };
    let tally = world::play(&script).unwrap_or_else(|broken| panic!("{broken}"));
    assert_eq!((tally.refused, tally.crashes, tally.deadlines, tally.lost), (0, 0, 0, 0), "{tally:?}");
    assert_eq!(tally.accepted, tally.connections, "{tally:?}");
    tally
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
    let actions: Vec<Action> = (0..24).map(action).collect();
    let tally = play_benign(replay::rules(4), &actions);
    assert_eq!((tally.operations_failed, tally.operations_done), (0, 24), "{tally:?}");
    assert_eq!(tally.handovers, 20, "{tally:?}");
}

/// Nor do changes of where new flows go, and canaries.
#[test]
fn a_benign_world_loses_nothing_to_changes_of_weights_and_policies() {
    let actions = [
        Action::SetWeight(1, 3),
        Action::SetPolicy(Policy::LeastLoaded { tie: 4 }),
        Action::Canary(None, 250, Some(700)),
        Action::Ramp(2, 5, 1_500),
        Action::Pin(0, 0b0101),
        Action::SetPolicy(Policy::Cpu),
        Action::SetWeight(0, 0),
        Action::Pin(1, 0b0100),
        Action::Canary(Some(1), 1, None),
        Action::Decide(Decision::Proceed),
        Action::SetPolicy(Policy::Source { ipv4: 24, ipv6: 64 }),
        Action::Ramp(1, 0, 900),
        Action::Ramp(2, 0, 0),
        Action::Restart(0),
        Action::SetWeight(0, 7),
        Action::Ramp(2, 7, 2_000),
        Action::SetPolicy(Policy::Hash),
    ];
    let tally = play_benign(replay::rules(3), &actions);
    // Pinning is no operation.
    assert_eq!((tally.operations_failed, tally.operations_done), (0, actions.len() as u64 - 2), "{tally:?}");
    assert_eq!((tally.canaries, tally.canaries_over, tally.decisions), (2, 1, 1), "{tally:?}");
    assert_eq!((tally.handovers, tally.ramps, tally.policies), (5, 3, 4), "{tally:?}");
    // Between the weight 0 of all and the next of one, connections wait.
    assert!(tally.held > 0 && tally.holds > 0, "{tally:?}");
    assert!(tally.less_loaded > 100 && tally.own_cpu > 100, "{tally:?}");
}
