//! Weights, ramps, policies and their plans, one step after another.

use server_common::limits::{BUCKETS, NO_SLOT, slots};

use crate::policy::Policy;

use super::{
    super::{
        assign::NOBODY,
        effect::{Effect, FailureKind},
        event::{Command, Event, Millis, OperationId},
        group::{Group, Rules},
        plan::Change,
        view::{RampView, State},
    },
    replay::{Replay, id, rules},
};

fn weigh(worker: u32, weight: u32, over: Option<Millis>) -> Command {
    Command::SetWeight { worker, weight, over }
}

fn slot(world: &Replay, worker: u32) -> u16 {
    world.started(id(worker, 1)).unwrap()
}

#[test]
fn a_worker_of_weight_0_keeps_what_it_has_and_gets_nothing_new() {
    let mut world = Replay::working(rules(2));
    let asked = world.ask(weigh(0, 0, None));
    assert_eq!(world.result(asked), None, "the table is not published yet");
    let (idle, other) = (slot(&world, 0), slot(&world, 1));
    assert_eq!((world.layout().working.clone(), world.buckets(idle)), (vec![other], 0));
    world.publish();
    assert_eq!(world.result(asked), Some(Ok(())));
    let view = world.group.workers()[0].clone();
    assert_eq!((view.state, view.buckets, view.generation), (State::Draining, 0, Some(id(0, 1))));
    assert_eq!(view.message.as_deref(), Some("weight 0: it keeps what it has and gets nothing new"));
    // No drain: there is neither a deadline nor a signal.
    let before = world.effects.len();
    world.pass(3_600_000);
    assert_eq!(world.effects.len(), before);
    assert_eq!(world.group.serving().len(), 2);
    let restart = world.ask(Command::Restart { worker: Some(0), timeout: None, canary: None });
    world.work(id(0, 2));
    assert_eq!(world.buckets(world.started(id(0, 2)).unwrap()), 0);
    world.drain(id(0, 1));
    assert_eq!(world.result(restart), Some(Ok(())), "it is restarted as any other");
    world.ask(weigh(0, 1, None));
    world.publish();
    assert_eq!(world.group.workers()[0].state, State::Working);
    assert!(world.buckets(world.started(id(0, 2)).unwrap()) > BUCKETS / 3);
}

#[test]
fn connections_are_held_while_all_weights_are_0() {
    for hold in [true, false] {
        let mut world = Replay::working(Rules { hold, ..rules(2) });
        for worker in 0..2 {
            world.ask(weigh(worker, 0, None));
            world.publish();
        }
        assert!(world.layout().working.is_empty());
        assert_eq!(world.group.is_holding(), hold);
        let nobody = if hold { world.group.hold_slot().unwrap() } else { NO_SLOT };
        assert_eq!(world.buckets(nobody), BUCKETS);
        let back = world.ask(weigh(1, 5, None));
        world.make_hold();
        world.publish();
        assert_eq!(world.result(back), Some(Ok(())));
        assert_eq!(world.buckets(slot(&world, 1)), BUCKETS);
        assert_eq!(
            world.count(&Effect::ShutHold { slot: nobody }),
            usize::from(hold),
            "what waits goes there"
        );
    }
}

#[test]
fn a_worker_that_comes_again_has_the_weight_of_one_that_comes() {
    let mut world = Replay::working(rules(2));
    world.ask(weigh(1, 9, None));
    world.publish();
    let ramp = world.ask(weigh(1, 3, Some(60_000)));
    let scale = world.ask(Command::Scale { workers: 1, timeout: None });
    assert_eq!(world.result(ramp), Some(Err(FailureKind::Refused)));
    assert!(world.failure(ramp).0.contains("leaves the group"));
    world.drain(id(1, 1));
    assert_eq!(world.result(scale), Some(Ok(())));
    world.ask(Command::Scale { workers: 2, timeout: None });
    assert_eq!(world.group.workers()[1].weight, 1);
}

#[test]
fn a_ramp_goes_step_by_step_and_ends_with_the_last_table() {
    let mut world = Replay::working(rules(2));
    let ramp = world.ask(weigh(0, 3, Some(1_000)));
    let view = |world: &Replay| world.group.workers()[0].ramp.unwrap();
    assert_eq!((view(&world).from, view(&world).now, view(&world).to), (1_000, 1_000, 3_000));
    let tables = |world: &Replay| {
        world.effects.iter().filter(|(_, effect)| matches!(effect, Effect::Publish(_))).count()
    };
    let (began, mut before) = (tables(&world), world.buckets(slot(&world, 0)));
    let mut ticks = 0;
    while let Some(RampView { ends_at, .. }) = world.group.workers()[0].ramp {
        let (now, wakes_at) = (world.now(), world.group.wakes_at(world.now()).unwrap());
        assert!(wakes_at <= ends_at && wakes_at <= now + 100, "{wakes_at} at {now}");
        world.pass(wakes_at - now - 1);
        world.publish();
        let has = world.buckets(slot(&world, 0));
        assert!(has > before, "{has} after {before}");
        before = has;
        ticks += 1;
    }
    assert_eq!((ticks, tables(&world) - began), (10, 10));
    assert_eq!(world.result(ramp), Some(Ok(())));
    assert!(before.abs_diff(BUCKETS / 4 * 3) < BUCKETS / 100);
}

