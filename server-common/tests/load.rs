//! Loads, and the choice by load and by CPU, with a kernel and workers that are as a test says.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};
use server_common::{
    choice::{Chosen, Surroundings, bucket, choose},
    counters::Outcome,
    keying::Keying,
    limits::{BUCKETS, CHOICES, NO_SLOT, SCAN_MAX},
    load::{BEAT_MAX_AGE, Cell, Load, SHOWN_MAX_AGE, Shown},
    policy::{CPUS_MAX, PINNED_MAX},
    table::Table,
};

const HOLD: u16 = 2_000;
const TIE: u32 = 16;
const NOW: u64 = 1_000_000_000_000;

fn at(age: u64) -> u64 {
    NOW - age
}

fn load_of(shown: Shown, cell: Option<Cell>) -> Load {
    Load::of(shown, cell, || NOW)
}

#[test]
fn nothing_to_weigh_needs_no_time() {
    let load =
        Load::of(Shown::default(), Some(Cell::default()), || panic!("nobody has to know what time it is"));
    assert_eq!(load, Load::default());
}

#[test]
fn a_sample_counts_until_it_is_old() {
    let shown = |age, stalled| Shown { sampled_at: at(age), queue: 7, stalled };
    assert_eq!(load_of(shown(SHOWN_MAX_AGE, 0), None), Load { count: 7, is_bad: false });
    assert_eq!(load_of(shown(SHOWN_MAX_AGE, 1), None), Load { count: 7, is_bad: true });
    assert_eq!(load_of(shown(SHOWN_MAX_AGE + 1, 1), None), Load::default());
    // The coarse clock can be behind the one that sampled.
    assert_eq!(
        load_of(Shown { sampled_at: NOW + 5, queue: 7, stalled: 1 }, None),
        Load { count: 7, is_bad: true }
    );
}

#[test]
fn a_worker_that_stops_beating_is_bad_and_one_that_never_beat_is_not() {
    let shown = Shown { sampled_at: NOW, queue: 3, stalled: 0 };
    let cell = |beat| Some(Cell::new(beat, 40));
    assert_eq!(load_of(shown, cell(at(BEAT_MAX_AGE))), Load { count: 43, is_bad: false });
    assert_eq!(load_of(shown, cell(at(BEAT_MAX_AGE + 1))), Load { count: 43, is_bad: true });
    assert_eq!(
        load_of(shown, cell(0)),
        Load { count: 3, is_bad: false },
        "what it says without a beat is not said"
    );
    assert_eq!(load_of(shown, Some(Cell::new(NOW, u64::MAX))).count, u64::MAX);
}

proptest! {
    #[test]
    fn a_flow_yields_to_a_clearly_lesser_load_only(first: u32, second: u32, tie: u32) {
        let load = |count: u32| Load { count: u64::from(count), is_bad: false };
        let (a, b) = (load(first), load(second));
        if a.yields_to(&b, tie) {
            prop_assert!(a.count > b.count + u64::from(tie));
            prop_assert!(!b.yields_to(&a, tie), "not back and forth");
            prop_assert!(!a.is_light(tie));
        }
        prop_assert!(!a.yields_to(&a, tie));
        let bad = |load: Load| Load { is_bad: true, ..load };
        prop_assert!(bad(a).yields_to(&b, tie) && !a.yields_to(&bad(b), tie) && !bad(a).yields_to(&bad(b), tie));
    }
}

/// Workers in slots `1..=loads.len()`, of which some cannot be selected.
struct World<'a> {
    loads: &'a [Load],
    closed: BTreeSet<u16>,
    cpu: Option<u32>,
}

impl Surroundings for World<'_> {
    fn select(&mut self, slot: u16) -> bool {
        !self.closed.contains(&slot)
    }

    fn load(&self, slot: u16) -> Load {
        self.loads.get(usize::from(slot) - 1).copied().unwrap_or_default()
    }

    fn cpu(&self) -> Option<u32> {
        self.cpu
    }
}

fn table(count: usize) -> Box<Table> {
    // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
    let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
    table.clear(Keying::four_tuple([1, 2]), 3, count);
    table.hold = HOLD;
    table.working_count = count as u16;
    for (slot, place) in (1..).zip(&mut table.named[..count]) {
        *place = slot;
    }
    for at in 0..BUCKETS {
        // A step that is prime to any number of slots: neighbours differ.
        table.name(at, at * 7919 % count);
    }
    table
}

fn by_load(loads: &[Load], closed: &[u16], key: u64) -> (Chosen, u16) {
    let mut table = table(loads.len());
    table.read_by_load(TIE);
    let mut world = World { loads, closed: closed.iter().copied().collect(), cpu: None };
    (choose(&table, key, &mut world), table.slot(bucket(key, 0)))
}

