//! Which flows can have reached a generation, and until when.

use server_common::{choice::bucket, keying::Keying, limits::BUCKETS};

use crate::engine::event::Millis;

/// How many tables a generation's [`Reach`] tells apart.
const TABLES_MAX: usize = 4;

/// What of a table could send a flow to a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// The buckets that name its slot, for keys made like this.
    Buckets(Keying, BucketSet),
    /// Anything: not the table alone decides, but loads or CPUs too.
    AnyFlow,
    /// Nothing.
    Nothing,
}

/// Which flows tables have sent to a generation's slot, and until when each did.
///
/// A handshake that is half-open now may have begun under an earlier table than the last. All that tables ever have
/// named would be too much: the first worker that is ready has every bucket, for a moment.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// By table, oldest first; the second is when no program read the table any more, nothing where one may.
    tables: Vec<(Named, Option<Millis>)>,
}

impl Reach {
    /// Any flow that began before an instant, or before the next table's, can have reached it.
    pub(super) fn of_any_flow(until: Option<Millis>) -> Self {
        Self { tables: vec![(Named::AnyFlow, until)] }
    }

    /// A table that names this is about to be published.
    pub(super) fn publish(&mut self, named: Named) {
        if self.tables.last().is_some_and(|(last, _)| *last == named) {
            return;
        }
        self.tables.push((named, None));
        if self.tables.len() > TABLES_MAX {
            // As if the older of the two had been read for as long as the younger: a drain may wait for one too many.
            let (oldest, _) = self.tables.remove(0);
            self.tables[0].0.extend(oldest);
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

    /// Whether a flow may have reached the generation. `key` makes the flow's key; `began_before` tells whether the flow may
    /// have begun before an instant.
    pub(super) fn may_have(
        &self,
        key: impl Fn(&Keying) -> u64,
        began_before: impl Fn(Millis) -> bool,
    ) -> bool {
        self.tables.iter().any(|(named, ended)| named.includes(&key) && ended.is_none_or(&began_before))
    }
}

impl Named {
    fn includes(&self, key: impl Fn(&Keying) -> u64) -> bool {
        match self {
            Self::Buckets(keying, buckets) => buckets.contains(bucket(key(keying), 0)),
            Self::AnyFlow => true,
            Self::Nothing => false,
        }
    }

    fn extend(&mut self, other: Self) {
        *self = match (std::mem::replace(self, Self::Nothing), other) {
            (Self::Nothing, one) | (one, Self::Nothing) => one,
            (Self::Buckets(keying, mut buckets), Self::Buckets(others, more)) if keying == others => {
                buckets.extend(&more);
                Self::Buckets(keying, buckets)
            }
            // Buckets of different keys cannot be told in one set.
            _ => Self::AnyFlow,
        };
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

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn contains(&self, bucket: usize) -> bool {
        self.0[bucket / 64] >> (bucket % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u64; 2] = [1, 2];

    /// A set of buckets, which are the keys of these tests too.
    fn named(buckets: &[usize]) -> Named {
        let mut set = BucketSet::default();
        buckets.iter().for_each(|bucket| set.insert(*bucket));
        Named::Buckets(Keying::four_tuple(SEED), set)
    }

    fn key(bucket: usize) -> impl Fn(&Keying) -> u64 {
        move |_| bucket as u64
    }

    #[test]
    fn a_bucket_that_went_to_another_counts_for_what_began_before() {
        let mut reach = Reach::default();
        reach.publish(named(&[1, 70]));
        reach.publish(named(&[1]));
        let began_at = |began: Millis| move |instant: Millis| began < instant;
        assert!(reach.may_have(key(70), began_at(9)), "the older table may still be read");
        reach.published(5);
        assert!(reach.may_have(key(70), began_at(4)));
        assert!(!reach.may_have(key(70), began_at(5)));
        assert!(reach.may_have(key(1), began_at(9)));
        assert!(!reach.may_have(key(2), began_at(0)));
        // The table that does not name it at all is a drain's first instant.
        reach.publish(Named::Nothing);
        reach.published(8);
        assert!(reach.may_have(key(1), began_at(7)) && !reach.may_have(key(1), began_at(8)));
    }

    #[test]
    fn many_tables_are_few_sets_and_none_is_forgotten() {
        let mut reach = Reach::default();
        for table in 0..100 {
            reach.publish(named(&[table]));
            reach.publish(named(&[table]));
            reach.published(table as Millis);
        }
        assert_eq!(reach.tables.len(), TABLES_MAX);
        assert!((0..100).all(|bucket| reach.may_have(key(bucket), |instant| instant >= 90)));
        assert!(!reach.may_have(key(3), |_| false) && reach.may_have(key(99), |_| false));
    }

    #[test]
    fn a_flow_is_found_by_the_key_of_its_table() {
        let mut reach = Reach::default();
        reach.publish(named(&[7]));
        let by_source = Keying::source(SEED, 32, 128);
        let mut set = BucketSet::default();
        set.insert(9);
        reach.publish(Named::Buckets(by_source, set));
        reach.published(5);
        let flow = |keying: &Keying| if keying.is_four_tuple() { 7 } else { 8 };
        assert!(reach.may_have(flow, |_| true) && !reach.may_have(flow, |_| false));
        assert!(reach.may_have(|keying| if keying.is_four_tuple() { 1 } else { 9 }, |_| false));
    }

    #[test]
    fn where_loads_decide_any_flow_may_be_its_own() {
        let mut reach = Reach::default();
        reach.publish(Named::AnyFlow);
        reach.publish(Named::Nothing);
        reach.published(5);
        assert!(reach.may_have(key(3), |instant| instant == 5) && !reach.may_have(key(3), |_| false));
        // What can only be told apart in too many sets is any flow, for as long as the youngest of it was read.
        let mut mixed = Reach::default();
        for table in 0..6_u8 {
            let mut set = BucketSet::default();
            set.insert(usize::from(table));
            mixed.publish(Named::Buckets(Keying::source(SEED, table, 0), set));
            mixed.published(u64::from(table));
        }
        assert!(mixed.may_have(key(60_000), |instant| instant == 3), "{mixed:?}");
        assert!(!mixed.may_have(key(60_000), |instant| instant > 3));
    }
}
