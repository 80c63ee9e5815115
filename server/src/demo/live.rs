//! The line that shows the demo at work: on a terminal rewritten in place, else one line a second, to stderr.

use std::{
    cell::RefCell,
    io::{IsTerminal, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use crate::load::Probe;

const REWRITE_EVERY: Duration = Duration::from_millis(200);
const PRINT_EVERY: Duration = Duration::from_secs(1);

/// What is going on.
pub(super) struct Live {
    terminal: bool,
    now: RefCell<Option<Phase>>,
}

/// One phase of one side.
struct Phase {
    name: String,
    doing: &'static str,
    probe: Arc<Probe>,
    done: u64,
    /// The instant and the number of connections of the last line.
    last: (Instant, u64),
}

impl Live {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), now: RefCell::new(None) }
    }

    /// A phase begins: `doing` is what is counted, as `restarts`.
    pub(super) fn begin(&self, name: String, doing: &'static str, probe: &Arc<Probe>) {
        let probe = Arc::clone(probe);
        *self.now.borrow_mut() = Some(Phase { name, doing, probe, done: 0, last: (Instant::now(), 0) });
    }

    /// One more is done.
    pub(super) fn count(&self) {
        if let Some(phase) = &mut *self.now.borrow_mut() {
            phase.done += 1;
        }
    }

    /// The phase is over: its last state stays on the screen.
    pub(super) fn end(&self) {
        if let Some(mut phase) = self.now.borrow_mut().take() {
            self.show(&phase.line(Instant::now()));
            self.write("\n");
        }
    }

    /// Takes away what has not been ended.
    pub(super) fn clear(&self) {
        if self.now.borrow_mut().take().is_some() {
            self.write("\r\x1b[2K");
        }
    }

    /// Keeps the line up to date, for as long as it is polled.
    pub(super) async fn keep_up(&self) {
        let mut ticks = interval(if self.terminal { REWRITE_EVERY } else { PRINT_EVERY });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            if let Some(phase) = &mut *self.now.borrow_mut() {
                self.show(&phase.line(Instant::now()));
            }
        }
    }

    fn show(&self, line: &str) {
        if self.terminal {
            self.write(&format!("\r\x1b[2K{line}"));
        } else {
            // A closed stderr is no reason to end the demo, as `eprintln` would.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    }

    /// Moves the terminal's cursor or writes on it; elsewhere there is nothing to move.
    fn write(&self, text: &str) {
        if self.terminal {
            let mut stderr = std::io::stderr().lock();
            let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        }
    }
}

impl Phase {
    fn line(&mut self, now: Instant) -> String {
        let counts = self.probe.snapshot();
        let (then, before) = std::mem::replace(&mut self.last, (now, counts.connections));
        let seconds = now.duration_since(then).as_secs_f64();
        let rate = if seconds > 0.0 { (counts.connections - before) as f64 / seconds } else { 0.0 };
        format!(
            "{:<24} {:>9} connections {:>7.0}/s {:>5} {} {:>6} failed",
            self.name, counts.connections, rate, self.done, self.doing, counts.failed,
        )
    }
}
