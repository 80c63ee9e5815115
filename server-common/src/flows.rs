//! The flow table: which slot a UDP flow went to last, so that it goes there again while that slot's worker drains.
//!
//! A flow is one word of 64 bits, eight of them are a set and a cache line, and the flow's keyed hash finds the set: a lookup
//! costs one line, and a flow 8 bytes. A word is read and replaced as a whole, so no lock is held and no reader sees half of
//! one. Of the hash a word keeps 37 bits that the set's number, of up to 16 bits more, does not repeat: that a new flow is
//! taken for one of its set's eight has a chance of 6 in 10^11, and nobody without the seed can better it.
//!
//! A flow is established by its second datagram. Where a set is full, a flow that begins takes the place of one that is idle
//! or else of one that is not established, and of no other: a flood of spoofed sources can keep flows from being remembered,
//! but not have any forgotten that goes both ways. Who is not remembered goes by the table.

use crate::{flow_hash::FlowV6, limits::SLOTS_MAX};

/// Flows of a set.
pub const WAYS: usize = 8;

/// The most sets: a bit more of the hash, and it would be in both the set's number and the word.
pub const SETS_MAX: u32 = 1 << (TAG_SHIFT - SET_SHIFT);

/// A unit of time is 2 to this power nanoseconds, 134 ms.
pub const UNIT_SHIFT: u32 = 27;

/// The longest time that a flow can be idle and still be known, in units: 18 minutes. An age beyond is one of the future, as
/// another CPU's clock may say.
pub const IDLE_MAX: u16 = (1 << (TIME_BITS - 1)) - 1;

// A word, from the most significant bits on: the hash's last bits, whether it is established, slot, time.
const TIME_BITS: u32 = 14;
const SLOT_BITS: u32 = 12;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const ESTABLISHED: u64 = 1 << (TIME_BITS + SLOT_BITS);
const TAG_SHIFT: u32 = TIME_BITS + SLOT_BITS + 1;
/// Where in the hash the number of the set begins. The bits before it find the bucket, and would put flows of one bucket
/// into few sets.
const SET_SHIFT: u32 = 11;

const _: () = assert!(SLOTS_MAX as u64 <= SLOT_MASK + 1);

/// A flow in its set. The word 0 is none: no flow is in slot 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    /// No flow.
    pub const NONE: Self = Self(0);

    #[inline(always)]
    fn new(hash: u64, slot: u16, now: u16) -> Self {
        Self(hash >> TAG_SHIFT << TAG_SHIFT | (slot as u64 & SLOT_MASK) << TIME_BITS | now as u64 & TIME_MASK)
    }

    /// Whether it is a flow with this hash, as far as the word tells; meant for the hash's own set.
    #[inline(always)]
    pub fn is_of(self, hash: u64) -> bool {
        (self.0 ^ hash) >> TAG_SHIFT == 0 && self.0 != 0
    }

    /// The slot that it went to.
    #[inline(always)]
    pub fn slot(self) -> u16 {
        (self.0 >> TIME_BITS & SLOT_MASK) as u16
    }

    /// Whether more than one datagram of it has come.
    #[inline(always)]
    pub fn is_established(self) -> bool {
        self.0 & ESTABLISHED != 0
    }

    /// How many units ago its last datagram came: from one to the next, as the clock's units go.
    #[inline(always)]
    pub fn age(self, now: u16) -> u16 {
        let age = (now as u64).wrapping_sub(self.0) & TIME_MASK;
        if age > IDLE_MAX as u64 { 0 } else { age as u16 }
    }

    /// Whether nothing has come of it for longer than `idle` units, or it is none.
    #[inline(always)]
    pub fn is_idle(self, now: u16, idle: u16) -> bool {
        self.0 == 0 || self.age(now) > idle
    }

    /// The same flow, with a datagram now.
    #[inline(always)]
    fn again(self, now: u16) -> Self {
        Self(self.0 & !TIME_MASK | ESTABLISHED | now as u64 & TIME_MASK)
    }
}

