//! The clock that the engine is given: milliseconds since the daemon started.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::engine::event::Millis;

/// A clock that never goes back.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// Milliseconds since the origin, rounded down.
    pub fn now(&self) -> Millis {
        millis(self.origin.elapsed())
    }

    /// The instant that a time of this clock stands for.
    pub fn instant(&self, at: Millis) -> Instant {
        self.origin + Duration::from_millis(at)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// A duration in whole milliseconds.
pub fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Wall-clock time, in milliseconds since the epoch of Unix.
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}
