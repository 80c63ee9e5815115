//! What happens to the workers when: the same for all three sides. Pure.

use std::time::Duration;

/// From the begin of one restart to the begin of the next, if it is over by then.
const RESTART_EVERY: Duration = Duration::from_millis(50);

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Restart this worker.
    Restart(u32),
    /// Have this many workers.
    Scale(u32),
}

/// Restarts worker after worker, evenly spaced, with a scale-down to half at two fifths of the time and the
/// scale-up at three fifths. What comes late shifts the rest: restarts are left out, the scales never.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    length: Duration,
    /// The numbers of workers that are still to be scaled to, and when.
    scales: Vec<(Duration, u32)>,
    workers: u32,
    next_worker: u32,
    next_restart: Duration,
}

impl Schedule {
    /// A schedule of this length for a service that has this many workers.
    pub(super) fn new(length: Duration, workers: u32) -> Self {
        let half = (workers / 2).max(1);
        let mut scales = vec![(length * 3 / 5, workers), (length * 2 / 5, half)];
        scales.retain(|_| half < workers);
        Self { length, scales, workers, next_worker: 0, next_restart: Duration::ZERO }
    }

    /// The next thing to do and the time before which it shall not begin; `None` once the time is over.
    pub(super) fn next(&mut self, now: Duration) -> Option<(Duration, Action)> {
        let at = self.next_restart.max(now);
        if let Some((due, workers)) = self.scales.pop_if(|(due, _)| *due <= at) {
            self.workers = workers;
            return Some((due.max(now), Action::Scale(workers)));
        }
        if at >= self.length {
            return None;
        }
        let worker = self.next_worker % self.workers;
        self.next_worker = worker + 1;
        self.next_restart = at + RESTART_EVERY;
        Some((at, Action::Restart(worker)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries a schedule out where each action takes this long.
    fn carry_out(mut schedule: Schedule, each: Duration) -> Vec<(Duration, Action)> {
        let mut now = Duration::ZERO;
        let mut done = Vec::new();
        while let Some((at, action)) = schedule.next(now) {
            assert!(at >= now, "{action:?} is due in the past");
            done.push((at, action));
            now = at + each;
        }
        done
    }

    #[test]
    fn every_worker_is_restarted_again_and_again_and_scaled_away_workers_are_not() {
        let done = carry_out(Schedule::new(Duration::from_secs(10), 4), Duration::from_millis(10));
        let restarts = |of| done.iter().filter(|(_, action)| *action == Action::Restart(of)).count();
        assert!((0..4).all(|worker| restarts(worker) >= 35), "{done:?}");
        let scaled = |to| done.iter().position(|(_, action)| *action == Action::Scale(to)).unwrap();
        let (down, up) = (scaled(2), scaled(4));
        assert!(done[down..up].iter().all(|(_, a)| !matches!(a, Action::Restart(2..))));
        assert_eq!(done[down].0, Duration::from_secs(4));
        assert_eq!(done[up].0, Duration::from_secs(6));
    }

    #[test]
    fn a_slow_service_is_restarted_less_often_but_scaled_all_the_same() {
        let done = carry_out(Schedule::new(Duration::from_secs(1), 4), Duration::from_millis(700));
        let actions: Vec<_> = done.into_iter().map(|(_, action)| action).collect();
        assert_eq!(actions, [Action::Restart(0), Action::Scale(2), Action::Scale(4)]);
    }

    #[test]
    fn a_single_worker_is_not_scaled() {
        let done = carry_out(Schedule::new(Duration::from_secs(1), 1), Duration::ZERO);
        assert!(done.iter().all(|(_, action)| *action == Action::Restart(0)));
        assert_eq!(done.len(), 20);
    }
}
