//! One kernel SO_REUSEPORT group's loaded program and maps.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray, ReusePortSockArray},
    programs::{ProgramError, ProgramInfo, SkReuseport, sk_reuseport::SkReuseportAttachType},
};
use server_common::{choice, counters::SlotCounters, indirection::Indirection, load::Shown, quic::Owner};

use super::{
    cells::Cells,
    error::{DataplaneError, io_error},
    flow_table::{self, FlowTable},
    loading::{is_refusal, load_object, share, share_flows, take_map},
    object::names,
    pins,
    publisher::Publisher,
    routing::{self, Routing},
    shared_array::SharedArray,
};

pub use super::shape::{ProgramKind, Shape};

/// The program, which has to stay loaded until it is attached.
enum Program {
    Loaded(Box<Ebpf>),
    Pinned(Box<Mutex<SkReuseport>>),
}

/// The program and maps that steer one listen address.
///
/// Dropping it does not detach: the kernel keeps program and maps for as long as the group has a member, so
/// traffic goes on under the last table.
pub struct KernelGroup {
    program: Program,
    kind: ProgramKind,
    /// What is pinned, to be pinned again should somebody remove it.
    pinned: Vec<(&'static str, MapData)>,
    changes: Mutex<pins::Changes>,
    listeners: Mutex<ReusePortSockArray<MapData>>,
    /// How many sockets each slot has room for.
    sockets: u32,
    counters: PerCpuArray<MapData, SlotCounters>,
    shown: SharedArray<Shown>,
    indirection: SharedArray<Indirection>,
    cells: Arc<Mutex<Cells>>,
    flows: Arc<FlowTable>,
    routing: Routing,
}

impl std::fmt::Debug for KernelGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelGroup").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl KernelGroup {
    /// Loads an instance. Needs CAP_BPF; Linux 5.7 for the array of maps' BTF.
    ///
    /// Tries the program that migrates first, and its twin where the verifier refuses that: what a kernel can do
    /// is found by trying, because distributions backport.
    pub fn load(shape: Shape) -> Result<(Self, Publisher), DataplaneError> {
        match Self::load_kind(shape, ProgramKind::SelectOrMigrate) {
            Err(error) if is_refusal(&error) => Self::load_kind(shape, ProgramKind::Select),
            result => result,
        }
    }

    /// Loads an instance and pins it in a directory, so that another process can go on with it.
    pub fn load_pinned(shape: Shape, directory: &Path) -> Result<(Self, Publisher), DataplaneError> {
        pins::remove(directory)?;
        pins::make(directory)?;
        match Self::pin_kind(shape, ProgramKind::SelectOrMigrate, directory) {
            Err(error) if is_refusal(&error) => Self::pin_kind(shape, ProgramKind::Select, directory)?,
            result => result?,
        }
        Self::open(directory)
    }

    fn pin_kind(shape: Shape, kind: ProgramKind, directory: &Path) -> Result<(), DataplaneError> {
        let mut ebpf = load_object(shape, kind)?;
        let pin = |name| move |source| DataplaneError::Pin { name, source };
        for name in pins::MAPS {
            let map = ebpf.map(name).ok_or(DataplaneError::Missing { kind: "map", name })?;
            map.pin(directory.join(name)).map_err(pin(name))?;
        }
        let name = kind.symbol();
        let missing = DataplaneError::Missing { kind: "program", name };
        ebpf.program_mut(name).ok_or(missing)?.pin(directory.join(name)).map_err(pin(name))
    }

