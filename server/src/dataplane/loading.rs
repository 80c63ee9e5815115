//! Loads the object: sizes its maps, and takes them out.

use std::os::fd::AsFd as _;

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Map, MapError},
    programs::{ProgramError, SkReuseport},
};
use server_common::flows::WAYS;

use super::{
    error::DataplaneError,
    flow_table::{self, FlowTable},
    object::{OBJECT, names},
    shape::{ProgramKind, Shape},
    shared_array::SharedArray,
};

/// Loads the object with one of its programs, before any map is taken out: the program is loaded with the maps' descriptors as
/// they are then.
pub(super) fn load_object(shape: Shape, kind: ProgramKind) -> Result<Ebpf, DataplaneError> {
    let sets = flow_table::sets(shape.flows);
    let mut ebpf = EbpfLoader::new()
        // The program reads no structure of the kernel's own: without relocations to work out, the kernel's types, some 10 MB to
        // parse for each address, are not looked at.
        .btf(None)
        .map_max_entries(names::LISTENERS, shape.slots * shape.sockets)
        .map_max_entries(names::COUNTERS, shape.slots)
        .map_max_entries(names::SHOWN, shape.slots)
        .map_max_entries(names::INDIRECTION, shape.indirections())
        .map_max_entries(names::CELLS, shape.slots)
        // No map is of no size.
        .map_max_entries(names::FLOWS, sets.max(1))
        .map_max_entries(names::FLOW_ENDS, sets.max(1))
        .map_max_entries(names::ROUTES, shape.named)
        .override_global(names::FLOW_SETS, &sets, true)
        .override_global(names::SOCKETS, &shape.sockets, true)
        .override_global(aya_log::LEVEL, &log_level(), true)
        .load(OBJECT)
        .map_err(DataplaneError::Load)?;
    load_program(&mut ebpf, kind)?;
    // A task that waits for what never comes would hold its map for ever.
    if log_level() > 0 {
        follow_log(&mut ebpf);
    }
    Ok(ebpf)
}

/// Whether the verifier has refused the program: its twin may be taken.
pub(super) fn is_refusal(error: &DataplaneError) -> bool {
    matches!(error, DataplaneError::Program { source: ProgramError::LoadError { io_error, .. }, .. }
        if matches!(io_error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)))
}

/// The program's log level: warnings are for those who look at what the program drops.
fn log_level() -> u8 {
    let wanted = tracing::enabled!(target: "steer_ebpf", tracing::Level::WARN)
        && std::env::var_os("STEER_EBPF_LOG").is_some();
    if wanted { aya_log::Level::Warn as u8 } else { 0 }
}

/// Reads the program's log in a task of its own, where there is a runtime and a log: without either the program runs as
/// well. The flush of a record that it cannot read panics, which then ends that task alone.
fn follow_log(ebpf: &mut Ebpf) {
    let (Ok(runtime), Ok(logger)) = (tokio::runtime::Handle::try_current(), aya_log::EbpfLogger::init(ebpf))
    else {
        return;
    };
    runtime.spawn(async move {
        // SAFETY: the logger owns the ring buffer's descriptor, which stays open for as long as it lives.
        let registered = unsafe {
            tokio::io::unix::AsyncFd::register_with_interest(logger, tokio::io::Interest::READABLE)
        };
        let Ok(mut logger) = registered else { return };
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}

pub(super) fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, DataplaneError> {
    ebpf.take_map(name).ok_or(DataplaneError::Missing { kind: "map", name })
}

/// Maps the flow table's arrays, of `size` sets: 1 is that of a table that remembers nothing.
pub(super) fn share_flows(words: &Map, ends: &Map, size: u32) -> Result<FlowTable, DataplaneError> {
    let words = share(words, names::FLOWS, size * WAYS as u32)?;
    let ends = share(ends, names::FLOW_ENDS, size)?;
    Ok(FlowTable::new(words, ends, if size == 1 { 0 } else { size }))
}

/// Maps an array of so many values.
pub(super) fn share<T: Pod>(
    map: &Map,
    name: &'static str,
    count: u32,
) -> Result<SharedArray<T>, DataplaneError> {
    let Map::Array(data) = map else { return Err(DataplaneError::Missing { kind: "array", name }) };
    SharedArray::map(data.fd().as_fd(), count as usize).map_err(|source| DataplaneError::Map {
        operation: "share",
        map: name,
        source: MapError::IoError(source),
    })
}

fn load_program(ebpf: &mut Ebpf, kind: ProgramKind) -> Result<(), DataplaneError> {
    let program = kind.symbol();
    let error = |source| DataplaneError::Program { program, source };
    let missing = DataplaneError::Missing { kind: "program", name: program };
    let loaded: &mut SkReuseport = ebpf.program_mut(program).ok_or(missing)?.try_into().map_err(error)?;
    loaded.load().map_err(error)
}
