//! The steering table: bucket to slot, with the keying that finds the bucket and the rule to read it by. One map value,
//! swapped whole.

use crate::{
    keying::Keying,
    limits::{BUCKETS, NO_SLOT, WORKERS_MAX},
    policy::{CPUS_MAX, PINNED_MAX, Pinned, Rule},
    quic::{CONFIGS, Format},
};

/// The most different slots that the buckets of one table can name: those of all working generations, the holding
/// listener's and [`NO_SLOT`]; a power of two, so that a mask bounds an index.
pub const NAMED_MAX: usize = 2 * WORKERS_MAX;

/// Entries are packed into words of this many bits.
const WORD_BITS: u32 = u32::BITS;
/// An entry of 16 bits, the widest, can be any index below [`NAMED_MAX`].
const WIDTHS: u16 = 5;

/// A published table, as the program reads it.
///
/// It lives in an inner array of an ARRAY_OF_MAPS; publishing swaps the inner array, so a run of the program sees
/// the whole of one table or the whole of the next; or, where the first choice of the one does not hold, the chain of the
/// next from its beginning.
///
/// A bucket's entry is an index into the slots that the table names, in as few bits as their number needs. What a run
/// costs beyond its instructions is the one cache line with its bucket, anywhere in the entries: for four workers
/// they are 16 KiB and mostly in a near cache, where one slot for each bucket would be 128 KiB and mostly not.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// The number of this publication.
    pub epoch: u64,
    /// The hash of the one 4-tuple that a starting worker is probed with; it counts only with `probe_slot`.
    pub probe_hash: u64,
    /// The slot that the probe's flow gets; [`NO_SLOT`] while nobody is probed.
    pub probe_slot: u16,
    /// The holding listener's slot, the last resort; [`NO_SLOT`] where the last resort is to drop.
    pub hold: u16,
    /// How many of `named`, from the first, are working generations'.
    pub working_count: u16,
    /// The binary logarithm of an entry's bits: 0 to 4.
    width: u16,
    /// The bits of an entry.
    mask: u16,
    /// The [`Rule`] that it is read by.
    rule: u16,
    /// How much more than half as much again two loads must differ by for the policy `least-loaded` not to take them
    /// for even.
    pub tie: u32,
    /// How long a UDP flow can be idle and still go where it went before, in units of [`flows`](crate::flows); 0 where all
    /// datagrams go by the table.
    pub flow_idle: u16,
    reserved: [u16; 3],
    /// How a flow's key is made, which finds its bucket.
    pub keying: Keying,
    /// The slots that buckets name, those of the working generations first: they are also for when a flow's own
    /// choices cannot be selected.
    pub named: [u16; NAMED_MAX],
    /// For each bucket an index into `named`, packed from the least significant bits on. The rest is unused.
    entries: [u32; BUCKETS / 2],
    /// By CPU, where its workers stand in `pinned`.
    by_cpu: [Pinned; CPUS_MAX],
    /// The slots of pinned workers, CPU after CPU.
    pinned: [u16; PINNED_MAX],
    /// How QUIC connection IDs are read, by configuration.
    pub formats: [Format; CONFIGS],
    /// What an index of three bits could reach: verifiers before 6.8 do not learn from a comparison that it is not the eighth.
    beyond_formats: Format,
}

const _: () = assert!(
    size_of::<Table>()
        == 80 + 2 * NAMED_MAX + 2 * BUCKETS + 4 * CPUS_MAX + 2 * PINNED_MAX + 40 * (CONFIGS + 1)
);
// What every run reads of the head, the seed included, is in one cache line where the map's value begins with one.
const _: () = assert!(core::mem::offset_of!(Table, keying) + 16 <= 64);
const _: () = assert!(core::mem::offset_of!(Table, entries).is_multiple_of(8));
const _: () = assert!(NAMED_MAX.is_power_of_two() && NAMED_MAX <= 1 << (1 << (WIDTHS - 1)));

impl Table {
    /// A table that selects nothing, in `place` of whatever was there, with room for entries below `named`. It is read
    /// by the rule `Hash`. Tables are too large for the stack.
    pub fn clear(&mut self, keying: Keying, epoch: u64, named: usize) {
        self.epoch = epoch;
        self.probe_hash = 0;
        self.probe_slot = NO_SLOT;
        self.hold = NO_SLOT;
        self.working_count = 0;
        self.width = (0..WIDTHS).find(|width| named <= 1 << (1 << width)).unwrap_or(WIDTHS - 1);
        self.mask = ((1_u32 << (1 << self.width)) - 1) as u16;
        self.rule = Rule::Hash as u16;
        self.tie = 0;
        self.flow_idle = 0;
        self.reserved = [0; 3];
        self.keying = keying;
        self.named.fill(NO_SLOT);
        self.entries.fill(0);
        self.by_cpu.fill(Pinned::default());
        self.pinned.fill(NO_SLOT);
        self.formats.fill(Format::default());
        self.beyond_formats = Format::default();
    }