    /// Goes on with the instance that is pinned in a directory. The tables of the process before stay published until the next
    /// is.
    pub fn open(directory: &Path) -> Result<(Self, Publisher), DataplaneError> {
        let kinds = [ProgramKind::SelectOrMigrate, ProgramKind::Select];
        let is_there = |kind: &ProgramKind| directory.join(kind.symbol()).exists();
        let gone = |kind, name| DataplaneError::Unpinned { kind, name, directory: directory.to_owned() };
        if let Some(map) = pins::MAPS.into_iter().find(|map| !directory.join(map).exists()) {
            return Err(gone("map", map));
        }
        let kind = kinds.into_iter().find(is_there);
        let kind = kind.ok_or_else(|| gone("program", names::SELECT_OR_MIGRATE))?;
        let open = |map| {
            let error = move |source| DataplaneError::Map { operation: "open the pin of", map, source };
            MapData::from_pin(directory.join(map)).map_err(error)
        };
        let map_error = |map| move |source| DataplaneError::Map { operation: "open the pin of", map, source };
        let typed = |map| Map::from_map_data(open(map)?).map_err(map_error(map));
        let listeners: ReusePortSockArray<MapData> =
            typed(names::LISTENERS)?.try_into().map_err(map_error(names::LISTENERS))?;
        let counters = typed(names::COUNTERS)?.try_into().map_err(map_error(names::COUNTERS))?;
        let outer = typed(names::TABLE)?.try_into().map_err(map_error(names::TABLE))?;
        let cells = typed(names::CELLS)?.try_into().map_err(map_error(names::CELLS))?;
        let size = |map| -> Result<u32, DataplaneError> {
            Ok(open(map)?.info().map_err(map_error(map))?.max_entries())
        };
        let slots = size(names::SHOWN)?;
        let sockets = size(names::LISTENERS)? / slots;
        let shown = share(&typed(names::SHOWN)?, names::SHOWN, slots)?;
        let indirection = typed(names::INDIRECTION)?;
        let indirection = share(&indirection, names::INDIRECTION, size(names::INDIRECTION)?)?;
        let flows = share_flows(&typed(names::FLOWS)?, &typed(names::FLOW_ENDS)?, size(names::FLOWS)?)?;
        let routing =
            share(&typed(names::ROUTES)?, names::ROUTES, size(names::ROUTES)? * routing::WORDS as u32)?;
        let attach_type = match kind {
            ProgramKind::SelectOrMigrate => SkReuseportAttachType::SelectOrMigrate,
            ProgramKind::Select => SkReuseportAttachType::Select,
        };
        let program = SkReuseport::from_pin(directory.join(kind.symbol()), attach_type)
            .map_err(|source| DataplaneError::Program { program: kind.symbol(), source })?;
        let pinned = pins::MAPS.into_iter().map(|map| Ok((map, open(map)?)));
        let pinned = pinned.collect::<Result<_, DataplaneError>>()?;
        let group = Self {
            program: Program::Pinned(Box::new(Mutex::new(program))),
            kind,
            pinned,
            changes: Mutex::default(),
            listeners: Mutex::new(listeners),
            sockets,
            counters,
            shown,
            indirection,
            cells: Arc::new(Mutex::new(Cells::new(cells)?)),
            flows: Arc::new(flows),
            routing: Routing::new(routing),
        };
        Ok((group, Publisher::new(outer)?))
    }

    /// Pins again what somebody has removed from the directory; whether there was something.
    pub fn repin(&self, directory: &Path) -> Result<bool, DataplaneError> {
        let Program::Pinned(program) = &self.program else { return Ok(false) };
        if !lock(&self.changes).are_possible(directory) {
            return Ok(false);
        }
        let name = self.kind.symbol();
        let is_gone = |name: &str| !directory.join(name).exists();
        if !is_gone(name) && !self.pinned.iter().any(|(map, _)| is_gone(map)) {
            return Ok(false);
        }
        pins::make(directory)?;
        let pin = |name| move |source| DataplaneError::Pin { name, source };
        for (map, data) in self.pinned.iter().filter(|(map, _)| is_gone(map)) {
            data.pin(directory.join(map)).map_err(pin(map))?;
        }
        if is_gone(name) {
            lock(program).pin(directory.join(name)).map_err(pin(name))?;
        }
        Ok(true)
    }

    /// Loads an instance of one kind.
    pub fn load_kind(shape: Shape, kind: ProgramKind) -> Result<(Self, Publisher), DataplaneError> {
        let mut ebpf = load_object(shape, kind)?;
        let map_error = |map| move |source| DataplaneError::Map { operation: "open", map, source };
        let listeners =
            take_map(&mut ebpf, names::LISTENERS)?.try_into().map_err(map_error(names::LISTENERS))?;
        let counters =
            take_map(&mut ebpf, names::COUNTERS)?.try_into().map_err(map_error(names::COUNTERS))?;
        let outer = take_map(&mut ebpf, names::TABLE)?.try_into().map_err(map_error(names::TABLE))?;
        let shown = share(&take_map(&mut ebpf, names::SHOWN)?, names::SHOWN, shape.slots)?;
        let indirection = take_map(&mut ebpf, names::INDIRECTION)?;
        let indirection = share(&indirection, names::INDIRECTION, shape.indirections())?;
        let sets = flow_table::sets(shape.flows);
        let words = take_map(&mut ebpf, names::FLOWS)?;
        let flows = share_flows(&words, &take_map(&mut ebpf, names::FLOW_ENDS)?, sets.max(1))?;
        let routes = take_map(&mut ebpf, names::ROUTES)?;
        let routing = Routing::new(share(&routes, names::ROUTES, shape.named * routing::WORDS as u32)?);
        let cells = take_map(&mut ebpf, names::CELLS)?.try_into().map_err(map_error(names::CELLS))?;
        let cells = Arc::new(Mutex::new(Cells::new(cells)?));
        let program = Program::Loaded(Box::new(ebpf));
        let group = Self {
            program,
            kind,
            pinned: Vec::new(),
            changes: Mutex::default(),
            listeners: Mutex::new(listeners),
            sockets: shape.sockets,
            counters,
            shown,
            indirection,
            cells,
            flows: Arc::new(flows),
            routing,
        };
        Ok((group, Publisher::new(outer)?))
    }

    /// Which program was loaded.
    pub fn kind(&self) -> ProgramKind {
        self.kind
    }

    /// What the kernel says of the program: its run statistics, say.
    pub fn info(&self) -> Result<ProgramInfo, DataplaneError> {
        self.with_program(SkReuseport::info)
    }

