//! What the program counts: per CPU and per slot, each run once in each of two stages.

/// The counters of one slot on one CPU. What a run by the hash counts is in the first 64 bytes.
///
/// A run adds 1 to one field of each stage of the slot that it selected, or of
/// [`DROPPED_SLOT`](crate::limits::DROPPED_SLOT). So, summed over slots and CPUs, each stage is the number of runs.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotCounters {
    /// What was asked, indexed by [`Asked`].
    pub asked: [u64; 4],
    /// What came of it, indexed by [`Outcome`].
    pub outcome: [u64; 6],
}

const _: () = assert!(size_of::<SlotCounters>() == 80);

/// The first stage: what the kernel asked the program for.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A SYN without ACK: a new connection.
    Connection = 0,
    /// Any other TCP segment: SYN-cookie ACKs, stray ACKs. Runs of the program are not connections.
    Segment = 1,
    /// A UDP datagram.
    Datagram = 2,
    /// A half-open or unaccepted connection whose listener has stopped.
    Migration = 3,
}

impl Asked {
    /// The one of a number, of which the last two bits count.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number & 3 {
            0 => Self::Connection,
            1 => Self::Segment,
            2 => Self::Datagram,
            _ => Self::Migration,
        }
    }
}

/// The second stage: what the program answered.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The slot that the table names.
    FirstChoice = 0,
    /// Another slot: what the table names could not be selected.
    FurtherChoice = 1,
    /// The holding listener, by the table or as the last resort.
    Held = 2,
    /// Nothing could be selected.
    Dropped = 3,
    /// Another slot, by load: what the table names was clearly more loaded, or took nothing.
    LessLoaded = 4,
    /// A worker on the CPU that took the packet.
    OwnCpu = 5,
}

impl SlotCounters {
    /// Counts one run.
    #[inline(always)]
    pub fn count(&mut self, asked: Asked, outcome: Outcome) {
        self.asked[asked as usize] += 1;
        self.outcome[outcome as usize] += 1;
    }

    /// The field-wise sum.
    pub fn plus(mut self, other: &Self) -> Self {
        for (sum, part) in self.asked.iter_mut().zip(other.asked) {
            *sum += part;
        }
        for (sum, part) in self.outcome.iter_mut().zip(other.outcome) {
            *sum += part;
        }
        self
    }

    /// The number of runs counted.
    pub fn runs(&self) -> u64 {
        self.asked.iter().sum()
    }
}

// SAFETY: `repr(C)` of integers without padding: every bit pattern is a value.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for SlotCounters {}
