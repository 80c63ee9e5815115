//! Canaries, one step after another.

use server_common::limits::BUCKETS;

use super::{
    super::{
        effect::{Effect, FailureKind, Receipt},
        event::{Canary, Command, Decision, Event, Millis, OperationId},
        group::Rules,
        view::State,
    },
    replay::{Replay, id, rules},
};

fn restart(worker: Option<u32>, permille: u32, hold: Option<Millis>) -> Command {
    Command::Restart { worker, timeout: None, canary: Some(Canary { permille, hold }) }
}

/// A group of two whose worker 0 has a canary in the published table; the restart.
fn standing(worker: Option<u32>, permille: u32, hold: Option<Millis>) -> (Replay, OperationId) {
    let mut world = Replay::working(rules(2));
    let operation = world.ask(restart(worker, permille, hold));
    world.tell(Event::Started { generation: id(0, 2), pid: 7 });
    world.tell(Event::Ready { generation: id(0, 2) });
    world.publish();
    (world, operation)
}

fn slots(world: &Replay) -> (u16, u16) {
    (world.started(id(0, 1)).unwrap(), world.started(id(0, 2)).unwrap())
}

fn receipts(world: &Replay, operation: OperationId) -> Vec<&Receipt> {
    let receipts = world.effects.iter().filter_map(|(_, effect)| match effect {
        Effect::Receipt { operation: Some(other), receipt } if *other == operation => Some(receipt),
        _ => None,
    });
    receipts.collect()
}

#[test]
fn a_canary_has_its_part_of_its_workers_buckets_and_no_more() {
    let (mut world, operation) = standing(None, 50, None);
    let (old, new) = slots(&world);
    let view = world.group.workers()[0].clone();
    let whole = view.buckets as usize;
    let part = (whole as f64 * 0.05).round() as usize;
    assert_eq!((world.buckets(new), world.buckets(old)), (part, whole - part));
    assert!(!world.layout().working.contains(&new), "it is not for flows whose own choices are gone");
    let canary = view.canary.unwrap();
    assert_eq!((canary.generation, canary.slot, canary.pid), (id(0, 2), new, Some(7)));
    assert_eq!((canary.buckets as usize, canary.until), (part, None));
    assert_eq!((view.state, view.generation), (State::Working, Some(id(0, 1))));
    assert_eq!(world.group.serving().len(), 3);
    world.pass(3_600_000);
    assert_eq!((world.started(id(1, 2)), world.result(operation)), (None, None), "someone is to decide");
    // Another has the same buckets, whichever generation it is.
    let chosen = world.layout().buckets.iter().map(|&slot| slot == new).collect::<Vec<_>>();
    world.ask(Command::Decide(Decision::Abort));
    world.drain(id(0, 2));
    world.ask(restart(Some(0), 50, None));
    world.tell(Event::Ready { generation: id(0, 3) });
    let third = world.started(id(0, 3)).unwrap();
    assert!(world.layout().buckets.iter().zip(chosen).all(|(&slot, chosen)| (slot == third) == chosen));
}

#[test]
fn a_canary_takes_over_when_its_time_is_over_and_the_others_follow_without() {
    let (mut world, operation) = standing(None, 1, Some(500));
    let until = world.group.workers()[0].canary.unwrap().until.unwrap();
    assert_eq!((until, world.group.wakes_at(world.now())), (world.now() + 500, Some(until)));
    world.pass(498);
    assert!(world.group.workers()[0].canary.is_some());
    world.pass(0);
    assert_eq!(world.group.workers()[0].canary, None);
    world.drain(id(0, 1));
    world.work(id(1, 2));
    world.drain(id(1, 1));
    assert_eq!(world.result(operation), Some(Ok(())));
    let handed_over = receipts(&world, operation).iter().map(|receipt| receipt.successor).collect::<Vec<_>>();
    assert_eq!(handed_over, [Some(2), Some(2)]);
}

#[test]
fn someone_decides_that_a_canary_proceeds() {
    let (mut world, operation) = standing(Some(0), 999, None);
    let decision = world.ask(Command::Decide(Decision::Proceed));
    assert_eq!(world.result(decision), Some(Ok(())));
    world.drain(id(0, 1));
    assert_eq!(world.result(operation), Some(Ok(())));
    assert_eq!(world.group.workers()[0].generation, Some(id(0, 2)));
}

#[test]
fn an_aborted_canary_drains_and_the_restart_ends() {
    let (mut world, operation) = standing(None, 300, Some(60_000));
    let decision = world.ask(Command::Decide(Decision::Abort));
    assert_eq!(world.result(decision), Some(Ok(())));
    let (old, new) = slots(&world);
    assert_eq!(world.buckets(new), 0);
    assert!(world.buckets(old).abs_diff(BUCKETS / 2) < BUCKETS / 100);
    assert_eq!(world.result(operation), None, "its receipt comes first");
    world.drain(id(0, 2));
    assert_eq!(world.result(operation), Some(Err(FailureKind::Refused)));
    assert_eq!(
        world.failure(operation).0,
        "aborted: generation 2 of worker 0 was drained, generation 1 goes on working"
    );
    assert_eq!(receipts(&world, operation).len(), 1);
    assert_eq!(world.started(id(1, 2)), None, "worker 1 stays as it is");
    assert_eq!(world.group.workers()[0].state, State::Working);
}