    fn with_program<T>(
        &self,
        act: impl FnOnce(&SkReuseport) -> Result<T, ProgramError>,
    ) -> Result<T, DataplaneError> {
        let program = self.kind.symbol();
        let error = |source| DataplaneError::Program { program, source };
        match &self.program {
            Program::Pinned(pinned) => act(&lock(pinned)).map_err(error),
            Program::Loaded(ebpf) => {
                let missing = DataplaneError::Missing { kind: "program", name: program };
                act(ebpf.program(program).ok_or(missing)?.try_into().map_err(error)?).map_err(error)
            }
        }
    }

    /// Attaches the program to the group that `member` is in. The member must listen (TCP) or be bound (UDP): a
    /// socket that attached before cannot join a group any more.
    pub fn attach(&self, member: BorrowedFd<'_>) -> Result<(), DataplaneError> {
        self.with_program(|program| program.attach(member).map(drop))
    }

    /// Detaches whatever program the group that `member` is in has. That it has none, as another has detached it, is no error.
    pub fn detach(&self, member: BorrowedFd<'_>) -> Result<(), DataplaneError> {
        let detached = SkReuseport::detach(member)
            .map_err(|source| DataplaneError::Program { program: self.kind.symbol(), source });
        match detached {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
            detached => detached,
        }
    }

    /// How many sockets each slot has room for.
    pub fn sockets(&self) -> u32 {
        self.sockets
    }

    /// Puts a listener into a slot as the first or a further one of it (`place`, below [`sockets`](Self::sockets)), in place of what
    /// was there, atomically.
    pub fn put(&self, slot: u16, place: u32, listener: BorrowedFd<'_>) -> Result<(), DataplaneError> {
        lock(&self.listeners)
            .set(self.index(slot, place), &listener.as_raw_fd(), 0)
            .map_err(|source| DataplaneError::Put { slot, source: io_error(source) })
    }

    /// Puts a listener where it should be; whether it was not there.
    pub fn fill(&self, slot: u16, place: u32, listener: BorrowedFd<'_>) -> Result<bool, DataplaneError> {
        match self.put(slot, place, listener) {
            Ok(()) => Ok(true),
            // The kernel takes no socket that is in a sockarray already. One that does not listen any more is another's concern.
            Err(DataplaneError::Put { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EINVAL)) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the listeners out of a slot. The kernel has done so where they stopped or were closed.
    pub fn clear(&self, slot: u16) -> Result<(), DataplaneError> {
        (0..self.sockets).try_for_each(|place| self.clear_place(slot, place))
    }

    /// Takes the listener out of one place of a slot, if there is one.
    pub fn clear_place(&self, slot: u16, place: u32) -> Result<(), DataplaneError> {
        match lock(&self.listeners).clear_index(&self.index(slot, place)).map_err(io_error) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(DataplaneError::Put { slot, source: error })
            }
            _ => Ok(()),
        }
    }

    fn index(&self, slot: u16, place: u32) -> u32 {
        choice::index(slot, self.sockets, place)
    }

    /// Spreads a slot's flows over the listeners in these places of it; without any, all go to its first place.
    pub fn spread(&self, slot: u16, places: &[u8]) {
        // A slot with one socket has none to choose from.
        let Some(mut indirection) = self.indirection.read(usize::from(slot)).filter(|_| self.sockets > 1)
        else {
            return;
        };
        indirection.spread_over(places);
        self.indirection.write(usize::from(slot), indirection);
    }

    /// Shows the program what the kernel shows of a slot's listener.
    pub fn show(&self, slot: u16, shown: Shown) {
        self.shown.write(usize::from(slot), shown);
    }

    /// What the program is shown of a slot's listener.
    pub fn shown(&self, slot: u16) -> Shown {
        self.shown.read(usize::from(slot)).unwrap_or_default()
    }

    /// The workers' cells, for a thread that may block.
    pub fn cells(&self) -> Arc<Mutex<Cells>> {
        self.cells.clone()
    }

    /// Has datagrams whose QUIC connection ID names this owner go to a slot, under the policy `quic-cid`.
    pub fn route(&self, owner: Owner, slot: u16) {
        self.routing.add(owner, slot);
    }

    /// Has none go to a slot any more.
    pub fn unroute(&self, slot: u16) {
        self.routing.remove(slot);
    }

    /// What the program remembers of UDP flows.
    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// The same, for another thread.
    pub fn flows_shared(&self) -> Arc<FlowTable> {
        self.flows.clone()
    }

    /// What was counted for a slot since it was last reset, over all CPUs.
    pub fn counters(&self, slot: u16) -> Result<SlotCounters, DataplaneError> {
        let values = self.counters.get(&u32::from(slot), 0).map_err(|source| DataplaneError::Map {
            operation: "read",
            map: names::COUNTERS,
            source,
        })?;
        Ok(values.iter().fold(SlotCounters::default(), |sum, part| sum.plus(part)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each use is one call into the kernel: there is nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
