//! What is known, from look to look, of one generation that drains.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// How many times as long as it took a count of connections serves at least, while the generation cannot be at its end: 2 % of a CPU,
/// which is what a drain may take that has begun.
const SERVES_MIN: u32 = 50;
/// And at most, however long the drain lasts: 0.25 %.
const SERVES_MAX: u32 = 400;

/// The client's and the own address of a handshake.
type Ends = (SocketAddr, SocketAddr);

/// One generation, as its drain's looks know it.
#[derive(Debug, Default)]
pub(crate) struct Subject {
    connections: Option<Counted>,
    /// When they were counted first.
    since: Option<Instant>,
    /// The handshakes at its addresses that were half-open at its first instant and have been since: only where the kernel does not
    /// tell whose they are.
    half_open: Option<BTreeSet<Ends>>,
}

/// A count of open connections.
#[derive(Debug, Clone, Copy)]
struct Counted {
    count: u64,
    at: Instant,
    took: Duration,
    /// Whether its queue has been empty from before the count on, which was after its first instant, so that nothing can have been accepted
    /// since.
    is_final: bool,
    /// Whether its process had ended.
    was_dead: bool,
}

/// Whether connections have to be counted for an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// This many were counted, which will do.
    No(u64),
    /// Should there be time for it: else what was counted last will do.
    Wanted(u64),
    /// There is no telling without.
    Yes,
    /// As `Yes`, and they have never been.
    First,
}

impl Subject {
    /// Whether its connections have to be counted, now that its queue was seen.
    pub(crate) fn need(&mut self, queue_is_empty: bool, is_dead: bool, now: Instant) -> Need {
        let Some(counted) = &mut self.connections else { return Need::First };
        // What waits now may be accepted after the count.
        counted.is_final &= queue_is_empty;
        if is_dead && !counted.was_dead {
            return Need::Yes;
        }
        let is_known = counted.is_final || !queue_is_empty;
        // Half as long as the drain has lasted: its end is seen late only by a part of what it has taken.
        let lasted = now.saturating_duration_since(self.since.unwrap_or(now));
        let serves = (lasted / 2).clamp(counted.took * SERVES_MIN, counted.took * SERVES_MAX);
        let is_old = now.saturating_duration_since(counted.at) >= serves;
        match (is_known, is_old) {
            (false, _) => Need::Yes,
            // Connections only become fewer: none is none.
            (true, _) if counted.count == 0 && counted.is_final => Need::No(0),
            (true, true) => Need::Wanted(counted.count),
            (true, false) => Need::No(counted.count),
        }
    }

    /// Takes a count in that was made after its queue was seen. `is_final`: after its first instant, too, and the queue was empty. Before
    /// that, connections come to it still, and can be accepted at once.
    pub(crate) fn counted(&mut self, count: u64, at: Instant, took: Duration, is_final: bool, is_dead: bool) {
        self.since.get_or_insert(at);
        self.connections = Some(Counted { count, at, took, is_final, was_dead: is_dead });
    }

    /// How many handshakes may be its own, of those that are half-open at its addresses: those that have been so since its first
    /// instant. Before that, all.
    pub(crate) fn may_be_its_own(&mut self, half_open: BTreeSet<Ends>, is_after_first_instant: bool) -> u64 {
        if !is_after_first_instant {
            return half_open.len() as u64;
        }
        match &mut self.half_open {
            Some(own) => own.retain(|ends| half_open.contains(ends)),
            None => self.half_open = Some(half_open),
        }
        self.half_open.as_ref().map_or(0, |own| own.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(2);

    #[test]
    fn a_count_serves_while_nothing_can_end_by_it() {
        let begin = Instant::now();
        let mut subject = Subject::default();
        assert_eq!(subject.need(false, false, begin), Need::First);
        subject.counted(7, begin, TOOK, false, false);
        assert_eq!(subject.need(false, false, begin + TOOK), Need::No(7));
        assert_eq!(subject.need(false, false, begin + TOOK * SERVES_MIN), Need::Wanted(7));
        let later = begin + TOOK * SERVES_MAX;
        subject.counted(7, later, TOOK, false, false);
        assert_eq!(
            subject.need(false, false, later + TOOK * SERVES_MIN),
            Need::No(7),
            "the drain has lasted"
        );
        assert_eq!(subject.need(false, false, later + TOOK * SERVES_MAX), Need::Wanted(7));
        // What was in the queue may be open by now.
        assert_eq!(subject.need(true, false, begin + TOOK), Need::Yes);
        subject.counted(8, begin, TOOK, true, false);
        assert_eq!(subject.need(true, false, begin + TOOK), Need::No(8));
        assert_eq!(subject.need(true, true, begin + TOOK), Need::Yes, "its end is news");
    }

    #[test]
    fn none_is_none_for_as_long_as_nothing_waits() {
        let begin = Instant::now();
        let mut subject = Subject::default();
        subject.counted(0, begin, TOOK, true, false);
        assert_eq!(subject.need(true, false, begin + TOOK * 1000), Need::No(0));
        assert_eq!(subject.need(false, false, begin + TOOK), Need::No(0));
        assert_eq!(subject.need(true, false, begin + TOOK), Need::Yes, "what waited was accepted");
    }

    #[test]
    fn a_handshake_that_began_later_is_anothers() {
        let ends =
            |port: u16| (SocketAddr::from(([10, 0, 0, 1], port)), SocketAddr::from(([10, 0, 0, 2], 80)));
        let set = |ports: &[u16]| ports.iter().copied().map(ends).collect::<BTreeSet<_>>();
        let mut subject = Subject::default();
        assert_eq!(subject.may_be_its_own(set(&[1, 2, 3]), false), 3);
        assert_eq!(subject.may_be_its_own(set(&[2, 3]), true), 2);
        assert_eq!(subject.may_be_its_own(set(&[3, 4, 5]), true), 1);
        assert_eq!(
            subject.may_be_its_own(set(&[2, 4]), true),
            0,
            "the same 4-tuple once more is another handshake"
        );
    }
}