    /// Whether the table is read by a rule.
    #[inline(always)]
    pub fn is_read_by(&self, rule: Rule) -> bool {
        self.rule == rule as u16
    }

    /// Has the flows of a run of the program go to the less loaded of two choices.
    pub fn read_by_load(&mut self, tie: u32) {
        self.rule = Rule::LeastLoaded as u16;
        self.tie = tie;
    }

    /// Has them go to the workers that are pinned to the CPU that took the packet, given in order of CPUs. What there is
    /// no room for goes by its hash.
    pub fn read_by_cpu<'a>(&mut self, cpus: impl Iterator<Item = (usize, &'a [u16])>) {
        self.rule = Rule::Cpu as u16;
        let mut first = 0;
        for (cpu, slots) in cpus {
            let end = first + slots.len();
            if cpu < CPUS_MAX && end <= PINNED_MAX {
                self.pinned[first..end].copy_from_slice(slots);
                self.by_cpu[cpu] = Pinned { first: first as u16, count: slots.len() as u16 };
                first = end;
            }
        }
    }

    /// Has datagrams go to whom their QUIC connection ID names, as read by these formats.
    pub fn read_by_id(&mut self, formats: [Format; CONFIGS]) {
        self.rule = Rule::QuicCid as u16;
        self.formats = formats;
    }

    /// The slot of a worker that is pinned to a CPU, [`NO_SLOT`] where none is: the key chooses among several.
    #[inline(always)]
    pub fn on_cpu(&self, cpu: u32, key: u64) -> u16 {
        if cpu as usize >= CPUS_MAX {
            return NO_SLOT;
        }
        let Pinned { first, count } = self.by_cpu[cpu as usize & (CPUS_MAX - 1)];
        if count == 0 {
            return NO_SLOT;
        }
        let at = first as u64 + (key >> 32) % count as u64;
        // The mask is for the verifier, which does not know what is in a table.
        self.pinned[at as usize & (PINNED_MAX - 1)]
    }

    /// The slot that a bucket names, [`NO_SLOT`] where nothing is to be selected. `bucket` is below [`BUCKETS`].
    #[inline(always)]
    pub fn slot(&self, bucket: usize) -> u16 {
        let (word, shift) = self.place(bucket);
        let index = (self.entries[word] >> shift) as usize & self.mask as usize;
        // The mask is for the verifier, which does not know what is in a table.
        self.named[index & (NAMED_MAX - 1)]
    }

    /// Has a bucket name the slot at an index of `named`, one that [`clear`](Self::clear) has made room for. Once for each
    /// bucket after a clear.
    pub fn name(&mut self, bucket: usize, index: usize) {
        let (word, shift) = self.place(bucket);
        self.entries[word] |= (index as u32 & u32::from(self.mask)) << shift;
    }

    /// Where a bucket's entry is: the word, and the bits to its right.
    #[inline(always)]
    fn place(&self, bucket: usize) -> (usize, u32) {
        let width = self.width as u32 & 7;
        // The mask bounds the index for the verifier; the remainder of a shift is what its mask leaves.
        let word = bucket >> (WORD_BITS.ilog2() - width) & (BUCKETS / 2 - 1);
        (word, (bucket as u32) << width & (WORD_BITS - 1))
    }
}

// SAFETY: `repr(C)` of integers, without implicit padding, as the size asserted above shows: every bit pattern is a
// value.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for Table {}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;

    use super::*;

    fn table(named: usize) -> Box<Table> {
        // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
        let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
        table.clear(Keying::four_tuple([1, 2]), 3, named);
        for (slot, place) in (1..).zip(&mut table.named[..named]) {
            *place = slot;
        }
        table
    }

    #[test]
    fn every_bucket_names_its_own_slot_whatever_the_width() {
        for named in [1, 2, 3, 4, 5, 16, 17, 256, 257, WORKERS_MAX + 2, NAMED_MAX] {
            let mut table = table(named);
            // A step that is prime to any number of slots: neighbours differ.
            let index = |bucket: usize| bucket * 7919 % named;
            for bucket in 0..BUCKETS {
                table.name(bucket, index(bucket));
            }
            for bucket in 0..BUCKETS {
                assert_eq!(usize::from(table.slot(bucket)), index(bucket) + 1, "{bucket} of {named}");
            }
        }
    }

    #[test]
    fn few_slots_make_a_small_table() {
        let used = |named| {
            let mut table = table(named);
            (0..BUCKETS).for_each(|bucket| table.name(bucket, named - 1));
            4 * table.entries.iter().filter(|word| **word != 0).count()
        };
        assert_eq!([2, 4, 16, 256, 257].map(used), [8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10]);
    }

    #[test]
    fn a_cleared_table_selects_nothing() {
        let mut table = table(1);
        table.clear(Keying::four_tuple([4, 5]), 6, 0);
        assert!((0..BUCKETS).all(|bucket| table.slot(bucket) == NO_SLOT));
    }
}
