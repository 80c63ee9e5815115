//! The embedded eBPF object of the looks, and its loading.

use std::os::fd::AsFd as _;

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader, Pod,
    maps::{Map, MapError},
    programs::{Iter, ProgramError, ProgramFd},
};
use server_common::looks::Offsets;

use super::{
    attach::{self, SK_STORAGE_MAP, TASK, TASK_FILE},
    btf::{self, Btf},
    error::LooksError,
    offsets::offsets,
};
use crate::dataplane::shared_array::SharedArray;

/// The object as `cargo xtask build-ebpf` wrote it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../server-ebpf/object/looks.bpf.o");

/// The names of its programs, maps and constants.
pub(super) mod names {
    /// The program that visits watched listeners.
    pub(crate) const LISTENERS: &str = "listeners";
    /// The program that visits the descriptors of a process.
    pub(crate) const CONNECTIONS: &str = "connections";
    /// The program that visits processes.
    pub(crate) const PROCESSES: &str = "processes";
    /// The watched sockets.
    pub(crate) const WATCHED: &str = "WATCHED";
    /// Their queue cells.
    pub(crate) const QUEUES: &str = "QUEUES";
    /// The number of the current look.
    pub(crate) const LOOK: &str = "LOOK";
    /// The wanted ports.
    pub(crate) const PORTS: &str = "PORTS";
    /// The field offsets.
    pub(super) const OFFSETS: &str = "OFFSETS";
}

/// The loaded object. The `listeners` program is loaded with it, the others on demand.
pub(super) struct Object {
    ebpf: Ebpf,
    iterators: AyaBtf,
    /// Whether the program may read kernel memory by address, which IPv4 UDP sockets need.
    pub(super) reads_memory: bool,
}

impl Object {
    /// Loads the object. Under `lockdown=confidentiality` the kernel refuses reads by address; then the program goes
    /// without.
    pub(super) fn load() -> Result<Self, LooksError> {
        let btf = Btf::read(btf::KERNEL)?;
        let (iterators, known) = (attach::iterators(&btf)?, offsets(&btf)?);
        drop(btf);
        let with =
            |reads_memory| load(&Offsets { reads_memory: u32::from(reads_memory), ..known }, &iterators);
        let (ebpf, reads_memory) = match with(true) {
            Ok(ebpf) => (ebpf, true),
            // If neither loads, the first reason tells more.
            Err(refused @ LooksError::Program { .. }) => (with(false).map_err(|_| refused)?, false),
            Err(error) => return Err(error),
        };
        Ok(Self { ebpf, iterators, reads_memory })
    }

    /// The `listeners` program.
    pub(super) fn listeners(&mut self) -> Result<ProgramFd, LooksError> {
        descriptor(program(&mut self.ebpf, names::LISTENERS)?, names::LISTENERS)
    }

    /// Loads the `connections` program (Linux 5.11).
    pub(super) fn connections(&mut self) -> Result<ProgramFd, LooksError> {
        load_program(&mut self.ebpf, names::CONNECTIONS, TASK_FILE, &self.iterators)?;
        descriptor(program(&mut self.ebpf, names::CONNECTIONS)?, names::CONNECTIONS)
    }

    /// Loads the `processes` program.
    pub(super) fn processes(&mut self) -> Result<ProgramFd, LooksError> {
        load_program(&mut self.ebpf, names::PROCESSES, TASK, &self.iterators)?;
        descriptor(program(&mut self.ebpf, names::PROCESSES)?, names::PROCESSES)
    }

    /// Takes a map out.
    pub(super) fn take(&mut self, name: &'static str) -> Result<Map, LooksError> {
        self.ebpf.take_map(name).ok_or(LooksError::Missing { kind: "map", name })
    }
}

fn load(offsets: &Offsets, iterators: &AyaBtf) -> Result<Ebpf, LooksError> {
    let mut ebpf = EbpfLoader::new()
        // No CO-RE relocations: the offsets take their place.
        .btf(None)
        .override_global(names::OFFSETS, offsets, true)
        .load(OBJECT)
        .map_err(LooksError::Load)?;
    load_program(&mut ebpf, names::LISTENERS, SK_STORAGE_MAP, iterators)?;
    Ok(ebpf)
}

fn load_program(
    ebpf: &mut Ebpf,
    name: &'static str,
    over: &str,
    iterators: &AyaBtf,
) -> Result<(), LooksError> {
    let refused = |source| LooksError::Program { program: name, source };
    program(ebpf, name)?.load(over, iterators).map_err(refused)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Iter, LooksError> {
    let missing = LooksError::Missing { kind: "program", name };
    let found = ebpf.program_mut(name).ok_or(missing)?;
    found.try_into().map_err(|source| LooksError::Program { program: name, source })
}

fn descriptor(program: &Iter, name: &'static str) -> Result<ProgramFd, LooksError> {
    let error = |source| LooksError::Program { program: name, source };
    let descriptor = program.fd().map_err(error)?;
    descriptor.try_clone().map_err(|source| error(ProgramError::IOError(source)))
}

/// Maps the first `count` values of an array.
pub(super) fn share<T: Pod>(
    map: &Map,
    name: &'static str,
    count: usize,
) -> Result<SharedArray<T>, LooksError> {
    let Map::Array(data) = map else { return Err(LooksError::Missing { kind: "array", name }) };
    SharedArray::map(data.fd().as_fd(), count).map_err(|source| LooksError::Map {
        operation: "share",
        map: name,
        source: MapError::IoError(source),
    })
}
