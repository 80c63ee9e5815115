//! The committed eBPF object, embedded, so that building the daemon needs no eBPF tool chain.

/// The object as `cargo xtask build-ebpf` wrote it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../server-ebpf/object/steer.bpf.o");

/// The names of what is in it.
pub(crate) mod names {
    /// The program for Linux 5.14 and later.
    pub(crate) const SELECT_OR_MIGRATE: &str = "select_or_migrate";
    /// Its twin for kernels before.
    pub(crate) const SELECT: &str = "select";
    /// The sockarray.
    pub(crate) const LISTENERS: &str = "LISTENERS";
    /// The array of maps whose only entry is the published table.
    pub(crate) const TABLE: &str = "TABLE";
    /// What the kernel shows of each slot's listener.
    pub(crate) const SHOWN: &str = "SHOWN";
    /// Which of each slot's sockets gets a flow.
    pub(crate) const INDIRECTION: &str = "INDIRECTION";
    /// The array of maps whose entries are the workers' cells.
    pub(crate) const CELLS: &str = "CELLS";
    /// UDP flows, in sets.
    pub(crate) const FLOWS: &str = "FLOWS";
    /// Between whom they are.
    pub(crate) const FLOW_ENDS: &str = "FLOW_ENDS";
    /// The program's constant: how many sets there are.
    pub(crate) const FLOW_SETS: &str = "FLOW_SETS";
    /// The program's constant: how many sockets each slot has room for.
    pub(crate) const SOCKETS: &str = "SOCKETS";
    /// The slots of each worker's generations.
    pub(crate) const ROUTES: &str = "ROUTES";
    /// The per-CPU counters.
    pub(crate) const COUNTERS: &str = "COUNTERS";
}