#[test]
fn a_later_weight_overrules_a_ramp_from_where_it_is() {
    let mut world = Replay::working(rules(2));
    let first = world.ask(weigh(0, 11, Some(1_000)));
    world.pass(499);
    world.publish();
    let second = world.ask(weigh(0, 1, Some(1_000)));
    assert_eq!(world.result(first), Some(Err(FailureKind::Refused)));
    assert!(world.failure(first).0.contains("overruled by a later weight"));
    let ramp = world.group.workers()[0].ramp.unwrap();
    assert_eq!((ramp.from, ramp.to), (6_000, 1_000));
    world.ask(Command::Stop { timeout: None });
    assert_eq!(world.result(second), Some(Err(FailureKind::Refused)));
    assert_eq!(world.group.workers()[0].ramp, None);
}

#[test]
fn a_ramp_outlives_a_crash_and_a_drain() {
    let mut world = Replay::working(rules(2));
    let ramp = world.ask(weigh(0, 5, Some(1_000)));
    world.exit(id(0, 1));
    world.publish();
    world.ask(Command::Drain { worker: 0, timeout: None, until_replaced: false });
    world.pass(500);
    assert!(world.group.workers()[0].ramp.unwrap().now >= 3_000);
    world.pass(600);
    world.publish();
    world.publish();
    assert_eq!(world.result(ramp), Some(Ok(())));
}

#[test]
fn what_the_table_is_too_small_for_is_refused_with_what_fits() {
    let large = Rules { workers: 900, slots: 4_096, ..rules(900) };
    let mut group = Group::new(large);
    let mut operation: OperationId = 0;
    let mut ask = |command: Command| {
        operation += 1;
        let effects = group.handle(operation, Event::Command { operation, command });
        effects.into_iter().find_map(|effect| match effect {
            Effect::Finished { result: Err(failure), .. } => Some((failure.message, failure.hint.unwrap())),
            _ => None,
        })
    };
    for worker in 0..73 {
        assert_eq!(ask(weigh(worker, 100, None)), None, "{worker}");
    }
    let (message, hint) = ask(weigh(73, 100, None)).unwrap();
    assert_eq!(
        message,
        "cannot give worker 73 the weight 100: worker 74 of weight 1 would get 7 of 65536 buckets, and needs 8"
    );
    assert_eq!(hint, "the largest weight that fits here is 66");
    assert_eq!(ask(weigh(73, 66, None)), None);
    let (message, hint) = ask(Command::Scale { workers: 1_000, timeout: None }).unwrap();
    assert!(message.starts_with("cannot scale to 1000 workers: worker "), "{message}");
    assert!(hint.starts_with("the most workers that fit with these weights is 900;"), "{hint}");
    // One of weight 0 needs nothing, and may find no room to come back.
    assert_eq!(ask(weigh(899, 0, None)), None);
    assert_eq!(ask(weigh(898, 2, None)), None);
    assert_eq!(
        ask(weigh(899, 1, None)).unwrap().1,
        "none above 0 fits here beside the others' weights: lower the largest"
    );
}

