//! The flow table of one listen address: what the program remembers of UDP flows, in memory that is shared with it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use server_common::{
    flow_hash::Seed,
    flows::{Ends, Entry, IDLE_MAX, SETS_MAX, UNIT_SHIFT, WAYS, set_of, units},
};

use crate::engine::event::Slot;

use super::{cells::monotonic_nanoseconds, shared_array::SharedArray};

/// The most flows that a table can have room for.
pub const FLOWS_MAX: u32 = SETS_MAX * WAYS as u32;

/// The longest time that a flow can be idle and still be known.
pub const FLOW_IDLE_MAX: Duration = Duration::from_nanos((IDLE_MAX as u64) << UNIT_SHIFT);

/// The sets of a table with room for so many flows: a power of two, and none for none. Never one: maps of that size are those
/// of a table that remembers nothing.
pub(super) fn sets(flows: u32) -> u32 {
    if flows == 0 { 0 } else { flows.min(FLOWS_MAX).div_ceil(WAYS as u32).next_power_of_two().max(2) }
}

/// A time to be idle in the table's units, rounded up.
pub fn idle_units(idle: Duration) -> u16 {
    let unit = 1_u128 << UNIT_SHIFT;
    idle.as_nanos().div_ceil(unit).min(u128::from(IDLE_MAX)) as u16
}

/// A flow, as it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub client: SocketAddr,
    /// The address that it sends to.
    pub local: SocketAddr,
    /// Where its last datagram went.
    pub slot: Slot,
    /// How long ago that was: to 134 ms, and less by up to as much.
    pub idle: Duration,
    /// Whether more than one datagram of it has come.
    pub is_established: bool,
}

/// How many flows went to a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// All that are not idle.
    pub flows: u64,
    /// Those of which more than one datagram has come.
    pub established: u64,
}

/// The table's memory. It outlives the daemon where it is pinned.
pub struct FlowTable {
    words: SharedArray<u64>,
    ends: SharedArray<[Ends; WAYS]>,
    sets: u32,
}

impl std::fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTable").field("sets", &self.sets).finish_non_exhaustive()
    }
}

impl FlowTable {
    pub(super) fn new(words: SharedArray<u64>, ends: SharedArray<[Ends; WAYS]>, sets: u32) -> Self {
        Self { words, ends, sets }
    }

    /// How many flows there is room for.
    pub fn room(&self) -> u64 {
        u64::from(self.sets) * WAYS as u64
    }

    /// How many flows went to each slot and are not idle.
    pub fn count(&self, idle: Duration) -> BTreeMap<Slot, FlowCount> {
        let (now, idle) = (now(), idle_units(idle));
        let mut found: BTreeMap<Slot, FlowCount> = BTreeMap::new();
        for (_, entry) in self.entries().filter(|(_, entry)| !entry.is_idle(now, idle)) {
            let count = found.entry(entry.slot()).or_default();
            count.flows += 1;
            count.established += u64::from(entry.is_established());
        }
        found
    }

    /// Every flow that is not idle. One that begins at this moment may be left out.
    pub fn list(&self, idle: Duration, seed: &Seed) -> Vec<Flow> {
        let (now, idle) = (now(), idle_units(idle));
        let live = self.entries().filter(|(_, entry)| !entry.is_idle(now, idle));
        live.filter_map(|(index, entry)| {
            let (set, way) = (index / WAYS, index % WAYS);
            let ends = self.ends.read(set)?[way];
            let hash = ends.flow().hash(seed);
            // What the ends are of is written after the word.
            let is_its = entry.is_of(hash) && set_of(hash, self.sets) as usize == set;
            is_its.then(|| Flow {
                client: address(ends.source, ends.source_port),
                local: address(ends.destination, ends.destination_port),
                slot: entry.slot(),
                idle: Duration::from_nanos(u64::from(entry.age(now)) << UNIT_SHIFT),
                is_established: entry.is_established(),
            })
        })
        .collect()
    }

    /// Forgets flows that are idle, so that no age goes round, and those of a slot, before that is another's.
    pub fn sweep(&self, idle: Duration, slot: Option<Slot>) {
        let (now, idle) = (now(), idle_units(idle));
        for (index, entry) in self.entries() {
            if entry.is_idle(now, idle) || Some(entry.slot()) == slot {
                // One that is not the same any more has just been heard of.
                self.words.replace(index, entry.0, Entry::NONE.0);
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = (usize, Entry)> {
        (0..self.sets as usize * WAYS)
            .filter_map(|index| Some((index, Entry(self.words.read(index)?))))
            .filter(|(_, entry)| *entry != Entry::NONE)
    }
}

/// The kernel's clock, as the program reads it, in the table's units.
fn now() -> u16 {
    units(monotonic_nanoseconds())
}

fn address(words: [u32; 4], port: u16) -> SocketAddr {
    let mut bytes = [0; 16];
    for (part, word) in bytes.chunks_exact_mut(4).zip(words) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    let ip = Ipv6Addr::from(bytes);
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    SocketAddr::new(ip, u16::from_be_bytes(port.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_room_for_what_is_asked_for() {
        assert_eq!([0, 1, 8, 9, 1000, 65_536].map(sets), [0, 2, 2, 2, 128, 8192]);
        assert_eq!(sets(u32::MAX), SETS_MAX);
        let units = [0, 1, 134, 135, 30_000].map(|ms| idle_units(Duration::from_millis(ms)));
        assert_eq!(units, [0, 1, 1, 2, 224]);
        assert_eq!((idle_units(Duration::MAX), idle_units(FLOW_IDLE_MAX)), (IDLE_MAX, IDLE_MAX));
    }

    #[test]
    fn ends_are_shown_as_people_write_them() {
        use server_common::flow_hash::mapped;
        let word = |bytes| u32::from_le_bytes(bytes);
        let shown = address(mapped(word([192, 0, 2, 1])), 53_u16.to_be());
        assert_eq!(shown.to_string(), "192.0.2.1:53");
        let words = [word([0x20, 0x01, 0x0d, 0xb8]), 0, 0, word([0, 0, 0, 1])];
        assert_eq!(address(words, 443_u16.to_be()).to_string(), "[2001:db8::1]:443");
    }
}