#[test]
fn a_canary_takes_over_at_once_when_the_old_generation_is_lost() {
    let (mut world, operation) = standing(Some(0), 10, None);
    world.exit(id(0, 1));
    let (old, new) = slots(&world);
    assert_eq!(world.buckets(old), 0);
    assert!(world.layout().working.contains(&new));
    world.drain(id(0, 1));
    assert_eq!(world.result(operation), Some(Ok(())));
    assert_eq!(world.started(id(0, 3)), None);
}

#[test]
fn a_canary_that_is_lost_gives_its_buckets_back_and_fails_the_restart() {
    for is_deaf in [true, false] {
        let (mut world, operation) = standing(None, 500, Some(100));
        match is_deaf {
            true => drop(world.tell(Event::ListenerLost { generation: id(0, 2), why: "it is deaf".into() })),
            false => world.exit(id(0, 2)),
        }
        let (old, new) = slots(&world);
        assert_eq!(world.buckets(new), 0);
        assert!(world.buckets(old) > BUCKETS / 3);
        world.drain(id(0, 2));
        assert_eq!(world.result(operation), Some(Err(FailureKind::Failed)));
        let (message, _) = world.failure(operation);
        assert!(message.ends_with("; generation 1 goes on working"), "{message}");
        world.pass(1_000);
        assert_eq!((world.started(id(0, 3)), world.started(id(1, 2))), (None, None));
        assert_eq!(world.group.workers()[0].state, State::Working);
    }
}

#[test]
fn a_stop_drains_a_canary_and_the_old_generation() {
    let (mut world, operation) = standing(None, 500, None);
    let stop = world.ask(Command::Stop { timeout: None });
    assert_eq!(world.result(operation), Some(Err(FailureKind::Refused)));
    for generation in [id(0, 1), id(0, 2), id(1, 1)] {
        world.drain(generation);
    }
    assert_eq!(world.result(stop), Some(Ok(())));
    assert!(world.group.is_stopped());
}

#[test]
fn what_cannot_have_a_canary_is_refused_before_anything_starts() {
    let refused = |rules: Rules, prepare: fn(&mut Replay), command: Command| {
        let mut world = Replay::working(rules);
        prepare(&mut world);
        let generations = world.group.workers().iter().map(|view| view.last_number).sum::<u64>();
        let operation = world.ask(command);
        assert_eq!(world.result(operation), Some(Err(FailureKind::Refused)));
        assert_eq!(world.group.workers().iter().map(|view| view.last_number).sum::<u64>(), generations);
        let (message, hint) = world.failure(operation);
        assert!(!hint.is_empty(), "{message}");
        message
    };
    for permille in [0, 1000] {
        let message = refused(rules(2), |_| {}, restart(None, permille, None));
        assert!(message.contains(&format!("{permille} thousandths: its part is 1 to 999")), "{message}");
    }
    let message = refused(Rules { replace: true, ..rules(2) }, |_| {}, restart(None, 5, None));
    assert!(message.contains("only one of two generations can run at a time"), "{message}");
    let message = refused(rules(2), |world| world.exit(id(0, 1)), restart(None, 5, None));
    assert!(message.contains("worker 0 has nothing ready to stand beside"), "{message}");
    let idle = |world: &mut Replay| {
        world.ask(Command::SetWeight { worker: 0, weight: 0, over: None });
        world.publish();
    };
    let message = refused(rules(2), idle, restart(Some(0), 5, None));
    assert!(message.contains("worker 0 has the weight 0"), "{message}");
    let restarting = |world: &mut Replay| {
        world.ask(restart(Some(0), 5, None));
    };
    let message = refused(rules(2), restarting, restart(Some(1), 5, None));
    assert!(message.contains("another restart under way begins with one"), "{message}");
    let message = refused(rules(2), restarting, Command::Decide(Decision::Proceed));
    assert_eq!(message, "there is no canary to decide about");
}

#[test]
fn a_canary_of_a_worker_that_comes_to_the_weight_0_has_nothing() {
    let (mut world, operation) = standing(Some(0), 500, None);
    world.ask(Command::SetWeight { worker: 0, weight: 0, over: None });
    let (old, new) = slots(&world);
    assert_eq!((world.buckets(old), world.buckets(new)), (0, 0));
    world.publish();
    world.ask(Command::Decide(Decision::Proceed));
    world.drain(id(0, 1));
    assert_eq!(world.result(operation), Some(Ok(())));
    assert_eq!(world.group.workers()[0].state, State::Draining);
}
