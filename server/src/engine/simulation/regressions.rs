//! Races that the simulated world, or thought, has found: each failed once.

use std::collections::BTreeMap;

use super::{
    super::{
        effect::{Effect, FailureKind, Receiver, Signal},
        event::{Command, Event, Millis, Observation},
        group::Rules,
        view::State,
    },
    replay::{Replay, id, replay, rules},
};

const RESTART_ALL: Command = Command::Restart { worker: None, timeout: None, canary: None };

#[test]
fn a_restart_of_all_leaves_no_crashed_worker_waiting_for_its_turn() {
    let mut world = Replay::working(rules(3));
    let restart = world.ask(RESTART_ALL);
    assert!(world.started(id(0, 2)).is_some());
    world.exit(id(2, 1));
    assert!(world.started(id(2, 2)).is_some(), "a worker whose turn is yet to come is started at once");
    // That its start fails is no failure of the restart, which has not come to it.
    world.tell(Event::StartFailed { generation: id(2, 2), why: "no memory".into() });
    assert_eq!(world.result(restart), None);
    world.pass(200);
    assert!(world.started(id(2, 3)).is_some());
    world.work(id(2, 3));
    world.work(id(0, 2));
    world.drain(id(2, 1));
    world.drain(id(0, 1));
    world.exit(id(0, 2));
    assert!(world.started(id(0, 3)).is_some(), "so is one whose turn is over");
    world.work(id(0, 3));
    world.drain(id(0, 2));
    world.work(id(1, 2));
    world.drain(id(1, 1));
    world.work(id(2, 4));
    world.drain(id(2, 3));
    assert_eq!(world.result(restart), Some(Ok(())));
}

#[test]
fn undrain_puts_a_draining_worker_back_to_work() {
    let mut world = Replay::working(rules(2));
    let drain = world.ask(Command::Drain { worker: 0, timeout: None, until_replaced: false });
    let undrain = world.ask(Command::Undrain { worker: 0 });
    assert_eq!(world.result(drain), Some(Err(FailureKind::Refused)));
    world.work(id(0, 2));
    world.publish();
    assert_eq!(world.result(undrain), Some(Ok(())));
    world.drain(id(0, 1));
}

#[test]
fn undrain_waits_for_a_start_that_was_given_up() {
    let mut world = Replay::working(rules(2));
    world.ask(Command::Restart { worker: Some(0), timeout: None, canary: None });
    world.pass(30_001);
    world.exit(id(0, 1));
    let undrain = world.ask(Command::Undrain { worker: 0 });
    assert_eq!(world.result(undrain), None);
    world.exit(id(0, 2));
    world.pass(500);
    world.work(id(0, 3));
    world.publish();
    assert_eq!(world.result(undrain), Some(Ok(())));
}

#[test]
fn an_operation_that_waits_for_a_worker_ends_when_the_worker_is_lost() {
    let mut world = Replay::working(rules(1));
    let scale = world.ask(Command::Scale { workers: 2, timeout: None });
    world.tell(Event::Ready { generation: id(1, 1) });
    world.exit(id(1, 1));
    assert_eq!(world.result(scale), Some(Err(FailureKind::Failed)));
    assert!(world.started(id(1, 2)).is_some(), "and the worker is started again");
}

#[test]
fn scaling_up_while_scaling_down_is_refused_and_not_forgotten() {
    let mut world = Replay::working(rules(3));
    let down = world.ask(Command::Scale { workers: 1, timeout: None });
    let up = world.ask(Command::Scale { workers: 3, timeout: None });
    assert_eq!(world.result(up), Some(Err(FailureKind::Refused)));
    world.drain(id(1, 1));
    world.drain(id(2, 1));
    assert_eq!(world.result(down), Some(Ok(())));
    // A worker that comes again counts on: a late event of its former generation is nobody's.
    world.ask(Command::Scale { workers: 3, timeout: None });
    assert!(world.started(id(1, 2)).is_some());
    world.exit(id(1, 1));
    assert_eq!(world.group.workers()[1].state, State::Starting);
}

#[test]
fn a_replaced_holding_listener_is_shut_once() {
    let mut world = Replay::new(rules(2));
    world.tell(Event::Tick);
    world.make_hold();
    world.publish();
    world.tell(Event::Ready { generation: id(0, 1) });
    world.make_hold();
    world.publish();
    assert_eq!(world.count(&Effect::ShutHold { slot: 1 }), 1);
    // Its answer takes longer than the next table.
    world.tell(Event::Ready { generation: id(1, 1) });
    world.publish();
    assert_eq!(world.count(&Effect::ShutHold { slot: 1 }), 1, "its slot may be another's by then");
}

#[test]
fn no_two_processes_run_where_restarts_replace() {
    let mut world = Replay::working(Rules { replace: true, ..rules(2) });
    world.tell(Event::ListenerLost { generation: id(0, 1), why: "it does not listen".into() });
    let restart = world.ask(Command::Restart { worker: Some(0), timeout: None, canary: None });
    assert_eq!(world.started(id(0, 2)), None, "its process runs yet");
    world.exit(id(0, 1));
    assert!(world.started(id(0, 2)).is_some());
    world.drain(id(0, 1));
    world.work(id(0, 2));
    assert_eq!(world.result(restart), Some(Ok(())));
}

