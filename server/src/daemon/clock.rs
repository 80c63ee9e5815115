//! The clock that the engine is given: milliseconds since the boot, so that it goes on in the next daemon.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

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

    /// Ticks at whole multiples of a period since the boot. Those of all groups come at the same instants, so that a daemon that has
    /// nothing to do is woken once for all of them. After one that was late the next comes at its time, which may be at once.
    pub fn ticks(&self, period: Duration) -> Interval {
        let next = (self.now() / millis(period) + 1) * millis(period);
        let mut ticks = interval_at(self.instant(next).into(), period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ticks_of_whoever_asks_come_at_multiples_of_their_period() {
        const PERIOD: Duration = Duration::from_millis(250);
        let clock = Clock::new();
        let since_boot =
            |at: tokio::time::Instant| clock.began_at + at.into_std().duration_since(clock.began);
        for _ in 0..2 {
            let mut ticks = clock.ticks(PERIOD);
            let [first, second] = [ticks.tick().await, ticks.tick().await];
            // The system's clock does not follow the paused one: whole periods may be between the two.
            assert_eq!([first, second].map(|at| since_boot(at).as_nanos() % PERIOD.as_nanos()), [0, 0]);
            assert!(second > first);
            // Somebody else asks at some other time.
            tokio::time::advance(Duration::from_millis(77)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_that_was_late_moves_none_after_it() {
        const PERIOD: Duration = Duration::from_millis(250);
        let mut ticks = Clock::new().ticks(PERIOD);
        let first = ticks.tick().await;
        tokio::time::advance(PERIOD * 3 + PERIOD / 2).await;
        ticks.tick().await;
        let next = ticks.tick().await - first;
        assert_eq!(next.as_nanos() % PERIOD.as_nanos(), 0);
        assert_eq!(next, PERIOD * 4);
    }
}
