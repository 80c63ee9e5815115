//! How long a worker that fails again and again waits before each of its starts.

use serde::{Deserialize, Serialize};

use super::event::Millis;

/// The wait is doubled from the first to the last.
const MIN: Millis = 100;
const MAX: Millis = 30_000;

/// The longest wait while no worker of the group works: what connects then is held, and its patience is not endless.
const MAX_ALONE: Millis = 1_000;

/// How long to wait before a worker is started again for which there was no slot.
const SLOT_RETRY: Millis = 1_000;

/// How long a worker must have worked without being lost for the next wait to be none. Planned handovers in between are
/// no interruption.
const STEADY: Millis = 10_000;

/// A worker's failures in a row, and the wait that they bring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    failures: u32,
    /// When the last failure was, and how long to wait from then.
    wait: Option<(Millis, Millis)>,
    /// Since when it has worked without being lost.
    works_since: Option<Millis>,
}

impl Backoff {
    /// It works, from nothing or after a failure.
    pub(super) fn works(&mut self, now: Millis) {
        self.works_since = Some(now);
        self.wait = None;
    }

    /// A start came to nothing.
    pub(super) fn start_failed(&mut self, now: Millis) {
        self.wait = Some((now, doubled(self.failures)));
        self.failures += 1;
    }

    /// It was lost while it worked. The first restart is at once.
    pub(super) fn lost(&mut self, now: Millis) {
        let was_steady = self.works_since.take().is_some_and(|since| now >= since + STEADY);
        self.failures = if was_steady { 0 } else { self.failures + 1 };
        self.wait = self.failures.checked_sub(2).map(|before| (now, doubled(before)));
    }

    /// No slot was free for it.
    pub(super) fn wait_for_slot(&mut self, now: Millis) {
        self.wait = Some((now, SLOT_RETRY));
    }

    /// The wait is over: it is started, or somebody wants it now.
    pub(super) fn end_wait(&mut self) {
        self.wait = None;
    }

    /// When it may be started; `None` where that is at once. `alone` is whether no worker of its group works.
    pub(super) fn due_at(&self, alone: bool) -> Option<Millis> {
        let (since, wait) = self.wait?;
        Some(since + if alone { wait.min(MAX_ALONE) } else { wait })
    }
}

fn doubled(failures: u32) -> Millis {
    (MIN << failures.min(16)).min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS_WORK: bool = false;
    const ALONE: bool = true;

    #[test]
    fn each_loss_after_the_first_waits_twice_as_long_and_no_longer_than_clients_do() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut waits = |when_alone: bool| {
            let mut lose = || {
                backoff.works(now);
                now += STEADY - 1;
                backoff.lost(now);
                backoff.due_at(when_alone).map(|at| at - now)
            };
            (0..12).map(|_| lose()).collect::<Vec<_>>()
        };
        let doubled = [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000].map(Some);
        assert_eq!(waits(OTHERS_WORK), [&[None], &doubled[..]].concat());
        assert_eq!(waits(ALONE), [Some(1_000); 12]);
    }

    #[test]
    fn a_worker_that_worked_for_a_while_is_started_at_once() {
        let mut backoff = Backoff::default();
        for now in [0, 1, 2] {
            backoff.works(now);
            backoff.lost(now);
        }
        assert_eq!(backoff.due_at(OTHERS_WORK), Some(202));
        backoff.works(300);
        assert_eq!(backoff.due_at(OTHERS_WORK), None);
        backoff.lost(300 + STEADY);
        assert_eq!(backoff.due_at(OTHERS_WORK), None);
    }

    #[test]
    fn a_start_that_fails_waits_from_the_first_on() {
        let mut backoff = Backoff::default();
        backoff.start_failed(7);
        assert_eq!(backoff.due_at(OTHERS_WORK), Some(107));
        backoff.start_failed(107);
        assert_eq!(backoff.due_at(OTHERS_WORK), Some(307));
        // It has never worked: that is no steadiness.
        backoff.lost(1_000_000);
        assert_eq!(backoff.due_at(OTHERS_WORK), Some(1_000_200));
        backoff.end_wait();
        assert_eq!(backoff.due_at(ALONE), None);
    }
}
