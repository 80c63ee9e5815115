//! Ends the daemon at a chosen effect, as SIGKILL would: for tests of what the next daemon makes of it.
//!
//! `STEER_CRASH_AT` is `before:KIND:N` or `after:KIND:N`: the process kills itself at the Nth effect of that kind, such as
//! `publish` or `shut-listener`. Without the variable this does nothing.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::engine::effect::Effect;

/// The variable that says where.
const VARIABLE: &str = "STEER_CRASH_AT";

struct Point {
    is_before: bool,
    kind: String,
    /// How many more effects of the kind there are until then.
    left: AtomicU64,
}

fn point() -> Option<&'static Point> {
    static POINT: OnceLock<Option<Point>> = OnceLock::new();
    POINT.get_or_init(|| parse(&std::env::var(VARIABLE).ok()?)).as_ref()
}

fn parse(text: &str) -> Option<Point> {
    let mut parts = text.split(':');
    let is_before = match parts.next()? {
        "before" => true,
        "after" => false,
        _ => return None,
    };
    let (kind, count) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    Some(Point { is_before, kind, left: AtomicU64::new(count) })
}

/// Ends the process, should it be to end before this effect.
pub(super) fn before(effect: &Effect) {
    if let Some(point) = point().filter(|point| point.is_before) {
        count(point, kind(effect));
    }
}

/// What to call after this effect: it ends the process, should it be to end there.
pub(super) fn after(effect: &Effect) -> impl FnOnce() + use<> {
    let kind = kind(effect);
    move || {
        if let Some(point) = point().filter(|point| !point.is_before) {
            count(point, kind);
        }
    }
}

fn count(point: &Point, kind: &str) {
    if point.kind == kind && point.left.fetch_sub(1, Relaxed) == 1 {
        // Nothing of this process runs any more: not a destructor, not a buffer's flush.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// The word for a kind of effect.
fn kind(effect: &Effect) -> &'static str {
    match effect {
        Effect::MakeHold { .. } => "make-hold",
        Effect::ShutHold { .. } => "shut-hold",
        Effect::Start { .. } => "start",
        Effect::Probe { .. } => "probe",
        Effect::Publish(_) => "publish",
        Effect::Observe { .. } => "observe",
        Effect::Signal { .. } => "signal",
        Effect::ShutListener { .. } => "shut-listener",
        Effect::Forget { .. } => "forget",
        Effect::Receipt { .. } => "receipt",
        Effect::Finished { .. } => "finished",
        Effect::Note(_) => "note",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_point_is_none() {
        assert!(
            ["", "publish", "after:publish", "at:publish:1", "after:publish:x"]
                .map(parse)
                .iter()
                .all(Option::is_none)
        );
        let point = parse("before:shut-listener:3").unwrap();
        assert!(point.is_before && point.kind == "shut-listener");
    }
}
