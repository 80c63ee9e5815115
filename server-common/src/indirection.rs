//! Which of a worker's sockets at an address gets a flow: an indirection table for each slot, as network cards have one for their
//! receive queues (RSS).
//!
//! A worker's program decides how many sockets it has, and may change that while it serves. A flow's hash finds an entry, and the entry
//! names a place. When a socket comes or goes, only as many entries change as have to.

use crate::limits::SOCKETS_MAX;

/// Entries of a table: enough for [`SOCKETS_MAX`] places. With up to 64 places the parts differ by a fifth at most.
pub const ENTRIES: usize = 256;

/// How many entries one hash finds, to be tried one after another: with so many, no 13 entries in a row are left out.
pub const TRIES: u32 = 32;

/// From one of them to the next: the golden section of the table, for the most even spread (Knuth, The Art of Computer Programming,
/// volume 3, 6.4).
const DISTANCE: usize = 159;

const _: () = assert!(SOCKETS_MAX as usize <= ENTRIES);

/// The table of one slot. All of it names place 0 where nothing was written: a slot with one socket needs no more.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Indirection {
    places: [u8; ENTRIES],
}

const _: () = assert!(size_of::<Indirection>() == 256);

// SAFETY: `repr(C)` of bytes without padding, as the size asserted above shows: every bit pattern is a value.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for Indirection {}

impl Default for Indirection {
    fn default() -> Self {
        Self { places: [0; ENTRIES] }
    }
}

impl Indirection {
    /// The entry that a flow's `spread`, a hash, finds at an attempt below [`TRIES`]: each another. The first is of its uppermost bits, apart
    /// from those of the first choice's bucket.
    #[inline(always)]
    pub fn entry(spread: u64, tried: u32) -> usize {
        ((spread >> 56) as usize + DISTANCE * tried as usize) & (ENTRIES - 1)
    }

    /// The place that an entry names.
    #[inline(always)]
    pub fn place(&self, entry: usize) -> u8 {
        self.places[entry & (ENTRIES - 1)]
    }

    /// Spreads the entries evenly over these places, with the fewest changes: entries of other places go to those with the fewest, and
    /// those with the most give to those with the fewest. Without any place, everything names place 0.
    pub fn spread_over(&mut self, places: &[u8]) {
        if places.is_empty() {
            *self = Self::default();
            return;
        }
        let mut counts = [0_u32; ENTRIES];
        for &place in &self.places {
            counts[place as usize] += 1;
        }
        let fewest = |counts: &[u32; ENTRIES]| {
            *places.iter().min_by_key(|place| counts[**place as usize]).unwrap_or(&0)
        };
        for entry in &mut self.places {
            if !places.contains(entry) {
                *entry = fewest(&counts);
                counts[*entry as usize] += 1;
            }
        }
        for entry in &mut self.places {
            let to = fewest(&counts);
            // Who has one more than the fewest has its part.
            if counts[*entry as usize] > counts[to as usize] + 1 {
                counts[*entry as usize] -= 1;
                counts[to as usize] += 1;
                *entry = to;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{collections::BTreeSet, vec::Vec};

    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    fn parts(table: &Indirection, places: &[u8]) -> Vec<usize> {
        let count = |place: &u8| table.places.iter().filter(|entry| *entry == place).count();
        places.iter().map(count).collect()
    }

    #[test]
    fn each_attempt_finds_another_entry() {
        for first in 0..ENTRIES {
            let entries = (0..TRIES).map(|tried| Indirection::entry((first as u64) << 56, tried));
            let entries: Vec<usize> = entries.collect::<BTreeSet<usize>>().into_iter().collect();
            assert_eq!(entries.len(), TRIES as usize);
            let around = entries.iter().skip(1).copied().chain([entries[0] + ENTRIES]);
            let left_out = entries.iter().zip(around).map(|(one, next)| next - one - 1).max();
            assert!(left_out < Some(13), "{left_out:?}");
        }
    }

    #[test]
    fn a_table_that_nobody_has_written_names_the_first_place() {
        let mut table = Indirection::default();
        assert!((0..ENTRIES).all(|entry| table.place(entry) == 0));
        table.spread_over(&[3, 5]);
        table.spread_over(&[]);
        assert_eq!(table, Indirection::default());
    }

    proptest! {
        #[test]
        fn parts_are_even_and_no_entry_changes_that_need_not(
            steps in prop::collection::vec(btree_set(any::<u8>(), 1..=64), 1..8),
        ) {
            let mut table = Indirection::default();
            let mut before: Vec<u8> = std::vec![0];
            for places in steps {
                let places: Vec<u8> = places.into_iter().collect();
                let old = table;
                table.spread_over(&places);
                let parts = parts(&table, &places);
                prop_assert_eq!(parts.iter().sum::<usize>(), ENTRIES);
                prop_assert!(parts.iter().max().unwrap() - parts.iter().min().unwrap() <= 1);
                // What a place keeps is the lesser of what it had and of its new part, up to the rounding of parts.
                let kept = (0..ENTRIES).filter(|&entry| old.place(entry) == table.place(entry)).count();
                let least: usize = before
                    .iter()
                    .filter(|place| places.contains(place))
                    .map(|place| (0..ENTRIES).filter(|&entry| old.place(entry) == *place).count().min(ENTRIES / places.len()))
                    .sum();
                prop_assert!(kept >= least, "{} kept, {} at least", kept, least);
                before = places;
            }
        }
    }
}
