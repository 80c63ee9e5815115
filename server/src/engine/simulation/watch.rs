//! One event, watched: what the engine makes of it, and that it makes nothing of it the second time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    super::{
        effect::Effect,
        event::{Event, Millis},
        group::Group,
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
    let handled = catch_unwind(AssertUnwindSafe(|| group.handle(now, event.clone())));
    let effects = handled.map_err(|panic| match panic.downcast::<String>() {
        Ok(message) => format!("the engine panics: {message}"),
        Err(_) => "the engine panics".to_owned(),
    })?;
    ledger.take_in(now, group, &event, &effects)?;
    check_changes_nothing(group, now, &event)?;
    check_changes_nothing(group, now, &Event::Tick)?;
    match group.wakes_at(now) {
        Some(at) if at <= now => {
            Err(format!("the engine wants to be woken at {at}, at {now}: it would spin"))
        }
        _ => Ok(effects),
    }
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
