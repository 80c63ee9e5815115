//! A generation as it is for the daemon: its process, its readiness, and which flows can be its own.

use server_common::limits::BUCKETS;
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    engine::event::{Millis, Slot},
    workers::process::Process,
};

/// How many tables a generation's [`Named`] tells apart.
const TABLES_MAX: usize = 4;

/// A generation that has been started and is not forgotten.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) slot: Slot,
    pub(super) process: Option<Process>,
    /// Whether the process has ended.
    pub(super) has_exited: bool,
    /// Whether it has said that it is ready, where it is to say so.
    pub(super) has_told: bool,
    /// How far its probe is, where it is ready by probe.
    pub(super) probe: ProbeState,
    /// Whether the engine has been told that it is ready.
    pub(super) is_ready: bool,
    /// The buckets that tables have named its slot for.
    pub(super) named: Named,
    /// How many times in a row its listener was seen with connections and without a process to accept them.
    pub(super) unattended: u32,
}

impl Running {
    pub(super) fn new(slot: Slot) -> Self {
        Self {
            slot,
            process: None,
            has_exited: false,
            has_told: false,
            probe: ProbeState::None,
            is_ready: false,
            named: Named::default(),
            unattended: 0,
        }
    }
}

/// How far the probe of a generation is.
#[derive(Debug, Default)]
pub(super) enum ProbeState {
    /// There is none, or it is over, or on its way.
    #[default]
    None,
    /// It has its port, and waits for the table that has its flow.
    Bound(TcpSocket),
    /// It is connected, and waits for the worker to accept it; dropping it closes it.
    Connected { _connection: TcpStream },
}

/// Which buckets tables have named a generation's slot for, and until when each did.
///
/// A handshake that is half-open now may have begun under an earlier table than the last. All that tables ever have
/// named would be too much: the first worker that is ready has every bucket, for a moment.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// By table, oldest first; the second is when no program read the table any more, nothing where one may.
    tables: Vec<(BucketSet, Option<Millis>)>,
}

impl Named {
    /// A table with these buckets is about to be published.
    pub(super) fn publish(&mut self, buckets: BucketSet) {
        if self.tables.last().is_some_and(|(last, _)| *last == buckets) {
            return;
        }
        self.tables.push((buckets, None));
        if self.tables.len() > TABLES_MAX {
            // As if the older of the two had been read for as long as the younger: a drain may wait for one too many.
            let (oldest, _) = self.tables.remove(0);
            self.tables[0].0.extend(&oldest);
        }
    }

    /// The grace period of the last table is over.
    pub(super) fn published(&mut self, now: Millis) {
        if let Some((_, before)) = self.tables.split_last_mut() {
            for (_, ended) in before {
                ended.get_or_insert(now);
            }
        }
    }

    /// Whether a flow of this bucket may have reached the generation. `began_before` tells whether the flow may have begun
    /// before an instant.
    pub(super) fn may_have(&self, bucket: usize, began_before: impl Fn(Millis) -> bool) -> bool {
        self.tables.iter().any(|(buckets, ended)| buckets.contains(bucket) && ended.is_none_or(&began_before))
    }
}

/// A set of buckets, as bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BucketSet(Box<[u64]>);

impl Default for BucketSet {
    fn default() -> Self {
        Self(vec![0; BUCKETS / 64].into())
    }
}

impl BucketSet {
    pub(super) fn insert(&mut self, bucket: usize) {
        self.0[bucket / 64] |= 1 << (bucket % 64);
    }

    fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    fn contains(&self, bucket: usize) -> bool {
        self.0[bucket / 64] >> (bucket % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(buckets: &[usize]) -> BucketSet {
        let mut set = BucketSet::default();
        buckets.iter().for_each(|bucket| set.insert(*bucket));
        set
    }

    #[test]
    fn a_bucket_that_went_to_another_counts_for_what_began_before() {
        let mut named = Named::default();
        named.publish(set(&[1, 70]));
        named.publish(set(&[1]));
        let began_at = |began: Millis| move |instant: Millis| began < instant;
        assert!(named.may_have(70, began_at(9)), "the older table may still be read");
        named.published(5);
        assert!(named.may_have(70, began_at(4)));
        assert!(!named.may_have(70, began_at(5)));
        assert!(named.may_have(1, began_at(9)));
        assert!(!named.may_have(2, began_at(0)));
        // The table that does not name it at all is a drain's first instant.
        named.publish(set(&[]));
        named.published(8);
        assert!(named.may_have(1, began_at(7)) && !named.may_have(1, began_at(8)));
    }

    #[test]
    fn many_tables_are_few_sets_and_none_is_forgotten() {
        let mut named = Named::default();
        for table in 0..100 {
            named.publish(set(&[table]));
            named.publish(set(&[table]));
            named.published(table as Millis);
        }
        assert_eq!(named.tables.len(), TABLES_MAX);
        assert!((0..100).all(|bucket| named.may_have(bucket, |instant| instant >= 90)));
        assert!(!named.may_have(3, |_| false) && named.may_have(99, |_| false));
    }
}
