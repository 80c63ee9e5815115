//! Publishing a table: written aside, swapped whole, and waited for.

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{Array, ArrayOfMaps, MapData};
use server_common::table::Table;

use crate::engine::layout::Layout;

use super::{error::DataplaneError, flow_table::idle_units, object::names};

/// Where tables are written before they are copied into the kernel: too large for a stack, and for every group to keep one.
/// A new one each time would be mapped, zeroed and unmapped, which takes longer than to write it.
static SCRATCH: LazyLock<Mutex<Box<Table>>> = LazyLock::new(|| {
    // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
    Mutex::new(unsafe { Box::<Table>::new_zeroed().assume_init() })
});

/// Owns the two tables of one kernel group, of which one is published.
pub struct Publisher {
    outer: ArrayOfMaps<MapData, Array<MapData, Table>>,
    tables: [Array<MapData, Table>; 2],
    /// Which of the two is published, or would be.
    published: usize,
    /// The number of the last table that was given to [`publish`](Self::publish).
    epoch: u64,
    /// How long a UDP flow can be idle and still go where it went before, in units of the flow table; 0 where all datagrams go by
    /// the table.
    flow_idle: u16,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Publisher {
    pub(super) fn new(outer: ArrayOfMaps<MapData, Array<MapData, Table>>) -> Result<Self, DataplaneError> {
        let create = || {
            Array::create(1, 0).map_err(|source| DataplaneError::Map {
                operation: "create an inner map of",
                map: names::TABLE,
                source,
            })
        };
        Ok(Self { outer, tables: [create()?, create()?], published: 0, epoch: 0, flow_idle: 0 })
    }

    /// Has datagrams, from the next table on, go where their flows went before. `idle` is how long nothing may have come of a flow;
    /// it is rounded up to units of 134 ms and cut to 18 minutes. Zero has them all go by the table.
    pub fn keep_flows(&mut self, idle: Duration) {
        self.flow_idle = idle_units(idle);
    }

    /// Publishes a layout. When it returns, no run of the program reads an older table.
    ///
    /// Blocks for an RCU grace period, some 10 ms: the kernel's update of an array of maps ends with
    /// `synchronize_rcu` (`maybe_wait_bpf_programs`, since 4.20), so that a caller may rely on the old inner map
    /// not being read any more. This is a drain's first instant, and why two tables are enough.
    pub fn publish(&mut self, layout: &Layout) -> Result<(), DataplaneError> {
        let error = |operation| move |source| DataplaneError::Map { operation, map: names::TABLE, source };
        let next = 1 - self.published;
        self.epoch = layout.epoch;
        {
            // Every write is of the whole table, whatever a panic has left there.
            let mut table = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
            layout.write(&mut table);
            table.flow_idle = self.flow_idle;
            self.tables[next].set(0, table.as_ref(), 0).map_err(error("write a table for"))?;
        }
        self.outer.set(0, &self.tables[next], 0).map_err(error("publish in"))?;
        self.published = next;
        Ok(())
    }
}
