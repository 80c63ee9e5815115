//! The choice chain, with a kernel that refuses chosen sets of slots.

use std::collections::BTreeSet;

use proptest::prelude::*;
use server_common::{
    choice::{Chosen, bucket, choose},
    counters::Outcome,
    keying::Keying,
    limits::{BUCKETS, CHOICES, DROPPED_SLOT, NO_SLOT, SCAN_MAX, WORKERS_MAX},
    table::Table,
};

/// Beyond every working slot of these tests.
const HOLD: u16 = 2_000;

/// A table of working slots `1..=count`, bucket after bucket, with a hold or without.
fn table(count: u16, hold: bool) -> Box<Table> {
    // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
    let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
    let names = count.max(1);
    table.clear(Keying::four_tuple([1, 2]), 3, usize::from(names));
    table.hold = if hold { HOLD } else { NO_SLOT };
    table.working_count = count;
    for at in 0..names {
        table.named[usize::from(at)] = match count {
            0 if hold => HOLD,
            0 => NO_SLOT,
            _ => at + 1,
        };
    }
    for at in 0..BUCKETS {
        table.name(at, at % usize::from(names));
    }
    table
}

/// Runs the chain; what it chose and what it asked for, in order.
fn run(table: &Table, hash: u64, takes: impl Fn(u16) -> bool) -> (Chosen, Vec<u16>) {
    let mut asked = Vec::new();
    let chosen = choose(table, hash, &mut |slot| {
        asked.push(slot);
        takes(slot)
    });
    (chosen, asked)
}

fn choices(table: &Table, hash: u64) -> Vec<u16> {
    (0..CHOICES).map(|choice| table.slot(bucket(hash, choice))).collect()
}

#[test]
fn four_choices_of_sixteen_bits_use_the_hash_up() {
    assert_eq!((CHOICES, BUCKETS), (4, 65_536));
    let numbers: Vec<usize> = (0..CHOICES).map(|choice| bucket(0x1111_2222_3333_4444, choice)).collect();
    assert_eq!(numbers, [0x4444, 0x3333, 0x2222, 0x1111]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_first_choice_is_the_bucket_s(hash: u64, count in 1u16..100, hold: bool) {
        let table = table(count, hold);
        let (chosen, asked) = run(&table, hash, |_| true);
        prop_assert_eq!(chosen, Chosen { slot: table.slot(bucket(hash, 0)), outcome: Outcome::FirstChoice });
        prop_assert_eq!(asked, vec![chosen.slot]);
    }

    /// Whatever set of slots refuses, the chain tries its choices in order, then every working slot, then the hold.
    #[test]
    fn a_slot_that_takes_is_found_before_the_last_resort(
        hash: u64, count in 1u16..64, hold: bool, refusing in proptest::collection::btree_set(1u16..64, 0..64),
    ) {
        let table = table(count, hold);
        let takes = |slot: u16| slot == HOLD || !refusing.contains(&slot);
        let (chosen, asked) = run(&table, hash, takes);
        let wanted = choices(&table, hash);
        let first = wanted.iter().position(|&slot| takes(slot));
        let working: BTreeSet<u16> = (1..=count).collect();
        match first {
            Some(0) => prop_assert_eq!(chosen.outcome, Outcome::FirstChoice),
            _ if working.iter().any(|&slot| takes(slot)) => {
                prop_assert_eq!(chosen.outcome, Outcome::FurtherChoice);
                prop_assert!(working.contains(&chosen.slot) && takes(chosen.slot));
            }
            _ if hold => prop_assert_eq!(chosen, Chosen { slot: HOLD, outcome: Outcome::Held }),
            _ => prop_assert_eq!(chosen, Chosen { slot: DROPPED_SLOT, outcome: Outcome::Dropped }),
        }
        if let Some(at) = first {
            prop_assert_eq!(chosen.slot, wanted[at]);
            // The further part of the chain begins with the first choice again.
            let again = if at == 0 { &[] } else { &wanted[..1] };
            prop_assert_eq!(&asked, &[again, &wanted[..=at]].concat());
        } else if !takes(chosen.slot) || chosen.slot == HOLD {
            let tried: BTreeSet<u16> = asked.iter().copied().filter(|&slot| slot != HOLD).collect();
            prop_assert_eq!(tried, working, "it gave up before it had tried all");
        }
        // What cannot be a listener's slot is never asked for.
        prop_assert!(asked.iter().all(|&slot| slot != NO_SLOT && slot != DROPPED_SLOT));
    }

    #[test]
    fn a_flow_of_a_closed_worker_goes_to_the_same_other_every_time(hash: u64, count in 2u16..64) {
        let table = table(count, true);
        let closed = table.slot(bucket(hash, 0));
        let (chosen, _) = run(&table, hash, |slot| slot != closed);
        prop_assert!(chosen.slot != closed && chosen.outcome == Outcome::FurtherChoice);
        prop_assert_eq!(run(&table, hash, |slot| slot != closed).0, chosen);
    }

    #[test]
    fn without_workers_the_table_holds_or_drops(hash: u64) {
        let held = run(&table(0, true), hash, |_| true);
        prop_assert_eq!(held, (Chosen { slot: HOLD, outcome: Outcome::Held }, vec![HOLD]));
        let dropped = run(&table(0, false), hash, |_| true);
        prop_assert_eq!(dropped, (Chosen { slot: DROPPED_SLOT, outcome: Outcome::Dropped }, vec![]));
    }
}

/// The kernel's verifier wants a bound, and the hold stands behind it.
#[test]
fn the_search_for_a_working_slot_is_bounded() {
    let table = table(WORKERS_MAX as u16, true);
    let most = (1 + CHOICES + SCAN_MAX + 1) as usize;
    let (chosen, asked) = run(&table, 0x0123_4567_89ab_cdef, |slot| slot == HOLD);
    assert_eq!((chosen.outcome, asked.len()), (Outcome::Held, most));
    let (chosen, asked) = run(&table, u64::MAX, |_| false);
    assert_eq!((chosen.outcome, asked.len()), (Outcome::Dropped, most));
}

#[test]
fn a_cleared_table_drops_everything() {
    let mut table = table(5, true);
    let keying = Keying::four_tuple([9, 8]);
    table.clear(keying, 7, 0);
    assert_eq!((table.keying, table.epoch, table.hold, table.working_count), (keying, 7, NO_SLOT, 0));
    assert_eq!(run(&table, 42, |_| true).0.outcome, Outcome::Dropped);
}
