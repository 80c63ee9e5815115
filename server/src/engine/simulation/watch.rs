//! One event, watched: what the engine makes of it, and that it makes nothing of it the second time.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    super::{
        effect::{Effect, Failure},
        event::{Command, Event, Millis, OperationId},
        group::Group,
        plan::{Change, Plan},
        reconfigure::{Conduct, Reconfiguration},
        worker::Goal,
    },
    ledger::{Checked, Ledger},
};

/// Tells the engine of an event, and checks what it makes of it.
pub(super) fn watch(
    group: &mut Group,
    ledger: &mut Ledger,
    now: Millis,
    event: Event,
) -> Checked<Vec<Effect>> {
    let plan = planned(group, now, &event);
    let before = group.clone();
    let handled = catch_unwind(AssertUnwindSafe(|| group.handle(now, event.clone())));
    let effects = handled.map_err(|panic| match panic.downcast::<String>() {
        Ok(message) => format!("the engine panics: {message}"),
        Err(_) => "the engine panics".to_owned(),
    })?;
    ledger.take_in(now, group, &event, &effects)?;
    if let Some(plan) = plan {
        check_plan(group, &event, plan, &effects)?;
    }
    if let Event::Command { operation, command: Command::Reconfigure(change) } = &event {
        check_reconfigured(&before, group, *operation, change, &effects)?;
    }
    check_changes_nothing(group, now, &event)?;
    check_changes_nothing(group, now, &Event::Tick)?;
    match group.wakes_at(now) {
        Some(at) if at <= now => {
            Err(format!("the engine wants to be woken at {at}, at {now}: it would spin"))
        }
        _ => Ok(effects),
    }
}

/// What is planned for a change that is about to be asked for.
fn planned(group: &Group, now: Millis, event: &Event) -> Option<Result<Plan, Failure>> {
    let Event::Command { command, .. } = event else { return None };
    let change = match *command {
        Command::SetPolicy(policy) => Change::Policy(policy),
        Command::SetWeight { worker, weight, .. } => Change::Weight { worker, weight },
        _ => return None,
    };
    let refused = group.plan(&change).err();
    // What is due by now, a step of another worker's ramp, comes into the same table. A worker that is gone by it, as a group is
    // stopped, was there when the change was asked for.
    let mut group = group.clone();
    group.handle(now, Event::Tick);
    Some(refused.map_or_else(|| group.plan(&change), Err))
}

/// A plan is refused as its change is, and says what the next table does.
fn check_plan(group: &Group, event: &Event, plan: Result<Plan, Failure>, effects: &[Effect]) -> Checked {
    let Event::Command { operation, command } = event else { return Ok(()) };
    let own = |effect: &Effect| match effect {
        Effect::Finished { operation: other, result: Err(failure) } if other == operation => {
            Some(failure.clone())
        }
        _ => None,
    };
    let plan = match (plan, effects.iter().find_map(own)) {
        (Ok(plan), None) => plan,
        (Err(planned), Some(refused)) if planned == refused => return Ok(()),
        (plan, refused) => {
            let planned = plan.err();
            return Err(format!("{event:?} ends with {refused:?}, and its plan with {planned:?}"));
        }
    };
    let at_once = !matches!(command, Command::SetWeight { over: Some(_), .. });
    let given_out = effects.iter().any(|effect| matches!(effect, Effect::Publish(_)));
    if at_once && given_out && *plan.after.owners != *group.publication.owners {
        return Err(format!("the table after {event:?} is not as planned"));
    }
    let weights = group.workers.iter().map(|(&index, worker)| (index, worker.weight)).collect();
    if plan.after.policy != group.policy || plan.after.weights != weights {
        return Err(format!("after {event:?} policy and weights are not as planned"));
    }
    Ok(())
}

/// A configuration is taken over as a whole, or nothing of it; and who asks before is told the same.
fn check_reconfigured(
    before: &Group,
    after: &Group,
    asked: OperationId,
    change: &Reconfiguration,
    effects: &[Effect],
) -> Checked {
    let refusal = effects.iter().find_map(|effect| match effect {
        Effect::Finished { operation, result: Err(failure) } if *operation == asked => Some(failure),
        _ => None,
    });
    let said = before.check_reconfiguration(change);
    if said.as_ref().err() != refusal {
        return Err(format!("{change:?} ends with {refusal:?}, and was said to end with {said:?}"));
    }
    let rules = &after.rules;
    let conduct = Conduct {
        hold_max: None,
        weights: rules.weights.clone(),
        replace: rules.replace,
        hold: rules.hold,
        start: rules.start,
        drain: rules.drain,
        limits: rules.limits,
    };
    if refusal.is_some() {
        let is_same = before.policy == after.policy && before.rules == after.rules;
        return if is_same { Ok(()) } else { Err(format!("{change:?} is refused, and changes something")) };
    }
    let staying = after.workers.iter().filter(|(_, worker)| worker.goal != Goal::Leave);
    let weights: BTreeMap<u32, u32> = staying.map(|(&index, worker)| (index, worker.weight)).collect();
    let was = |index: &u32| before.workers.get(index).filter(|worker| worker.goal != Goal::Leave);
    let wanted = |index: &u32| match was(index) {
        Some(worker) => change.weights.get(index).copied().unwrap_or(worker.weight),
        None => rules.weight(*index),
    };
    let is_as_asked = conduct == change.conduct
        && after.policy == change.policy.unwrap_or(before.policy)
        && weights.iter().all(|(index, weight)| wanted(index) == *weight)
        && change.workers.is_none_or(|workers| weights.keys().copied().eq(0..workers));
    if is_as_asked { Ok(()) } else { Err(format!("after {change:?} there are {weights:?} and {rules:?}")) }
}

/// Whether an event changes nothing: it comes twice, or too late.
pub(super) fn check_changes_nothing(group: &Group, now: Millis, event: &Event) -> Checked {
    let mut again = group.clone();
    let effects = again.handle(now, event.clone());
    if effects.is_empty() && again == *group {
        return Ok(());
    }
    // The buckets' owners are too many to print.
    let mut before = group.clone();
    before.publication.owners = Arc::new([]);
    again.publication.owners = Arc::new([]);
    Err(format!("{event:?} is not to change anything, but makes {effects:?} and of\n{before:#?}\n{again:#?}"))
}
