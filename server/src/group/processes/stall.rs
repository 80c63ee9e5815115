//! Whether a listener's queue grows and nothing is taken from it: a pure function of what was seen.
//!
//! The kernel tells how long a queue is and not how much has been taken from it. A queue that never fell for a while, though
//! connections were in it all the time, belongs to a worker that takes nothing, or to one that takes exactly as many as
//! come; what the program counted meanwhile tells these apart.

use std::collections::VecDeque;

/// For how long nothing must have been taken, in nanoseconds. With the time between two looks and a grace for the look
/// itself, that leaves a stalled worker without new flows within 50 ms of the first that it did not take.
const WINDOW: u64 = 24_000_000;

/// After how long without a look the looks before it do not count: in between anything can have happened.
const PAUSE: u64 = 200_000_000;

/// What one look at a queue found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueSample {
    /// When: CLOCK_MONOTONIC, in nanoseconds.
    pub(crate) at: u64,
    /// Unaccepted connections.
    pub(crate) queue: u64,
    /// New connections that the program has selected the listener for, so far.
    pub(crate) selected: u64,
}

/// The looks of the last while.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    /// Oldest first: those within the window, and one before it.
    looks: VecDeque<QueueSample>,
}

impl Tracker {
    /// Takes a look in; whether the listener's worker has stalled.
    pub(super) fn take_in(&mut self, look: QueueSample) -> bool {
        let is_news = |last: &QueueSample| look.queue < last.queue || look.at.saturating_sub(last.at) > PAUSE;
        if look.queue == 0 || self.looks.back().is_some_and(is_news) {
            // Something was taken, or there is nothing to take, or nobody looked: what was before says nothing any more.
            self.looks.clear();
        }
        self.looks.push_back(look);
        let is_old = |other: &QueueSample| look.at.saturating_sub(other.at) >= WINDOW;
        while self.looks.get(1).is_some_and(is_old) {
            self.looks.pop_front();
        }
        let Some(first) = self.looks.front().filter(|first| is_old(first)) else { return false };
        let grown = look.queue - first.queue;
        let came = look.selected.saturating_sub(first.selected);
        // Connections are selected for at their SYN and queued at their last ACK: of those that came, a part may be on the way.
        let taken = came.saturating_sub(grown);
        first.queue > 0 && 4 * taken <= came
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 10_000_000;

    /// Looks every 10 ms at queues and counts; when each was called stalled.
    fn stalled(looks: &[(u64, u64)]) -> Vec<bool> {
        let mut tracker = Tracker::default();
        let look =
            |(at, &(queue, selected)): (u64, &(u64, u64))| QueueSample { at: at * STEP, queue, selected };
        (0..).zip(looks).map(look).map(|look| tracker.take_in(look)).collect()
    }

    #[test]
    fn a_queue_that_grows_by_all_that_comes_is_stalled_after_the_window() {
        let looks: Vec<_> = (0..6).map(|at| (1 + 5 * at, 100 + 5 * at)).collect();
        assert_eq!(stalled(&looks), [false, false, false, true, true, true]);
        let untouched = [(3, 9); 5];
        assert_eq!(stalled(&untouched), [false, false, false, true, true]);
    }

    #[test]
    fn one_that_is_taken_from_is_not() {
        let steady: Vec<_> = (0..20).map(|at| (7, 100 + 50 * at)).collect();
        assert!(!stalled(&steady).contains(&true), "as many are taken as come");
        let slow: Vec<_> = (0..20).map(|at| (1 + 2 * at, 100 + 10 * at)).collect();
        assert!(!stalled(&slow).contains(&true), "it grows, and most of what comes is taken");
        let idle: Vec<_> = (0..20).map(|at| (0, 10 * at)).collect();
        assert!(!stalled(&idle).contains(&true));
    }

    #[test]
    fn the_first_connection_taken_ends_it() {
        let looks = [(1, 1), (2, 2), (3, 3), (4, 4), (3, 4), (3, 4), (3, 4), (3, 4), (3, 4)];
        let expected = [false, false, false, true, false, false, false, true, true];
        assert_eq!(stalled(&looks), expected);
    }

    #[test]
    fn half_open_connections_do_not_hide_a_stall() {
        // Ten more each time, of which two are on their way.
        let looks: Vec<_> = (0..5).map(|at| (1 + 8 * at, 10 * at)).collect();
        assert_eq!(stalled(&looks), [false, false, false, true, true]);
    }

    #[test]
    fn what_was_seen_before_a_pause_says_nothing() {
        let mut tracker = Tracker::default();
        tracker.take_in(QueueSample { at: 0, queue: 5, selected: 5 });
        assert!(!tracker.take_in(QueueSample { at: 50 * STEP, queue: 5, selected: 5 }));
    }
}
