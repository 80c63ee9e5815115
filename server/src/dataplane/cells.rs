//! Memory that a worker shares with the program: what it says of its own load.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use rustix::time::{ClockId, clock_gettime};
use server_common::load::Cell;

use super::{error::DataplaneError, object::names, shared_array::SharedArray};

/// The clock that the program compares beats and samples with: CLOCK_MONOTONIC, in nanoseconds.
pub fn monotonic_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Since the boot: neither part is negative.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// That clock as the program reads it where it can (`bpf_ktime_get_coarse_ns`): behind by the kernel's tick at most. What is too old by
/// it is so for every run of the program that begins later, which the clock itself does not promise.
pub fn coarse_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// One generation's cell: a map of one entry. Whoever has its descriptor can map this cell and no other's.
///
/// The map lives for as long as the program's map, a descriptor or a mapping refers to it.
pub struct WorkerCell {
    map: Array<MapData, Cell>,
    descriptor: OwnedFd,
    memory: SharedArray<Cell>,
    is_known: AtomicBool,
}

impl std::fmt::Debug for WorkerCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerCell").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

impl WorkerCell {
    /// A cell of which nothing is said yet. Linux 5.5.
    pub fn create() -> Result<Self, DataplaneError> {
        let error = |operation| move |source| DataplaneError::Map { operation, map: names::CELLS, source };
        let (key, value) = (size_of::<u32>() as u32, size_of::<Cell>() as u32);
        let shape = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, key, value, 1, BPF_F_MMAPABLE);
        let data = MapData::create(shape, "steer_cell", None).map_err(error("create an inner map of"))?;
        let io = |source| error("share an inner map of")(MapError::IoError(source));
        let descriptor = data.fd().as_fd().try_clone_to_owned().map_err(io)?;
        let memory = SharedArray::map(descriptor.as_fd(), 1).map_err(io)?;
        let map = Map::Array(data).try_into().map_err(error("create an inner map of"))?;
        Ok(Self { map, descriptor, memory, is_known: AtomicBool::new(false) })
    }

    /// Says something in the worker's place: for tests and benchmarks.
    pub fn write(&self, cell: Cell) {
        self.memory.write(0, cell);
    }

    /// What the worker says.
    pub fn read(&self) -> Cell {
        self.memory.read(0).unwrap_or_default()
    }

    /// Notes that every program that is to read it does.
    pub fn set_known(&self) {
        self.is_known.store(true, Ordering::Release);
    }

    /// What the programs read of it: nothing until [`set_known`](Self::set_known).
    pub fn read_by_programs(&self) -> Option<Cell> {
        self.is_known.load(Ordering::Acquire).then(|| self.read())
    }
}

impl AsFd for WorkerCell {
    /// What the worker is to get, and what it maps.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The cells that one kernel group's program reads, by slot.
pub struct Cells {
    outer: ArrayOfMaps<MapData, Array<MapData, Cell>>,
    /// Stands for no cell: the array of maps of this library has no way to take one out.
    blank: WorkerCell,
}

impl std::fmt::Debug for Cells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cells").field("blank", &self.blank).finish_non_exhaustive()
    }
}

impl Cells {
    pub(super) fn new(outer: ArrayOfMaps<MapData, Array<MapData, Cell>>) -> Result<Self, DataplaneError> {
        Ok(Self { outer, blank: WorkerCell::create()? })
    }

    /// Has the program read a cell for a slot, or nothing. Blocks for an RCU grace period, as each change of an array of maps
    /// does.
    pub fn put(&mut self, slot: u16, cell: Option<&WorkerCell>) -> Result<(), DataplaneError> {
        let cell = cell.unwrap_or(&self.blank);
        self.outer.set(u32::from(slot), &cell.map, 0).map_err(|source| DataplaneError::Map {
            operation: "change",
            map: names::CELLS,
            source,
        })
    }
}
