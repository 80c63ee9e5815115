//! The log: lines on stderr, as text or JSON, by RUST_LOG.
//!
//! Nothing in a daemon waits for, or dies of, what stderr is connected to: a reader that is slow, stopped or gone, a full disk, a pipe
//! that another process has set O_NONBLOCK on. Lines go into a bounded queue (`queue.rs`) and a thread writes them (`delivery.rs`). What does
//! not fit or cannot be written is dropped and counted; the log says how many lines are missing where they are missing, and so
//! does a metric.
//!
//! Not `tracing-appender`: its queue is bounded by lines and not by bytes, what it drops is told nowhere in the log, one queue would be
//! for the daemon's lines and all workers', and a write error ends up in `eprintln!`, which panics where stderr is what is broken.

mod delivery;
pub mod events;
mod format;
mod panics;
mod queue;
mod writer;

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
    time::Duration,
};

use serde_json::{Map, json};
use tracing::Level;
use tracing_subscriber::EnvFilter;

pub(crate) use self::format::Line;
use self::format::TextFields;
pub use self::{delivery::Delivery, queue::Source};
use crate::values::LogFormat;

/// How long the end of a process waits for a reader of its last lines.
const AT_END: Duration = Duration::from_secs(1);

/// To this process's stderr, once there is a thread for it: in daemons.
static STDERR: OnceLock<Delivery> = OnceLock::new();

/// Starts the log of a daemon at `level` (`info`, `warn`), or at what RUST_LOG says: through a thread, which is made here. Panics go
/// the same way. Call it once, before anything else is started.
pub fn start_in_daemon(level: &str, format: LogFormat) {
    let delivery = of_stderr(format).clone();
    panics::to_log(delivery.clone(), format);
    start(level, format, move || Queued(delivery.clone()));
}

/// Starts the log of a command: straight to stderr, and with no thread.
pub fn start_in_command(level: &str) {
    start(level, LogFormat::Text, || Straight);
}

fn start<W: Write>(level: &str, format: LogFormat, writer: impl Fn() -> W + Send + Sync + 'static) {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(wanted) if !wanted.trim().is_empty() => EnvFilter::builder().parse_lossy(wanted),
        _ => EnvFilter::new(level),
    };
    let colour = crate::cli::colour_wanted() && io::stderr().is_terminal();
    // An internal error would go to `eprintln!`.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colour);
    let builder = builder.log_internal_errors(false);
    match format {
        LogFormat::Text => builder.fmt_fields(TextFields).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// What writes lines to this process's stderr without ever waiting; made at the first call, whose format is that of the line that
/// tells of dropped ones.
pub fn of_stderr(format: LogFormat) -> &'static Delivery {
    STDERR.get_or_init(|| {
        let tell = match format {
            LogFormat::Text => |count| dropped_line(count, LogFormat::Text),
            LogFormat::Json => |count| dropped_line(count, LogFormat::Json),
        };
        Delivery::start(io::stderr(), tell)
    })
}

/// How many lines of the log were dropped so far.
pub fn dropped() -> u64 {
    STDERR.get().map_or(0, Delivery::dropped)
}

/// Writes a command's last words to stderr, in a daemon after what its log has said. Whether anybody reads them makes no difference.
pub fn last_words(text: &str) {
    match STDERR.get() {
        Some(delivery) => delivery.put(Source::Daemon, text.as_bytes()),
        None => Straight.put(text.as_bytes()),
    }
}

/// Waits, for a moment at most, until the lines so far are written.
pub fn finish() {
    if let Some(delivery) = STDERR.get() {
        delivery.flush(AT_END);
    }
}

fn dropped_line(count: u64, format: LogFormat) -> String {
    let (lines, were) = if count == 1 { ("line", "was") } else { ("lines", "were") };
    let message = format!("{count} {lines} {were} dropped: stderr was not read");
    let fields = Map::from_iter([("dropped".to_owned(), json!(count))]);
    Line { level: Level::WARN, target: "steer::log", message: &message, fields }.format(format)
}

/// Takes each line whole: `tracing_subscriber` writes an event at once.
struct Queued(Delivery);

impl Write for Queued {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(Source::Daemon, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to stderr, and has no errors: where it cannot be written, there is nobody to tell.
struct Straight;

impl Straight {
    fn put(&mut self, line: &[u8]) {
        let _ = io::stderr().write_all(line);
    }
}

impl Write for Straight {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
