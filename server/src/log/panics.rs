//! Panics, in the log: the hook of the standard library writes to stderr, and waits for whatever that is connected to.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    panic::PanicHookInfo,
    thread,
};

use serde_json::Map;
use tracing::Level;

use super::{Line, Source, delivery::Delivery};
use crate::values::LogFormat;

/// Has every panic of this process told by a line of the log, and a backtrace where RUST_BACKTRACE asks for it.
pub(super) fn to_log(delivery: Delivery, format: LogFormat) {
    std::panic::set_hook(Box::new(move |panic| {
        // Not as an event: what panics may be the making of one.
        delivery.put(Source::Daemon, line(panic, format).as_bytes());
    }));
}

fn line(panic: &PanicHookInfo<'_>, format: LogFormat) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    let message = format!("thread {name} panicked{place}: {}{backtrace}", message(panic.payload()));
    Line { level: Level::ERROR, target: "steer::panic", message: &message, fields: Map::new() }.format(format)
}

/// What a panic says.
fn message(payload: &(dyn Any + Send)) -> &str {
    let constant = payload.downcast_ref::<&str>().copied();
    constant
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
