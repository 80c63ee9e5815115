//! The flow table: what is remembered, what is forgotten for it, and what two CPUs at once can do to it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;
use server_common::flows::{
    Entry, IDLE_MAX, Remembered, SETS_MAX, Set, UNIT_SHIFT, WAYS, find, remember, set_of, units,
};

const IDLE: u16 = 100;

#[derive(Default)]
struct Words([AtomicU64; WAYS]);

impl Set for Words {
    fn load(&self, way: usize) -> u64 {
        self.0[way].load(Relaxed)
    }

    fn replace(&self, way: usize, old: u64, new: u64) -> bool {
        self.0[way].compare_exchange(old, new, Relaxed, Relaxed).is_ok()
    }
}

impl Words {
    fn entries(&self) -> Vec<Entry> {
        (0..WAYS).map(|way| Entry(self.load(way))).filter(|entry| *entry != Entry::NONE).collect()
    }
}

/// Hashes whose words differ.
fn hash(flow: u64) -> u64 {
    (flow + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[test]
fn a_flow_goes_where_it_went_until_it_is_idle() {
    let set = Words::default();
    assert_eq!(find(&set, hash(1), 5, IDLE), None);
    let Remembered::In { way: 0, instead_of: Entry::NONE } = remember(&set, hash(1), 77, 5, IDLE) else {
        panic!("there was room");
    };
    assert_eq!(find(&set, hash(1), 5 + IDLE, IDLE), Some(77));
    assert_eq!(find(&set, hash(1), 5 + 2 * IDLE, IDLE), Some(77), "each datagram counts");
    assert_eq!(find(&set, hash(1), 6 + 3 * IDLE, IDLE), None);
    assert_eq!(find(&set, hash(2), 5, IDLE), None);
    // It begins again, in its own place.
    remember(&set, hash(1), 78, 6 + 3 * IDLE, IDLE);
    assert_eq!((find(&set, hash(1), 6 + 3 * IDLE, IDLE), set.entries().len()), (Some(78), 1));
}

#[test]
fn what_is_forgotten_first_is_idle_and_then_the_oldest_of_those_not_established() {
    let set = Words::default();
    for flow in 0..WAYS as u64 {
        remember(&set, hash(flow), 1 + flow as u16, 10 + flow as u16, IDLE);
    }
    // The first three are established, the fourth is the oldest that is not.
    (0..3).for_each(|flow| assert!(find(&set, hash(flow), 20, IDLE).is_some()));
    let Remembered::In { instead_of, .. } = remember(&set, hash(100), 9, 20, IDLE) else { panic!("room") };
    assert_eq!(instead_of.slot(), 4);
    // Later the established are the oldest; idle ones are given up before any other.
    assert!(find(&set, hash(1), 115, IDLE).is_some());
    let Remembered::In { instead_of, .. } = remember(&set, hash(101), 9, 121, IDLE) else { panic!("room") };
    assert_eq!(instead_of, Entry::NONE);
    assert_eq!(find(&set, hash(1), 121, IDLE), Some(2));
}

#[test]
fn a_flood_of_single_datagrams_forgets_no_established_flow() {
    let set = Words::default();
    for flow in 0..WAYS as u64 - 1 {
        remember(&set, hash(flow), 3, 1, IDLE);
        find(&set, hash(flow), 1, IDLE);
    }
    for flow in 1_000..100_000 {
        let Remembered::In { .. } = remember(&set, hash(flow), 4, 2, IDLE) else { panic!("one way is free") };
    }
    (0..WAYS as u64 - 1).for_each(|flow| assert_eq!(find(&set, hash(flow), 2, IDLE), Some(3)));
    // The flood's last one comes twice: now there is room for nobody.
    find(&set, hash(99_999), 2, IDLE);
    assert_eq!(remember(&set, hash(5_000_000), 4, 2, IDLE), Remembered::Not);
    assert_eq!(find(&set, hash(0), 2, IDLE), Some(3));
}

#[test]
fn units_wrap_and_a_clock_a_little_behind_is_no_age() {
    assert_eq!((units(0), units(1 << UNIT_SHIFT), units(1 << (UNIT_SHIFT + 14))), (0, 1, 0));
    let set = Words::default();
    let late = units(((1 << 14) - 1) << UNIT_SHIFT);
    remember(&set, hash(1), 3, late, IDLE);
    assert_eq!(find(&set, hash(1), late - 1, 0), Some(3), "another CPU's clock is behind");
    assert_eq!(find(&set, hash(1), IDLE - 2, IDLE), Some(3), "time goes round");
    let entry = Entry(set.load(0));
    assert_eq!((entry.age(IDLE), entry.is_established()), (2, true));
    assert!(!entry.is_idle(IDLE - 2 + IDLE_MAX, IDLE_MAX));
}

#[test]
fn the_largest_table_s_sets_are_all_used() {
    let mut seen = vec![false; SETS_MAX as usize];
    (0..4_000_000).for_each(|flow| seen[set_of(hash(flow), SETS_MAX) as usize] = true);
    assert!(seen.iter().all(|seen| *seen));
}

/// Threads that remember and find at once: a flow that is found is found in the slot that it was remembered in.
#[test]
fn threads_never_see_half_of_a_flow() {
    let set = Words::default();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let set = &set;
            scope.spawn(move || {
                for round in 0..50_000_u64 {
                    let flow = round * 7 % 12 + 12 * (thread % 2);
                    let slot = 1 + flow as u16;
                    match find(set, hash(flow), 1, IDLE) {
                        Some(found) => assert_eq!(found, slot),
                        None => drop(remember(set, hash(flow), slot, 1, IDLE)),
                    }
                }
            });
        }
    });
    assert!(set.entries().len() > 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever comes, a flow that is found is in the slot that it was last remembered in, and no flow is there twice.
    #[test]
    fn what_is_found_is_what_was_remembered(
        steps in proptest::collection::vec((0_u64..24, 1_u16..4096, 0_u16..4), 1..400),
    ) {
        let set = Words::default();
        let mut model = std::collections::HashMap::new();
        let mut now = 3_u16;
        for (flow, slot, later) in steps {
            now += later;
            if let Some(found) = find(&set, hash(flow), now, 8) {
                let (wanted, seen): (u16, u16) = model[&flow];
                prop_assert_eq!(found, wanted);
                prop_assert!(now - seen <= 8);
                model.insert(flow, (wanted, now));
            } else if let Remembered::In { instead_of, .. } = remember(&set, hash(flow), slot, now, 8) {
                prop_assert!(!instead_of.is_established());
                model.insert(flow, (slot, now));
            }
            let mut words: Vec<u64> = set.entries().iter().map(|entry| entry.0 >> 27).collect();
            words.sort_unstable();
            words.dedup();
            prop_assert_eq!(words.len(), set.entries().len());
        }
    }
}
