//! What the program counts: per CPU and per slot, each run once in each of two stages.

/// The counters of one slot on one CPU. What a run by the hash counts is in the first 64 bytes.
///
/// A run adds 1 to one field of each stage of the slot that it selected, or of
/// [`DROPPED_SLOT`](crate::limits::DROPPED_SLOT). So, summed over slots and CPUs, each stage is the number of runs. A run that
/// a flow begins with adds to `flows` too. Runs for the daemon's own probes are not among them.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotCounters {
    /// What was asked, indexed by [`Asked`].
    pub asked: [u64; 4],
    /// What came of it, indexed by [`Outcome`].
    pub outcome: [u64; 8],
    /// What became of flows that began, indexed by [`FlowEvent`].
    pub flows: [u64; 3],
    /// What was unusual about connection IDs, indexed by [`IdEvent`]. Counted for
    /// [`DROPPED_SLOT`](crate::limits::DROPPED_SLOT), whichever slot was selected.
    pub ids: [u64; 3],
}

const _: () = assert!(size_of::<SlotCounters>() == 144);

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
    /// The slot that the flow went to before.
    Kept = 6,
    /// The slot of the generation that the QUIC connection ID names.
    ById = 7,
}

/// What happens to flows in the flow table.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEvent {
    /// One that goes to the slot is remembered: it has begun, or was at another slot before.
    Remembered = 0,
    /// One that goes to the slot is not: its set of the table was full of established flows.
    NotRemembered = 1,
    /// One that went to the slot, and was not idle, is forgotten in favour of another.
    Forgotten = 2,
}

/// What a datagram is that does not go by its connection ID, under the policy `quic-cid`: each such datagram is one of these.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdEvent {
    /// It begins a connection, by an ID that its client has made up.
    Opening = 0,
    /// Its ID names a generation that is not there any more.
    Gone = 1,
    /// Its ID names nobody, or it is no packet of QUIC.
    Unknown = 2,
}

impl SlotCounters {
    /// Counts one run.
    #[inline(always)]
    pub fn count(&mut self, asked: Asked, outcome: Outcome) {
        self.asked[asked as usize] += 1;
        self.outcome[outcome as usize] += 1;
    }

    /// The field-wise sum.
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::wrapping_add)
    }

    /// What was counted between two looks; nothing where the one before says more.
    pub fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    fn with(mut self, other: &Self, function: impl Fn(u64, u64) -> u64) -> Self {
        let own = self.asked.iter_mut().chain(&mut self.outcome).chain(&mut self.flows).chain(&mut self.ids);
        let others = other.asked.iter().chain(&other.outcome).chain(&other.flows).chain(&other.ids);
        own.zip(others).for_each(|(own, other)| *own = function(*own, *other));
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
