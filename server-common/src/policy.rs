//! Which rule a table is read by.

/// The rule, as a table holds it.
#[repr(u16)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The bucket that the key falls into decides.
    Hash = 0,
    /// The less loaded of two choices, the first where they are about even.
    LeastLoaded = 1,
    /// The worker that is pinned to the CPU that took the packet, then the bucket.
    Cpu = 2,
    /// For datagrams, the worker that their QUIC connection ID names, then the bucket.
    QuicCid = 3,
}

/// How many CPUs a table knows pinned workers of. A packet that another takes goes by its hash.
pub const CPUS_MAX: usize = 1024;

/// The most workers on CPUs, each counted on each of its own; what does not fit goes by its hash.
pub const PINNED_MAX: usize = 4096;

/// Where the slots of the workers that are pinned to a CPU stand in a table's list.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pinned {
    /// The first.
    pub first: u16,
    /// How many; 0 where no worker is pinned to the CPU.
    pub count: u16,
}

const _: () = assert!(PINNED_MAX.is_power_of_two() && CPUS_MAX.is_power_of_two());
