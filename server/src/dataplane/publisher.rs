//! Publishing a table: written aside, swapped whole, and waited for.

use aya::maps::{Array, ArrayOfMaps, MapData};
use server_common::{limits::NO_SLOT, table::Table};

use crate::engine::{event::Slot, layout::Layout};

use super::{error::DataplaneError, object::names};

/// Writes a layout over a table.
fn write(layout: &Layout, table: &mut Table) {
    let named = Named::of(layout);
    table.clear(layout.seed, layout.epoch, named.slots.len());
    table.hold = layout.hold.unwrap_or(NO_SLOT);
    table.working_count = layout.working.len() as u16;
    table.named[..named.slots.len()].copy_from_slice(&named.slots);
    for (bucket, slot) in layout.buckets.iter().enumerate() {
        table.name(bucket, named.index(*slot));
    }
}

/// The different slots of a layout: the working ones first, then what its buckets name beyond them.
struct Named {
    slots: Vec<Slot>,
    /// By slot, the place in `slots`.
    places: Vec<u16>,
}

impl Named {
    fn of(layout: &Layout) -> Self {
        const UNKNOWN: u16 = u16::MAX;
        let mut named = Self { slots: Vec::new(), places: vec![UNKNOWN; usize::from(Slot::MAX) + 1] };
        for &slot in layout.working.iter().chain(layout.buckets.iter()) {
            let place = &mut named.places[usize::from(slot)];
            if *place == UNKNOWN {
                *place = named.slots.len() as u16;
                named.slots.push(slot);
            }
        }
        named
    }

    fn index(&self, slot: Slot) -> usize {
        usize::from(self.places[usize::from(slot)])
    }
}

/// Owns the two tables of one kernel group, of which one is published.
pub struct Publisher {
    outer: ArrayOfMaps<MapData, Array<MapData, Table>>,
    tables: [Array<MapData, Table>; 2],
    /// Which of the two is published, or would be.
    published: usize,
    /// Where a layout is written before it goes into a map; too large for a stack.
    scratch: Box<Table>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("epoch", &self.scratch.epoch).finish_non_exhaustive()
    }
}

impl Publisher {
    pub(super) fn new(outer: ArrayOfMaps<MapData, Array<MapData, Table>>) -> Result<Self, DataplaneError> {
        let create = || {
            Array::create(1, 0).map_err(|source| DataplaneError::Map {
                operation: "create an inner map of",
                map: names::TABLE,
                source,
            })
        };
        // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
        let scratch = unsafe { Box::<Table>::new_zeroed().assume_init() };
        Ok(Self { outer, tables: [create()?, create()?], published: 0, scratch })
    }

    /// Publishes a layout. When it returns, no run of the program reads an older table.
    ///
    /// Blocks for an RCU grace period, some 10 ms: the kernel's update of an array of maps ends with
    /// `synchronize_rcu` (`maybe_wait_bpf_programs`, since 4.20), so that a caller may rely on the old inner map
    /// not being read any more. This is a drain's first instant, and why two tables are enough.
    pub fn publish(&mut self, layout: &Layout) -> Result<(), DataplaneError> {
        let error = |operation| move |source| DataplaneError::Map { operation, map: names::TABLE, source };
        let next = 1 - self.published;
        write(layout, &mut self.scratch);
        self.tables[next].set(0, &*self.scratch, 0).map_err(error("write a table for"))?;
        self.outer.set(0, &self.tables[next], 0).map_err(error("publish in"))?;
        self.published = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use server_common::{
        choice::choose,
        counters::Outcome,
        limits::{BUCKETS, WORKERS_MAX},
    };

    use super::*;

    fn written(
        working: Vec<Slot>,
        hold: Option<Slot>,
        buckets: impl Fn(usize) -> Slot,
    ) -> (Layout, Box<Table>) {
        let buckets: Arc<[Slot]> = (0..BUCKETS).map(buckets).collect();
        let layout = Layout { epoch: 1, seed: [2, 3], hold, working, buckets };
        // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
        let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
        write(&layout, &mut table);
        (layout, table)
    }

    #[test]
    fn a_table_says_what_its_layout_says() {
        for workers in [1, 2, 4, 5, 255, 256, WORKERS_MAX] {
            let slot = |worker: usize| (worker * 3 + 1) as Slot;
            let working: Vec<Slot> = (0..workers).map(slot).collect();
            // A bucket in ten is nobody's, which the engine never does beside working generations.
            let nobody = |bucket: usize| workers > 1 && bucket.is_multiple_of(10);
            let bucket_slot = |bucket| if nobody(bucket) { NO_SLOT } else { slot(bucket * 7 % workers) };
            let (layout, table) = written(working, Some(4000), bucket_slot);
            assert!((0..BUCKETS).all(|bucket| table.slot(bucket) == layout.buckets[bucket]), "{workers}");
            assert_eq!(table.named[..workers], layout.working);
            assert_eq!((table.hold, usize::from(table.working_count)), (4000, workers));
        }
    }

    #[test]
    fn without_working_slots_every_flow_is_held_or_dropped() {
        let (_, held) = written(vec![], Some(7), |_| 7);
        assert_eq!(choose(&held, 0x1234, |slot| slot == 7).outcome, Outcome::Held);
        let (_, dropped) = written(vec![], None, |_| NO_SLOT);
        assert_eq!(choose(&dropped, 0x1234, |_| panic!("there is no slot")).outcome, Outcome::Dropped);
    }
}
