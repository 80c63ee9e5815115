//! Whether datagrams still come to a slot by their QUIC connection ID: which connections a worker has, only the worker knows.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What was counted for a slot, at some instants back to the begin of the time that a connection can be idle.
#[derive(Debug)]
pub(super) struct Activity {
    counted: VecDeque<(Instant, u64)>,
}

impl Activity {
    /// That of a slot of which nothing is known from before: all that is counted for it may have come just now.
    pub(super) fn since(now: Instant) -> Self {
        Self { counted: VecDeque::from([(now, 0)]) }
    }

    /// How many datagrams have come within the last `idle`, or a little longer: as long as between two looks.
    pub(super) fn look(&mut self, now: Instant, count: u64, idle: Duration) -> u64 {
        self.counted.push_back((now, count));
        while self.counted.get(1).is_some_and(|(then, _)| now.duration_since(*then) >= idle) {
            self.counted.pop_front();
        }
        self.counted.front().map_or(0, |(_, before)| count.saturating_sub(*before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_within_the_time_is_counted() {
        let (idle, begin) = (Duration::from_secs(10), Instant::now());
        let mut activity = Activity::since(begin);
        let mut look = |seconds, count| activity.look(begin + Duration::from_secs(seconds), count, idle);
        // All of it may be new to whoever has just begun to look.
        assert_eq!([look(0, 500), look(4, 500), look(9, 500)], [500, 500, 500]);
        assert_eq!([look(10, 500), look(11, 510), look(14, 510)], [0, 10, 10]);
        assert_eq!([look(20, 510), look(21, 510), look(22, 511)], [10, 0, 1]);
        assert_eq!(look(1_000, 511), 0);
    }
}
