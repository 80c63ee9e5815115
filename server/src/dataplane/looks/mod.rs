//! Exact looks: the kernel's own counts of each watched listener's queues, the open connections of a process, and the
//! processes of the host.
//!
//! Each watched listener has an entry in a socket storage map, and a BPF iterator visits only the sockets in that
//! map. A look therefore costs microseconds and grows with the watched listeners only. sock_diag walks the host's
//! whole table of connections, and cannot tell which listener a half-open handshake belongs to. Sockets of all
//! network namespaces are seen.
//!
//! Needs Linux 5.10 with BTF (CONFIG_DEBUG_INFO_BTF), CAP_BPF and CAP_PERFMON. Listing a process's connections needs
//! Linux 6.1. Nothing is pinned: everything ends with the value.
//!
//! Memory: 2 MiB in the kernel for the cells of 65,536 listeners, mapped here only as far as used (32 bytes each, 32
//! KiB at first); about 100 bytes for each watched socket; 64 KiB for the rest. [`Looks::open`] reads the kernel's
//! BTF, 5 MB, and frees it.

mod attach;
pub mod btf;
mod connections;
pub mod error;
mod indices;
mod iterator;
mod look;
mod object;
mod offsets;
mod processes;
mod queues;
mod watched;

use std::{
    collections::BTreeSet,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use server_common::looks::ProcessRecord;
use server_common::looks::WATCHED_MAX;

use self::{
    connections::Connections, indices::Indices, object::Object, processes::ProcessList, queues::Queues,
};
pub use self::{
    connections::OpenConnection,
    error::LooksError,
    look::{Look, Queue},
    watched::Watched,
};

/// The loaded programs: one value for all groups, shared among threads. Looks at listeners exclude one another, and
/// so do looks at connections; neither waits for the other.
pub struct Looks {
    queues: Mutex<Queues>,
    indices: Arc<Mutex<Indices>>,
    connections: Result<Mutex<Connections>, Arc<LooksError>>,
    processes: Result<Mutex<ProcessList>, Arc<LooksError>>,
    reads_memory: bool,
}

impl std::fmt::Debug for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looks")
            .field("without_connections", &self.without_connections())
            .field("without_processes", &self.without_processes())
            .finish_non_exhaustive()
    }
}

impl Looks {
    /// Loads the programs, which takes about 50 ms.
    ///
    /// Callers do without on an error: sock_diag tells the same at a higher cost, with an estimate of half-open
    /// handshakes.
    pub fn open() -> Result<Self, LooksError> {
        let mut object = Object::load()?;
        Ok(Self {
            queues: Mutex::new(Queues::new(&mut object)?),
            indices: Arc::new(Mutex::new(Indices::new(WATCHED_MAX, 0))),
            connections: Connections::new(&mut object).map(Mutex::new).map_err(Arc::new),
            processes: ProcessList::new(&mut object).map(Mutex::new).map_err(Arc::new),
            reads_memory: object.reads_memory,
        })
    }

    /// Watches a TCP listener or a UDP socket. The caller may close the descriptor right after; looks include the
    /// socket until it is gone. Watching a socket again gives another handle of the same cell.
    ///
    /// Fails for MPTCP listeners, and for IPv4 UDP sockets under `lockdown=confidentiality`.
    pub fn watch(&self, listener: BorrowedFd<'_>) -> Result<Watched, LooksError> {
        let transport = watched::transport(listener, self.reads_memory)?;
        let mut queues = locked(&self.queues);
        let watched =
            |key, queues: &Queues| Watched::new(key, transport, queues.number(), Arc::clone(&self.indices));
        if let Some(key) = queues.key_of(listener)?
            && locked(&self.indices).share(key)
        {
            return Ok(watched(key, &queues));
        }
        let key = locked(&self.indices).take().ok_or(LooksError::Full { max: WATCHED_MAX })?;
        // Its drop frees the key if the next step fails.
        let handle = watched(key, &queues);
        queues.put(listener, key)?;
        Ok(handle)
    }

    /// Reads the queues of all watched listeners.
    pub fn read(&self) -> Result<Look, LooksError> {
        let mut look = Look::default();
        self.read_into(&mut look)?;
        Ok(look)
    }

    /// Like [`read`](Self::read), but reuses the memory of an earlier look. After an error the look is empty.
    pub fn read_into(&self, look: &mut Look) -> Result<(), LooksError> {
        *look = Look { number: 0, cells: std::mem::take(&mut look.cells) };
        look.cells.clear();
        let mut queues = locked(&self.queues);
        let reach = locked(&self.indices).reach();
        queues.look(reach, look)
    }

    /// The reason why [`connections`](Self::connections) does not work on this kernel; `None` if it does.
    pub fn without_connections(&self) -> Option<&LooksError> {
        self.connections.as_ref().err().map(Arc::as_ref)
    }

    /// The open connections of these processes at these local ports: each connection once, in no particular order. A
    /// process that has ended has none.
    ///
    /// Includes every local address and network namespace; callers narrow by [`OpenConnection::is_at`] and its
    /// `namespace`. The cost grows with the open descriptors of the processes, about 0.5 ms for 2,000: not for a loop
    /// that serves.
    pub fn connections(
        &self,
        pids: &[u32],
        ports: &BTreeSet<u16>,
    ) -> Result<Vec<OpenConnection>, LooksError> {
        match &self.connections {
            Ok(connections) => locked(connections).look(pids, ports),
            Err(reason) => Err(LooksError::NoConnections(Arc::clone(reason))),
        }
    }

    /// The reason why [`processes`](Self::processes) does not work here; `None` if it does.
    pub fn without_processes(&self) -> Option<&LooksError> {
        self.processes.as_ref().err().map(Arc::as_ref)
    }

    /// All processes of the host: those that live throughout the look are in it once. The cost grows with the host's
    /// threads, which the program visits in the kernel; `/proc` takes an open, a read and a close for each process.
    ///
    /// Needs the initial pid namespace.
    pub fn processes(&self) -> Result<Vec<ProcessRecord>, LooksError> {
        match &self.processes {
            Ok(processes) => locked(processes).look(),
            Err(reason) => Err(LooksError::NoProcesses(Arc::clone(reason))),
        }
    }
}

/// Locks, also after a panic of another thread: every look starts from scratch.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