/// A change is the first thing besides the holding listener that a table could be for.
#[test]
fn a_change_before_the_first_holding_listener_waits_for_it() {
    let mut world = Replay::new(rules(1));
    world.tell(Event::Tick);
    world.tell(Event::HoldFailed { slot: 1, why: "address in use".into() });
    let policy = world.ask(Command::SetPolicy(Policy::Cpu));
    let weight = world.ask(weigh(0, 2, None));
    assert_eq!(world.group.publication.in_flight, None, "the table would have no last resort");
    world.pass(1_000);
    world.make_hold();
    world.publish();
    assert_eq!((world.result(policy), world.result(weight)), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn a_plan_says_what_the_next_table_does() {
    let mut world = Replay::working(rules(3));
    let change = Change::Weight { worker: 2, weight: 6 };
    // A worker has just gone; the table in flight is older.
    world.tell(Event::ProbeWanted { generation: id(0, 1), hash: 1 });
    world.ask(weigh(1, 2, None));
    world.exit(id(0, 1));
    let plan = world.group.plan(&change).unwrap();
    assert!(plan.before.owners.iter().all(|&owner| owner == 1 || owner == 2), "worker 0 is gone");
    world.publish();
    world.publish();
    assert_eq!(plan.before.owners, world.group.owners(), "without the change that would be it");
    world.ask(weigh(2, 6, None));
    world.publish();
    assert_eq!(plan.after.owners, world.group.owners());
    assert_eq!((plan.before.weights[&2], plan.after.weights[&2]), (1, 6));
    let moved = plan.moved_buckets() as usize;
    // From a third to three quarters.
    assert!(moved.abs_diff(BUCKETS * 5 / 12) < BUCKETS / 100, "{moved}");
    assert_eq!(plan.moved_share(), moved as f64 / BUCKETS as f64);
    assert!(!plan.is_rekeyed());
    let refused = world.group.plan(&Change::Weight { worker: 2, weight: 101 }).unwrap_err();
    assert!(refused.message.contains("101") && refused.message.contains("0 to 100"), "{}", refused.message);
}

#[test]
fn a_plan_of_another_policy_says_how_many_flows_find_another_worker() {
    let mut world = Replay::working(rules(2));
    world.ask(weigh(0, 3, None));
    world.publish();
    let plan = |world: &Replay, policy| world.group.plan(&Change::Policy(policy)).unwrap();
    let source = plan(&world, Policy::Source { ipv4: 24, ipv6: 64 });
    assert_eq!((source.is_rekeyed(), source.moved_buckets()), (true, 0));
    // Of three quarters and a quarter, two independent keys agree in 9/16 + 1/16.
    assert!((source.moved_share() - 0.375).abs() < 0.01, "{}", source.moved_share());
    for policy in [Policy::Hash, Policy::Cpu, Policy::LeastLoaded { tie: 3 }] {
        let plan = plan(&world, policy);
        assert_eq!((plan.is_rekeyed(), plan.moved_share()), (false, 0.0), "{policy}");
    }
    let nobody = Group::new(rules(2)).plan(&Change::Policy(Policy::Source { ipv4: 0, ipv6: 0 })).unwrap();
    assert!(nobody.after.owners.iter().all(|&owner| owner == NOBODY));
    assert!(nobody.moved_share().abs() < 1e-9, "{}", nobody.moved_share());
}

#[test]
fn a_table_by_cpu_has_those_that_are_pinned_and_take_part() {
    let mut world = Replay::working(rules(3));
    let pin = |world: &mut Replay, worker, cpus: &[usize]| {
        world.tell(Event::Pinned { generation: id(worker, 1), cpus: cpus.to_vec() });
    };
    pin(&mut world, 2, &[1]);
    assert_eq!(world.group.publication.in_flight, None, "by the hash it is of no account");
    let policy = world.ask(Command::SetPolicy(Policy::Cpu));
    assert_eq!(world.result(policy), None);
    world.publish();
    assert_eq!(world.result(policy), Some(Ok(())));
    pin(&mut world, 0, &[0, 1]);
    world.publish();
    let slots = [0, 1, 2].map(|worker| slot(&world, worker));
    let expected = [(0, vec![slots[0]]), (1, vec![slots[0], slots[2]])];
    assert_eq!(Vec::from_iter(world.layout().cpus.clone()), expected);
    world.ask(weigh(0, 0, None));
    assert_eq!(Vec::from_iter(world.layout().cpus.clone()), [(1, vec![slots[2]])]);
    assert_eq!(world.group.workers()[0].cpus, [0, 1]);
}

#[test]
fn a_group_scales_as_far_as_its_slots_and_is_refused_beyond_with_the_way_out() {
    let mut world = Replay::working(Rules { slots: slots(4), ..rules(4) });
    let mut refused = |workers| {
        let asked = world.ask(Command::Scale { workers, timeout: None });
        assert_eq!(world.result(asked), Some(Err(FailureKind::Refused)), "{workers}");
        world.failure(asked)
    };
    let (message, hint) = refused(255);
    assert_eq!(message, "cannot scale to 255 workers: its 512 slots are enough for 254");
    assert!(hint.contains("remove the group with one reload and add it with 255 workers"), "{hint}");
    let (message, hint) = refused(1_025);
    assert_eq!(message, "cannot scale to 1025 workers: a group has 1 to 1024");
    assert_eq!(hint, "run two groups for more");
    let asked = world.ask(Command::Scale { workers: 254, timeout: None });
    assert_eq!((world.result(asked), world.group.states().count()), (None, 254));
}
