//! What is loaded for a listen address: which program, and maps of which sizes.

use super::object::names;

/// Which of the two programs runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKind {
    /// Linux 5.14 and later: also chooses for connections whose listener has stopped.
    SelectOrMigrate,
    /// Before: such connections are reset by the kernel, so a drain can only wait for them.
    Select,
}

impl ProgramKind {
    /// The program's name, as users see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SelectOrMigrate => "select-or-migrate",
            Self::Select => "select",
        }
    }

    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::SelectOrMigrate => names::SELECT_OR_MIGRATE,
            Self::Select => names::SELECT,
        }
    }
}

/// How large an instance's maps are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Slots of the sockarray.
    pub slots: u32,
    /// How many sockets each slot has room for, 1 to [`SOCKETS_MAX`](server_common::limits::SOCKETS_MAX).
    pub sockets: u32,
    /// How many UDP flows can be remembered, 0 to [`FLOWS_MAX`](super::flow_table::FLOWS_MAX); rounded up to a power of two. With
    /// 0 every datagram goes by the table.
    pub flows: u32,
    /// How many workers QUIC connection IDs can name, from the first: up to [`WORKERS_MAX`](server_common::limits::WORKERS_MAX), 1 at
    /// least.
    pub named: u32,
}

impl Shape {
    /// How many indirection tables there are: one is no use where each slot has one socket.
    pub(super) fn indirections(self) -> u32 {
        if self.sockets == 1 { 1 } else { self.slots }
    }

    /// One with a socket for each slot, that remembers no flows.
    pub fn without_flows(slots: u32) -> Self {
        Self { slots, sockets: 1, flows: 0, named: 1 }
    }
}