fn loads() -> impl Strategy<Value = Vec<Load>> {
    let load = (0u64..100, prop::bool::weighted(0.3)).prop_map(|(count, is_bad)| Load { count, is_bad });
    vec(load, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_bad_worker_gets_nothing_while_another_is_not_bad(key: u64, loads in loads()) {
        let (chosen, first) = by_load(&loads, &[], key);
        let load = loads[usize::from(chosen.slot) - 1];
        let all_bad = loads.iter().all(|load| load.is_bad);
        prop_assert!(!load.is_bad || all_bad && chosen.slot == first, "{chosen:?}");
        let outcome = if chosen.slot == first { Outcome::FirstChoice } else { Outcome::LessLoaded };
        prop_assert_eq!(chosen.outcome, outcome);
        let was = loads[usize::from(first) - 1];
        prop_assert!(chosen.slot == first || was.is_bad || was.count > load.count + u64::from(TIE));
    }

    #[test]
    fn an_even_group_is_as_sticky_as_by_hash(key: u64, counts in vec(0u64..=u64::from(TIE), 1..20)) {
        let loads: Vec<Load> = counts.into_iter().map(|count| Load { count, is_bad: false }).collect();
        let (chosen, first) = by_load(&loads, &[], key);
        prop_assert_eq!(chosen, Chosen { slot: first, outcome: Outcome::FirstChoice });
    }

    #[test]
    fn the_second_choice_gets_what_the_first_has_clearly_more_of(key: u64, count in 2usize..20) {
        let idle = vec![Load::default(); count];
        let (_, first) = by_load(&idle, &[], key);
        let mut loads = idle;
        loads[usize::from(first) - 1].count = u64::from(TIE) + 1;
        let (chosen, _) = by_load(&loads, &[], key);
        let table = table(count);
        let other = (1..CHOICES).map(|choice| table.slot(bucket(key, choice))).find(|&slot| slot != first);
        prop_assert_eq!(chosen.slot, other.unwrap_or(first));
    }

    #[test]
    fn what_load_chooses_and_the_kernel_refuses_goes_down_the_chain(key: u64, loads in loads(), all: bool) {
        let (would, _) = by_load(&loads, &[], key);
        let closed: Vec<u16> = if all { (1..=loads.len() as u16).collect() } else { vec![would.slot] };
        let (chosen, _) = by_load(&loads, &closed, key);
        prop_assert!(!closed.contains(&chosen.slot), "{chosen:?}");
        prop_assert_eq!(chosen.slot == HOLD, closed.len() == loads.len());
    }

    #[test]
    fn the_packets_own_cpu_comes_before_the_hash(key: u64, count in 1usize..20, cpu in 0u32..4) {
        let mut table = table(count);
        let pinned = [1, 1 + count as u16 / 2];
        table.read_by_cpu([(0, &pinned[..1]), (2, &pinned[..])].into_iter());
        let run = |cpu| {
            let mut world = World { loads: &[], closed: BTreeSet::new(), cpu };
            choose(&table, key, &mut world)
        };
        let by_hash = Chosen { slot: table.slot(bucket(key, 0)), outcome: Outcome::FirstChoice };
        prop_assert_eq!(run(None), by_hash, "a migration has no packet");
        let chosen = run(Some(cpu));
        match cpu {
            0 => prop_assert_eq!(chosen, Chosen { slot: 1, outcome: Outcome::OwnCpu }),
            2 => {
                prop_assert!(pinned.contains(&chosen.slot) && chosen.outcome == Outcome::OwnCpu, "{chosen:?}");
                prop_assert_eq!(run(Some(2)), chosen);
            }
            _ => prop_assert_eq!(chosen, by_hash),
        }
    }
}

#[test]
fn the_search_for_one_that_is_well_is_bounded() {
    let bad = vec![Load { count: 1, is_bad: true }; 500];
    let (chosen, first) = by_load(&bad, &[], 0x0123_4567_89ab_cdef);
    assert_eq!(
        chosen,
        Chosen { slot: first, outcome: Outcome::FirstChoice },
        "if all look bad, all are used"
    );
    let asked = std::cell::Cell::new(0_u32);
    struct Counting<'a>(&'a std::cell::Cell<u32>);
    impl Surroundings for Counting<'_> {
        fn select(&mut self, _: u16) -> bool {
            true
        }
        fn load(&self, _: u16) -> Load {
            self.0.set(self.0.get() + 1);
            Load { count: 0, is_bad: true }
        }
        fn cpu(&self) -> Option<u32> {
            None
        }
    }
    let mut table = table(500);
    table.read_by_load(TIE);
    choose(&table, 0x0123_4567_89ab_cdef, &mut Counting(&asked));
    assert!(asked.get() <= 1 + CHOICES + SCAN_MAX, "{}", asked.get());
}

#[test]
fn several_workers_on_one_cpu_share_its_packets() {
    let mut table = table(3);
    table.read_by_cpu([(5, &[1, 2, 3][..])].into_iter());
    // Keys whose upper halves are all different: a third each.
    let counts = [1, 2, 3].map(|slot| (0..300_u64).filter(|key| table.on_cpu(5, key << 32) == slot).count());
    assert_eq!(counts, [100, 100, 100]);
}

#[test]
fn more_pinned_workers_than_there_is_room_for_go_by_the_hash() {
    let mut table = table(4);
    let many = vec![1_u16; PINNED_MAX - 1];
    table.read_by_cpu([(0, &many[..]), (1, &[2, 3][..]), (2, &[4][..]), (CPUS_MAX, &[4][..])].into_iter());
    let slots = [0, 1, 2, 3, CPUS_MAX as u32, u32::MAX].map(|cpu| table.on_cpu(cpu, 7 << 32));
    assert_eq!(slots, [1, NO_SLOT, 4, NO_SLOT, NO_SLOT, NO_SLOT]);
}
