//! Sizes that both sides build on.

/// Buckets of a table: a power of two, so that a mask finds the bucket, and 64 for each of
/// [`WORKERS_MAX`] workers, so that the smallest share can still be told from its neighbour's.
pub const BUCKETS: usize = 1 << 16;

/// The most workers that a group can have.
pub const WORKERS_MAX: usize = 1024;

/// The fewest slots that a sockarray is loaded with, enough for 254 workers. Slot 0 holds no listener (see
/// [`DROPPED_SLOT`]); a worker takes one, and one more while one of its generations drains.
pub const SLOTS_DEFAULT: u32 = 512;

/// The most slots: two for each of [`WORKERS_MAX`] workers and for the holding listener, and some 500 for generations that drain
/// for longer than until the next restart.
pub const SLOTS_MAX: u32 = 2560;

/// How many slots a group that begins with so many workers is loaded with: what they need, rounded up to a power of two as room to
/// scale, within [`SLOTS_DEFAULT`] and [`SLOTS_MAX`].
///
/// The number is fixed at load, and each slot costs 144 bytes of counters on each possible CPU at each address: 72 KiB a CPU
/// for 512, 360 KiB for 2,560. So a small group is not loaded as if it were to become the largest.
pub const fn slots(workers: u32) -> u32 {
    let needed = slots_needed(if workers < WORKERS_MAX as u32 { workers } else { WORKERS_MAX as u32 });
    let rounded = needed.next_power_of_two();
    if rounded < SLOTS_DEFAULT {
        SLOTS_DEFAULT
    } else if rounded > SLOTS_MAX {
        SLOTS_MAX
    } else {
        rounded
    }
}

/// The most workers of a group that is loaded with so many slots.
pub const fn workers(slots: u32) -> u32 {
    let room = slots.saturating_sub(slots_needed(0)) / 2;
    if room < WORKERS_MAX as u32 { room } else { WORKERS_MAX as u32 }
}

/// Each worker needs two slots while it is handed over, so does the holding listener, and slot 0 holds none.
const fn slots_needed(workers: u32) -> u32 {
    2 * workers + 3
}

/// The most sockets that a worker can have at an address.
pub const SOCKETS_MAX: u32 = 256;

/// How many sockets each worker has room for at an address where nothing else is said, on a host with so many CPUs: two for each, as a server
/// with a socket for each CPU has twice as many while it reloads; a power of two from 16 to [`SOCKETS_MAX`].
///
/// Each costs 8 bytes in each slot of the sockarray.
pub const fn sockets(cpus: u32) -> u32 {
    let wanted = if cpus < SOCKETS_MAX { 2 * cpus } else { SOCKETS_MAX };
    let rounded = wanted.next_power_of_two();
    if rounded < 16 {
        16
    } else if rounded > SOCKETS_MAX {
        SOCKETS_MAX
    } else {
        rounded
    }
}

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
