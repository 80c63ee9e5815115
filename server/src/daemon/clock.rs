//! The clock that the engine is given: milliseconds since the boot, so that it goes on in the next daemon.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::engine::event::Millis;

/// A clock that never goes back: CLOCK_MONOTONIC, which all processes of a boot share.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Instant,
    began_at: Duration,
}

impl Clock {
    /// The clock, and the moment from which [`age`](Self::age) counts.
    pub fn new() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        // Since the boot: neither part is negative.
        let began_at = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
        Self { began: Instant::now(), began_at }
    }

    /// Milliseconds since the boot, rounded down.
    pub fn now(&self) -> Millis {
        millis(self.began_at + self.began.elapsed())
    }

    /// Milliseconds since this clock was made.
    pub fn age(&self) -> Millis {
        millis(self.began.elapsed())
    }

    /// The instant that a time of this clock stands for; the clock's begin for one before that.
    pub fn instant(&self, at: Millis) -> Instant {
        self.began + Duration::from_millis(at).saturating_sub(self.began_at)
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
