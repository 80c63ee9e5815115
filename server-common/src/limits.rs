//! Sizes that both sides build on.

/// Buckets of a table: a power of two, so that a mask finds the bucket, and 64 for each of
/// [`WORKERS_MAX`] workers, so that the smallest share can still be told from its neighbour's.
pub const BUCKETS: usize = 1 << 16;

/// The most workers that a group can have.
pub const WORKERS_MAX: usize = 1024;

/// Slots of a sockarray, where nothing else is said at load. Slot 0 holds no listener (see
/// [`DROPPED_SLOT`]); a worker takes one, and one more while one of its generations drains.
pub const SLOTS_DEFAULT: u32 = 512;

/// The most slots: each worker, its draining generations and the holding listeners.
pub const SLOTS_MAX: u32 = 4096;

/// The most sockets that a worker can have at an address.
pub const SOCKETS_MAX: u32 = 256;

/// Stands in a table for "no slot". Never an index of a sockarray.
pub const NO_SLOT: u16 = u16::MAX;

/// The slot under which the program counts what it dropped. It never holds a listener.
pub const DROPPED_SLOT: u16 = 0;

/// Choices that one hash gives before the program looks for any working slot: 64 bits hold four bucket
/// numbers of 16 bits, so further choices cost no further hashing.
pub const CHOICES: u32 = u64::BITS / BUCKETS.ilog2();

/// How many of the working slots the program tries one by one once its choices are gone, before the last
/// resort. A bound that the verifier can follow on every kernel; with this many closed in a row, the daemon is
/// long about to publish another table.
pub const SCAN_MAX: u32 = 64;
