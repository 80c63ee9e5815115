//! Ends the daemon at a chosen effect, as SIGKILL would, or one group's task, as a fault of this program would: for tests of what
//! becomes of the rest.
//!
//! `STEER_CRASH_AT` is `before:KIND:N` or `after:KIND:N`: the process kills itself at the Nth effect of that kind, such as
//! `publish` or `shut-listener`. With `panic:KIND:N` the task that is about to carry it out panics. [`Moment`]s that are no effects
//! have a kind each. Without the variable this does nothing.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::engine::effect::Effect;

/// The variable that says where.
const VARIABLE: &str = "STEER_CRASH_AT";

struct Point {
    how: How,
    kind: String,
    /// How many more effects of the kind there are until then.
    left: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    KillBefore,
    KillAfter,
    Panic,
}

fn point() -> Option<&'static Point> {
    static POINT: OnceLock<Option<Point>> = OnceLock::new();
    POINT.get_or_init(|| parse(&std::env::var(VARIABLE).ok()?)).as_ref()
}

fn parse(text: &str) -> Option<Point> {
    let mut parts = text.split(':');
    let how = match parts.next()? {
        "before" => How::KillBefore,
        "after" => How::KillAfter,
        "panic" => How::Panic,
        _ => return None,
    };
    let (kind, count) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    Some(Point { how, kind, left: AtomicU64::new(count) })
}

/// A moment between two effects.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    /// A worker has said that it is ready, and no record says so.
    Ready,
    /// A record says so, and the worker's datagram is still in the queue.
    Consume,
}

/// Ends the process, should it be to end at this moment.
pub(super) fn at(moment: Moment) {
    if let Some(point) = point().filter(|point| point.how != How::KillAfter) {
        let kind = match moment {
            Moment::Ready => "ready",
            Moment::Consume => "consume",
        };
        count(point, kind);
    }
}

/// Ends the process, should it be to end before this effect.
pub(super) fn before(effect: &Effect) {
    if let Some(point) = point().filter(|point| point.how != How::KillAfter) {
        count(point, kind(effect));
    }
}

/// What to call after this effect: it ends the process, should it be to end there.
pub(super) fn after(effect: &Effect) -> impl FnOnce() + use<> {
    let kind = kind(effect);
    move || {
        if let Some(point) = point().filter(|point| point.how == How::KillAfter) {
            count(point, kind);
        }
    }
}

fn count(point: &Point, kind: &str) {
    if point.kind == kind && point.left.fetch_sub(1, Relaxed) == 1 {
        assert!(point.how != How::Panic, "{VARIABLE} wants it at {kind}");
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
        assert!(point.how == How::KillBefore && point.kind == "shut-listener");
    }
}