#[test]
fn a_replacing_restart_that_fails_leaves_the_worker_to_its_back_off() {
    let mut world = Replay::working(Rules { replace: true, ..rules(1) });
    let restart = world.ask(Command::Restart { worker: Some(0), timeout: None, canary: None });
    assert_eq!(world.started(id(0, 2)), None);
    world.drain(id(0, 1));
    assert!(world.started(id(0, 2)).is_some());
    assert!(world.group.is_holding());
    world.exit(id(0, 2));
    assert_eq!(world.result(restart), Some(Err(FailureKind::Failed)));
    assert_eq!(world.started(id(0, 3)), None, "not at once");
    world.pass(100);
    world.work(id(0, 3));
    assert_eq!(world.group.workers()[0].state, State::Working);
}

#[test]
fn a_long_back_off_is_cut_short_when_nobody_works_any_more() {
    let mut world = Replay::working(rules(2));
    let crash = |world: &mut Replay, generation| {
        world.exit(generation);
        world.publish();
        world.drain(generation);
    };
    let mut number = 1;
    // 12.8 s from the ninth crash on.
    while number <= 9 {
        crash(&mut world, id(0, number));
        number += 1;
        if number <= 9 {
            world.pass(10_000);
            world.work(id(0, number));
        }
    }
    world.pass(2_000);
    assert_eq!(world.started(id(0, number)), None, "the other works");
    crash(&mut world, id(1, 1));
    assert!(world.started(id(0, number)).is_some(), "clients wait for either");
}

#[test]
fn receipts_come_before_the_end_of_a_restart_that_fails() {
    let mut world = Replay::working(rules(2));
    let restart = world.ask(RESTART_ALL);
    world.work(id(0, 2));
    world.exit(id(0, 2));
    assert_eq!(world.result(restart), None, "the former generation drains");
    assert!(world.started(id(0, 3)).is_some(), "and the lost one is started again meanwhile");
    world.drain(id(0, 1));
    assert_eq!(world.result(restart), Some(Err(FailureKind::Failed)));
}

#[test]
fn a_stop_shortens_what_drains_already_and_takes_its_receipts() {
    let mut world = Replay::working(rules(1));
    let drain = world.ask(Command::Drain { worker: 0, timeout: Some(Millis::MAX), until_replaced: false });
    world.publish();
    let stop = world.ask(Command::Stop { timeout: Some(50) });
    assert_eq!(world.result(drain), Some(Err(FailureKind::Refused)));
    world.pass(50);
    world.publish();
    let (generation, slot) = (id(0, 1), world.started(id(0, 1)).unwrap());
    assert_eq!(world.count(&Effect::ShutListener { generation, slot }), 1, "it is at its deadline");
    world.exit(generation);
    world.drain(generation);
    assert_eq!(world.result(stop), Some(Ok(())));
    assert!(world.group.is_stopped());
    let is_receipt =
        |effect: &Effect| matches!(effect, Effect::Receipt { operation, .. } if *operation == Some(stop));
    assert_eq!(world.effects.iter().filter(|(_, effect)| is_receipt(effect)).count(), 1);
}

#[test]
fn a_draining_listener_that_nobody_accepts_from_is_shut_before_the_deadline() {
    let mut world = Replay::working(rules(2));
    world.ask(Command::Drain { worker: 0, timeout: Some(60_000), until_replaced: false });
    world.publish();
    world.tell(Event::ListenerLost { generation: id(0, 1), why: "nobody accepts".into() });
    let (generation, slot) = (id(0, 1), world.started(id(0, 1)).unwrap());
    assert_eq!(world.count(&Effect::ShutListener { generation, slot }), 1);
    world.drain(generation);
}

#[test]
fn a_receipt_names_who_had_the_slot_when_the_connections_moved() {
    let mut world = Replay::working(rules(2));
    world.ask(Command::Drain { worker: 0, timeout: Some(0), until_replaced: false });
    world.publish();
    let heir = world.started(id(1, 1)).unwrap();
    world.tell(Event::ListenerShut { generation: id(0, 1), moved: BTreeMap::from([(heir, 7)]) });
    // The heir is gone before the drain ends.
    world.exit(id(1, 1));
    world.drain(id(1, 1));
    world.exit(id(0, 1));
    world.drain(id(0, 1));
    let migrated = world.effects.iter().find_map(|(_, effect)| match effect {
        Effect::Receipt { receipt, .. } if receipt.generation == id(0, 1) => Some(receipt.migrated.clone()),
        _ => None,
    });
    assert_eq!(migrated, Some(BTreeMap::from([(Receiver::Worker(1), 7)])));
}

