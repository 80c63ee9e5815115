//! How much of a processor a thread may take for what has to be done now and then.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A part of one CPU's time, and what may be taken at once after a rest.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The part, in thousandths.
    permille: u32,
    burst: Duration,
    /// What is left; `debt` is what was taken beyond.
    left: Duration,
    debt: Duration,
    since: Instant,
}

impl Budget {
    pub(crate) fn new(permille: u32, burst: Duration, now: Instant) -> Self {
        Self { permille, burst, left: burst, debt: Duration::ZERO, since: now }
    }

    /// Whether something may be taken now.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since) * self.permille / 1000;
        // Less than what can be told apart is earned later.
        if !earned.is_zero() {
            self.since = now;
            let paid = earned.min(self.debt);
            self.debt -= paid;
            self.left = (self.left + earned - paid).min(self.burst);
        }
        self.debt.is_zero()
    }

    /// Something was taken. It may be more than what was left: then the next has to wait.
    pub(crate) fn take(&mut self, cost: Duration) {
        let from_left = cost.min(self.left);
        self.left -= from_left;
        self.debt += cost - from_left;
    }

    /// When something may be taken again.
    pub(crate) fn allows_at(&self) -> Instant {
        self.since + self.debt * 1000 / self.permille
    }
}

/// The processor's time that the calling thread has taken so far.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Since the thread's begin: neither part is negative.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_more_is_paid_back_at_the_rate() {
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut budget = Budget::new(20, Duration::from_millis(100), begin);
        budget.take(Duration::from_millis(60));
        assert!(budget.allows(at(0)));
        budget.take(Duration::from_millis(60));
        assert!(!budget.allows(at(0)), "20 ms beyond the burst");
        assert!(!budget.allows(at(900)));
        assert_eq!(budget.allows_at(), at(1_000), "20 ms are 2 % of a second");
        assert!(budget.allows(at(1_000)));
        budget.take(Duration::from_millis(1));
        assert!(!budget.allows(at(1_001)), "nothing was left over");
        assert!(budget.allows(at(100_000)));
        budget.take(Duration::from_millis(100));
        assert!(budget.allows(at(100_000)), "no more than the burst is saved up, and all of it is");
    }
}
