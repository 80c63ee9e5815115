//! The shapes of map values, byte by byte as the program was built with, and counters that add up.

use std::mem::{align_of, offset_of, size_of};

use proptest::{prelude::*, sample::select};
use server_common::{
    counters::{Asked, Outcome, SlotCounters},
    limits::{self, BUCKETS, DROPPED_SLOT, NO_SLOT, SLOTS_DEFAULT, SLOTS_MAX, WORKERS_MAX},
    table::Table,
};

const OUTCOMES: [Outcome; 8] = [
    Outcome::FirstChoice,
    Outcome::FurtherChoice,
    Outcome::Held,
    Outcome::Dropped,
    Outcome::LessLoaded,
    Outcome::OwnCpu,
    Outcome::Kept,
    Outcome::ById,
];

#[test]
fn a_table_lies_as_the_program_reads_it() {
    assert_eq!((size_of::<Table>(), align_of::<Table>()), (147_856, 8));
    let offsets = [
        offset_of!(Table, epoch),
        offset_of!(Table, probe_hash),
        offset_of!(Table, probe_slot),
        offset_of!(Table, hold),
        offset_of!(Table, working_count),
        offset_of!(Table, tie),
        offset_of!(Table, flow_idle),
        offset_of!(Table, keying),
        offset_of!(Table, named),
    ];
    assert_eq!(offsets, [0, 8, 16, 18, 20, 28, 32, 40, 80]);
}

#[test]
fn a_slot_s_counters_begin_with_what_a_run_by_the_hash_counts() {
    assert_eq!((size_of::<SlotCounters>(), align_of::<SlotCounters>()), (144, 8));
    assert_eq!((offset_of!(SlotCounters, asked), offset_of!(SlotCounters, outcome)), (0, 32));
    assert_eq!(
        [Asked::Connection as u32, Asked::Segment as u32, Asked::Datagram as u32, Asked::Migration as u32],
        [0, 1, 2, 3]
    );
    assert_eq!(OUTCOMES.map(|outcome| outcome as u32), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn no_slot_is_no_index_and_the_limits_fit_each_other() {
    assert!(u32::from(NO_SLOT) >= SLOTS_MAX && SLOTS_DEFAULT <= SLOTS_MAX);
    assert!(u32::from(DROPPED_SLOT) < SLOTS_DEFAULT);
    assert!(WORKERS_MAX.is_power_of_two() && BUCKETS.is_power_of_two(), "masks find the index");
    assert!(2 * WORKERS_MAX as u32 + 3 <= SLOTS_MAX, "each worker and the hold have two at a time");
}

#[test]
fn a_group_has_slots_for_the_workers_that_it_begins_with_and_no_more_than_they_come_to() {
    for count in 1..=WORKERS_MAX as u32 {
        let slots = limits::slots(count);
        assert!(2 * count + 3 <= slots && (SLOTS_DEFAULT..=SLOTS_MAX).contains(&slots), "{count}: {slots}");
        assert!(limits::workers(slots) >= count, "{count}: {slots}");
        assert!(count == 1 || slots >= limits::slots(count - 1), "{count}: {slots}");
        assert!(slots == SLOTS_DEFAULT || slots < 2 * (2 * count + 3), "{count}: {slots}");
    }
    let of = |count| (limits::slots(count), limits::workers(limits::slots(count)));
    assert_eq!(
        [1, 254, 255, 510, 511, 1022].map(of).map(|(slots, _)| slots),
        [512, 512, 1024, 1024, 2048, 2048]
    );
    assert_eq!([4, 255, 511].map(of), [(512, 254), (1024, 510), (2048, 1022)]);
    assert_eq!([1023, 1024, u32::MAX].map(of), [(SLOTS_MAX, 1024); 3]);
    assert_eq!([0, 3, 4, 5, u32::MAX].map(limits::workers), [0, 0, 0, 1, 1024]);
}

proptest! {
    #[test]
    fn each_run_is_counted_once_in_each_stage(
        runs in proptest::collection::vec(
            (
                select(vec![Asked::Connection, Asked::Segment, Asked::Datagram, Asked::Migration]),
                select(&OUTCOMES[..]),
                0usize..4,
            ),
            0..200,
        ),
    ) {
        let mut cells = [SlotCounters::default(); 4];
        for &(asked, outcome, cell) in &runs {
            cells[cell].count(asked, outcome);
        }
        let sum = cells.iter().fold(SlotCounters::default(), |sum, cell| sum.plus(cell));
        prop_assert_eq!(sum.runs(), runs.len() as u64);
        prop_assert_eq!(sum.asked.iter().sum::<u64>(), sum.outcome.iter().sum::<u64>());
        let held = runs.iter().filter(|(_, outcome, _)| *outcome == Outcome::Held).count() as u64;
        let migrations = runs.iter().filter(|(asked, _, _)| *asked == Asked::Migration).count() as u64;
        prop_assert_eq!((sum.outcome[2], sum.asked[3]), (held, migrations));
    }
}