#[test]
fn a_table_that_failed_waits_for_the_holding_listener_without_spinning() {
    let mut world = Replay::working(Rules { workers: 1, ..rules(1) });
    world.exit(id(0, 1));
    let epoch = world.group.publication.in_flight.unwrap();
    world.tell(Event::PublishFailed { epoch, why: "no memory".into() });
    world.tell(Event::Ready { generation: id(0, 2) });
    world.tell(Event::HoldOccupied);
    assert!(world.group.hold.making.is_some());
    world.pass(1_000);
    world.make_hold();
    world.publish();
}

#[test]
fn a_process_that_survives_its_kill_is_not_waited_for_forever() {
    let mut world = Replay::working(rules(1));
    let restart = world.ask(RESTART_ALL);
    world.pass(30_001);
    assert_eq!(world.count(&Effect::Signal { generation: id(0, 2), signal: Signal::Kill }), 1);
    assert_eq!(world.result(restart), Some(Err(FailureKind::Failed)));
    world.pass(10_001);
    let slot = world.started(id(0, 2)).unwrap();
    assert_eq!(world.count(&Effect::Forget { generation: id(0, 2), slot }), 1);
}

#[test]
fn an_observation_that_comes_once_more_later_puts_nothing_off() {
    let mut world = Replay::working(rules(2));
    world.ask(Command::Drain { worker: 0, timeout: None, until_replaced: false });
    world.publish();
    let first_instant = world.group.drain_mut(id(0, 1)).and_then(|drain| drain.first_instant);
    let observation = Observation { connections: 1, ..Observation::default() };
    let observed = |first_instant| Event::Observed { generation: id(0, 1), first_instant, observation };
    world.tell(observed(None));
    world.pass(2);
    world.tell(observed(first_instant));
    let before = world.group.clone();
    world.tell(observed(first_instant));
    assert!(world.group == before, "the next observation is put off");
}

/// As a failing case printed it: worker 0 came again, with the number of a generation that it had had.
#[test]
fn a_log_of_scaling_down_and_up_replays() {
    let shut = |worker| Event::ListenerShut { generation: id(worker, 1), moved: BTreeMap::new() };
    let observed = |worker, first_instant| Event::Observed {
        generation: id(worker, 1),
        first_instant,
        observation: Observation::default(),
    };
    let scale =
        |operation, workers| Event::Command { operation, command: Command::Scale { workers, timeout: None } };
    let world = replay(
        rules(2),
        &[
            (0, Event::Tick),
            (18, Event::HoldMade { slot: 1 }),
            (42, Event::Published { epoch: 1 }),
            (50, Event::Started { generation: id(0, 1), pid: 1 }),
            (51, Event::Started { generation: id(1, 1), pid: 1 }),
            (86, Event::Ready { generation: id(0, 1) }),
            (87, Event::HoldMade { slot: 4 }),
            (103, Event::Published { epoch: 2 }),
            (105, Event::HoldShut { slot: 1, moved: BTreeMap::new() }),
            (128, Event::Ready { generation: id(1, 1) }),
            (142, Event::Published { epoch: 3 }),
            (383, scale(1, 1)),
            (384, observed(1, None)),
            (391, Event::Published { epoch: 4 }),
            (400, observed(1, Some(392))),
            (410, Event::Tick),
            (427, Event::Exited { generation: id(1, 1), exit: "exit 0".into() }),
            (430, observed(1, Some(392))),
            (437, shut(1)),
            (500, scale(2, 2)),
            (501, Event::Exited { generation: id(1, 1), exit: "signal 9".into() }),
        ],
    );
    assert_eq!(world.result(1), Some(Ok(())));
    assert!(world.started(id(1, 2)).is_some());
}

#[test]
fn a_receipt_says_what_was_reset_where_the_kernel_cannot_migrate() {
    for (migrates, left) in [(true, 0), (false, 5)] {
        let mut world = Replay::working(Rules { migrates, hold: false, ..rules(2) });
        world.ask(Command::Drain { worker: 0, timeout: None, until_replaced: false });
        world.publish();
        let generation = id(0, 1);
        let first_instant = world.group.drain_mut(generation).and_then(|drain| drain.first_instant);
        let observation = Observation { unaccepted: 5, ..Observation::default() };
        world.tell(Event::Observed { generation, first_instant, observation });
        world.pass(401);
        world.tell(Event::ListenerShut { generation, moved: BTreeMap::new() });
        // What is looked at while it stops has nothing of it any more.
        world.pass(200);
        world.tell(Event::Observed { generation, first_instant, observation: Observation::default() });
        world.exit(generation);
        world.pass(200);
        let receipts: Vec<_> = world
            .effects
            .iter()
            .filter_map(|(_, effect)| match effect {
                Effect::Receipt { receipt, .. } => Some(receipt),
                _ => None,
            })
            .collect();
        let [receipt] = receipts[..] else { panic!("one receipt: {receipts:?}") };
        assert_eq!(receipt.ended.unaccepted, left);
        let message = receipt.message.as_deref().unwrap_or_default();
        assert_eq!(message.contains("5 unaccepted connections were reset"), !migrates, "{message}");
    }
}
