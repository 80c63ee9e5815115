//! Looking at a load while it runs, and telling it what to do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Shared with the threads of one load: live counts, whether stickiness is watched, and the end.
///
/// Each value stands alone, so relaxed ordering is enough; the exact result is the [`Tally`](super::Tally).
#[derive(Debug, Default)]
pub struct Probe {
    pub(super) connections: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) moved: AtomicU64,
    /// Odd while stickiness is not watched; what was learnt in one even epoch is not compared in another.
    epoch: AtomicU64,
    stop: AtomicBool,
}

/// The live counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Attempts that have ended.
    pub connections: u64,
    /// Those of them that failed, of whatever kind.
    pub failed: u64,
    /// Attempts that never left the client.
    pub skipped: u64,
    /// Visits answered by another worker than the visit before.
    pub moved: u64,
}

impl Probe {
    /// Starts no more connections; those that are open are still brought to their end.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Forgets which worker each 4-tuple belongs to and learns no new ones: for changes that are meant to move
    /// 4-tuples, as a scale is. Harmless when paused already.
    pub fn pause_stickiness(&self) {
        self.epoch.fetch_or(1, Relaxed);
    }

    /// Learns anew which worker each 4-tuple belongs to, and compares from then on. A connection that was open
    /// across the pause is neither learnt from nor compared. Harmless when not paused.
    pub fn resume_stickiness(&self) {
        let resumed = |epoch: u64| (epoch % 2 == 1).then(|| epoch + 1);
        // An error means that the epoch was even: nothing was paused.
        let _ = self.epoch.fetch_update(Relaxed, Relaxed, resumed);
    }

    /// The live counts, each read by itself.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            connections: self.connections.load(Relaxed),
            failed: self.failed.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            moved: self.moved.load(Relaxed),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }
}

/// Whether a connection that began in one epoch and ended in another says which worker its 4-tuple belongs to.
pub(super) fn is_watched(began: u64, ended: u64) -> bool {
    began == ended && began.is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_parts_what_was_learnt_before_from_what_is_learnt_after() {
        let probe = Probe::default();
        let before = probe.epoch();
        assert!(is_watched(before, probe.epoch()));
        probe.resume_stickiness();
        assert_eq!(probe.epoch(), before, "there was nothing to resume");
        probe.pause_stickiness();
        probe.pause_stickiness();
        let paused = probe.epoch();
        assert!(!is_watched(before, paused) && !is_watched(paused, paused));
        probe.resume_stickiness();
        let after = probe.epoch();
        assert!(is_watched(after, after) && !is_watched(before, after) && !is_watched(paused, after));
    }
}
