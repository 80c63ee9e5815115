//! What has become of the starts of a group's workers. Pure.

use std::collections::BTreeMap;

use crate::engine::event::Millis;

/// How many starts of each worker have to come to nothing before there is no hope for it. One that had all the time that there is counts
/// for all.
const TRIES: u32 = 3;

/// The starts so far.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// Whether a worker has ever worked.
    has_succeeded: bool,
    /// By worker, when the last began.
    begun: BTreeMap<u32, Millis>,
    /// By worker, how many have come to nothing.
    failed: BTreeMap<u32, u32>,
}

impl Starts {
    /// A worker is started.
    pub(crate) fn begun(&mut self, worker: u32, now: Millis) {
        self.begun.insert(worker, now);
    }

    /// A worker works.
    pub(crate) fn succeeded(&mut self) {
        self.has_succeeded = true;
    }

    /// Whether a worker has ever worked.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.has_succeeded
    }

    /// A start has come to nothing, which may take this long.
    pub(crate) fn failed(&mut self, worker: u32, now: Millis, deadline: Millis) {
        let took = self.begun.get(&worker).map_or(0, |begun| now.saturating_sub(*begun));
        *self.failed.entry(worker).or_default() += if took >= deadline { TRIES } else { 1 };
    }

    /// Whether no worker has ever worked, and each of these has been tried often enough.
    pub(crate) fn are_hopeless(&self, workers: impl IntoIterator<Item = u32>) -> bool {
        let tried = |worker| self.failed.get(&worker).is_some_and(|failed| *failed >= TRIES);
        !self.has_succeeded && workers.into_iter().all(tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_hope_once_each_was_tried_often_or_long_enough_and_none_ever_worked() {
        let mut starts = Starts::default();
        for _ in 0..TRIES {
            assert!(!starts.are_hopeless([0, 1]));
            starts.failed(0, 0, 100);
        }
        assert!(!starts.are_hopeless([0, 1]), "the other may come yet");
        starts.begun(1, 1_000);
        starts.failed(1, 1_100, 100);
        assert!(starts.are_hopeless([0, 1]));
        starts.succeeded();
        assert!(!starts.are_hopeless([0, 1]));
    }
}
