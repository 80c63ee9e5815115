//! How loaded a worker is, for the policy `least-loaded`: what the kernel shows of it, and what it says itself.
//!
//! The program cannot see a listener's queue, so the daemon samples it into [`Shown`]. A worker can say more, and sooner, in
//! its [`Cell`]: a store to shared memory, no system call. Both are read at every choice that depends on them.

/// How long what the daemon sampled counts: a dead daemon's last look must not steer for ever.
pub const SHOWN_MAX_AGE: u64 = 200_000_000;

/// How long a worker's beat counts, in nanoseconds. A worker that stops beating gets nothing new 50 ms later: the program's
/// clock is as coarse as the kernel's tick, 10 ms at most.
pub const BEAT_MAX_AGE: u64 = 35_000_000;

/// What the kernel shows of the listener in a slot. The daemon writes it, 125 times a second.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// When it was sampled: CLOCK_MONOTONIC, in nanoseconds.
    pub sampled_at: u64,
    /// Connections in its queue, not accepted.
    pub queue: u32,
    /// Not 0: its worker takes nothing, by its queue or by a beat that the program cannot see yet.
    pub stalled: u32,
}

const _: () = assert!(size_of::<Shown>() == 16);

/// What a worker says of itself, in memory that it shares with the program and nobody else: one cache line.
///
/// A worker that never writes it is steered by what the kernel shows.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// When the worker last went round its loop: CLOCK_MONOTONIC, in nanoseconds. 0 until it first says so.
    pub beat: u64,
    /// How much it has in hand, in whatever unit all workers of the group use: open connections, mostly.
    pub load: u64,
    reserved: [u64; 6],
}

const _: () = assert!(size_of::<Cell>() == 64);

impl Cell {
    /// What a worker says at one time.
    pub const fn new(beat: u64, load: u64) -> Self {
        Self { beat, load, reserved: [0; 6] }
    }
}

/// A worker's load, as a choice sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Unaccepted connections and what the worker says it has in hand.
    pub count: u64,
    /// Whether it looks as if it took nothing.
    pub is_bad: bool,
}

impl Load {
    /// What comes of both. `now` is asked for only where a time counts: mostly there is nothing to weigh.
    #[inline(always)]
    pub fn of(shown: Shown, cell: Option<Cell>, now: impl Fn() -> u64) -> Self {
        let mut load = Self { count: 0, is_bad: false };
        if shown.queue | shown.stalled != 0 && now().saturating_sub(shown.sampled_at) <= SHOWN_MAX_AGE {
            load.count = shown.queue as u64;
            load.is_bad = shown.stalled != 0;
        }
        if let Some(cell) = cell
            && cell.beat != 0
        {
            load.count = load.count.saturating_add(cell.load);
            load.is_bad |= now().saturating_sub(cell.beat) > BEAT_MAX_AGE;
        }
        load
    }

    /// Whether a flow whose first choice has this load goes to its second choice instead. Only a clear difference counts, half as
    /// much again and `tie` beyond that: at any instant evenly loaded workers differ a little, and their flows are
    /// to stay where they are.
    #[inline(always)]
    pub fn yields_to(&self, second: &Self, tie: u32) -> bool {
        if self.is_bad || second.is_bad {
            return self.is_bad && !second.is_bad;
        }
        self.count > second.count.saturating_add(second.count / 2).saturating_add(tie as u64)
    }

    /// Whether no other load could be so much less that the flow would go there.
    #[inline(always)]
    pub fn is_light(&self, tie: u32) -> bool {
        !self.is_bad && self.count <= tie as u64
    }
}

// SAFETY: `repr(C)` of integers without padding, as the sizes asserted above show: every bit pattern is a value.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for Shown {}

// SAFETY: as above.
#[cfg(feature = "aya")]
unsafe impl aya::Pod for Cell {}