/// The words of one set, which others read and write at the same time.
pub trait Set {
    /// Reads a word. `way` is below [`WAYS`].
    fn load(&self, way: usize) -> u64;
    /// Replaces a word if it is still the old one; whether it was.
    fn replace(&self, way: usize, old: u64, new: u64) -> bool;
}

/// What became of a flow that was to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// It is.
    In {
        /// Where in its set.
        way: usize,
        /// Another that was not idle and is forgotten for it; none otherwise.
        instead_of: Entry,
    },
    /// It is not: all flows of its set are established.
    Not,
}

/// A time in units: nanoseconds of CLOCK_MONOTONIC, as far as a word keeps them.
#[inline(always)]
pub fn units(nanoseconds: u64) -> u16 {
    (nanoseconds >> UNIT_SHIFT & TIME_MASK) as u16
}

/// The number of a flow's set, of `sets`, which is a power of two.
#[inline(always)]
pub fn set_of(hash: u64, sets: u32) -> u32 {
    (hash >> SET_SHIFT) as u32 & (sets - 1)
}

/// The slot that a flow went to, if it is not idle; and that a datagram of it has come `now`. An established flow's word is
/// written once a unit.
#[inline(always)]
pub fn find(set: &impl Set, hash: u64, now: u16, idle: u16) -> Option<u16> {
    let mut way = 0;
    while way < WAYS {
        let entry = Entry(set.load(way));
        if entry.is_of(hash) {
            if entry.is_idle(now, idle) {
                return None;
            }
            let again = entry.again(now);
            if again.0 != entry.0 {
                // Whoever was faster has written the same or has moved the flow.
                set.replace(way, entry.0, again.0);
            }
            return Some(entry.slot());
        }
        way += 1;
    }
    None
}

/// Remembers that a flow goes to a slot from `now` on.
#[inline(always)]
pub fn remember(set: &impl Set, hash: u64, slot: u16, now: u16, idle: u16) -> Remembered {
    // What is better to give up has a lower rank: its own word, none, an idle flow's, the oldest of those not established.
    const NEVER: u32 = u32::MAX;
    let (mut best, mut victim, mut rank) = (0, Entry::NONE, NEVER);
    let mut way = 0;
    while way < WAYS {
        let entry = Entry(set.load(way));
        let own = if entry.is_of(hash) {
            0
        } else if entry.is_idle(now, idle) {
            1
        } else if entry.is_established() {
            NEVER
        } else {
            2 + (IDLE_MAX - entry.age(now)) as u32
        };
        if own < rank {
            (best, victim, rank) = (way, entry, own);
        }
        way += 1;
    }
    let new = Entry::new(hash, slot, now);
    // Another flow may have taken the place at this moment; this one's next datagram is another attempt.
    if rank == NEVER || !set.replace(best & (WAYS - 1), victim.0, new.0) {
        return Remembered::Not;
    }
    Remembered::In { way: best, instead_of: if rank < 2 { Entry::NONE } else { victim } }
}

/// Between whom a flow is, for people to read: the program writes it when it has remembered the flow, and steers by its
/// [`Entry`] alone.
///
/// It is written after the word and not with it, so a reader believes it only if its hash is the word's.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// IPv4 addresses are mapped ones.
    pub source: [u32; 4],
    /// As above.
    pub destination: [u32; 4],
    /// The client's port.
    pub source_port: u16,
    /// The listener's port.
    pub destination_port: u16,
    reserved: u32,
}

const _: () = assert!(size_of::<Ends>() == 40);

// SAFETY: `repr(C)` of integers without padding, as the size asserted above shows: every bit pattern is a value.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for Ends {}

impl Ends {
    /// The ends of a flow.
    #[inline(always)]
    pub fn of(flow: &FlowV6) -> Self {
        Self {
            source: flow.source,
            destination: flow.destination,
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            reserved: 0,
        }
    }

    /// The flow between them.
    #[inline(always)]
    pub fn flow(&self) -> FlowV6 {
        FlowV6 {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
        }
    }
}
