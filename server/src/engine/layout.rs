//! A table to publish, as the engine decides it.

use std::{collections::BTreeMap, sync::Arc};

use server_common::{flow_hash::Seed, limits::NO_SLOT, table::Table};

use crate::policy::Policy;

use super::event::Slot;

/// Everything that one swap changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The number of this publication.
    pub epoch: u64,
    /// The seed of the hash.
    pub seed: Seed,
    /// What decides, beside the buckets.
    pub policy: Policy,
    /// The holding listener's slot; without one the last resort is to drop.
    pub hold: Option<Slot>,
    /// The flow that a starting worker is probed with, by its hash, and that worker's slot.
    pub probe: Option<(u64, Slot)>,
    /// The slots of the working generations that have a weight.
    pub working: Vec<Slot>,
    /// By CPU, the slots of the generations that are pinned to it, for the policy `cpu`; none otherwise.
    pub cpus: BTreeMap<usize, Vec<Slot>>,
    /// The slot of each bucket, [`NO_SLOT`](server_common::limits::NO_SLOT) for none.
    pub buckets: Arc<[Slot]>,
}

impl Layout {
    /// Writes the layout over a table.
    pub fn write(&self, table: &mut Table) {
        let named = Named::of(self);
        table.clear(self.policy.keying(self.seed), self.epoch, named.slots.len());
        match self.policy {
            Policy::Hash | Policy::Source { .. } => {}
            Policy::LeastLoaded { tie } => table.read_by_load(tie),
            Policy::QuicCid(ids) => table.read_by_id(ids.formats()),
            Policy::Cpu => table.read_by_cpu(self.cpus.iter().map(|(&cpu, slots)| (cpu, &slots[..]))),
        }
        table.hold = self.hold.unwrap_or(NO_SLOT);
        if let Some((hash, slot)) = self.probe {
            table.probe_hash = hash;
            table.probe_slot = slot;
        }
        table.working_count = self.working.len() as u16;
        table.named[..named.slots.len()].copy_from_slice(&named.slots);
        for (bucket, slot) in self.buckets.iter().enumerate() {
            table.name(bucket, named.index(*slot));
        }
    }
}

/// The different slots of a layout: the working ones first, then what its buckets name beyond them.
struct Named {
    slots: Vec<Slot>,
    /// By slot, the place in `slots`; as far as there are slots, which are few and low.
    places: Vec<u16>,
    /// The place of [`NO_SLOT`].
    nobody: u16,
}

impl Named {
    fn of(layout: &Layout) -> Self {
        const UNKNOWN: u16 = u16::MAX;
        let mut named = Self { slots: Vec::new(), places: Vec::new(), nobody: UNKNOWN };
        for &slot in layout.working.iter().chain(layout.buckets.iter()) {
            let index = usize::from(slot);
            if slot != NO_SLOT && index >= named.places.len() {
                named.places.resize(index + 1, UNKNOWN);
            }
            let place = if slot == NO_SLOT { &mut named.nobody } else { &mut named.places[index] };
            if *place == UNKNOWN {
                *place = named.slots.len() as u16;
                named.slots.push(slot);
            }
        }
        named
    }

    fn index(&self, slot: Slot) -> usize {
        usize::from(if slot == NO_SLOT { self.nobody } else { self.places[usize::from(slot)] })
    }
}

#[cfg(test)]
mod tests {
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
        let layout = Layout {
            epoch: 1,
            seed: [2, 3],
            policy: Policy::Hash,
            hold,
            probe: None,
            working,
            cpus: BTreeMap::new(),
            buckets,
        };
        // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
        let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
        layout.write(&mut table);
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
        assert_eq!(choose(&held, 0x1234, &mut |slot| slot == 7).outcome, Outcome::Held);
        let (_, dropped) = written(vec![], None, |_| NO_SLOT);
        assert_eq!(
            choose(&dropped, 0x1234, &mut |_: Slot| panic!("there is no slot")).outcome,
            Outcome::Dropped
        );
    }
}
