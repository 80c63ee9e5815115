//! Exact looks: what the kernel itself counts at each of the daemon's listeners, and the connections that a process holds.
//!
//! A watched listener has an entry in a socket storage map, and an iterator of the kernel visits the sockets in that map and no others. So
//! a look costs what is watched, some microseconds, whatever else the host has; sock_diag walks the host's table of
//! connections, and cannot say whose a half-open handshake is. Sockets of other network namespaces are seen as well.
//!
//! Linux 5.10 or later with BTF (CONFIG_DEBUG_INFO_BTF); CAP_BPF and CAP_PERFMON when it is opened, CAP_BPF after that. The connections
//! of a process from Linux 6.1 on. Nothing is pinned: everything ends with the value.
//!
//! The memory: 2 MiB of the kernel's for the cells of 65,536 listeners, of which as many pages are mapped here as were ever needed at a
//! time (32 bytes for each listener, 32 KiB at first); some 100 bytes with each socket; 64 KiB for the rest. The kernel's types, 5 MB, are
//! read to be opened and are not kept.

mod attach;
pub mod btf;
mod connections;
pub mod error;
mod indices;
mod iterator;
mod look;
mod object;
mod offsets;
mod queues;
mod watched;

use std::{
    collections::BTreeSet,
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use server_common::looks::WATCHED_MAX;

use self::{connections::Connections, indices::Indices, object::Object, queues::Queues};
pub use self::{
    connections::OpenConnection,
    error::LooksError,
    look::{Look, Queue},
    watched::Watched,
};

/// The looks of a daemon: one for all its groups, which share it among threads. A call waits for other threads' calls of its kind.
pub struct Looks {
    queues: Mutex<Queues>,
    indices: Arc<Mutex<Indices>>,
    connections: Result<Mutex<Connections>, Arc<LooksError>>,
    reads_memory: bool,
}

impl Looks {
    /// Loads the programs. Takes some 50 ms, most of it for the kernel's types.
    ///
    /// An error is no reason not to serve: sock_diag finds the same, at a higher cost and with handshakes that are an estimate.
    pub fn open() -> Result<Self, LooksError> {
        let mut object = Object::load()?;
        Ok(Self {
            queues: Mutex::new(Queues::new(&mut object)?),
            indices: Arc::new(Mutex::new(Indices::new(WATCHED_MAX, 0))),
            connections: Connections::new(&mut object).map(Mutex::new).map_err(Arc::new),
            reads_memory: object.reads_memory,
        })
    }

    /// Watches a TCP listener or a UDP socket, in any state. The descriptor may be closed right after; the socket is looked at until
    /// it is gone. A socket that is watched already gets one more handle.
    ///
    /// Fails for an MPTCP listener, and for a UDP socket of IPv4 where the kernel is locked down.
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
        // Gives the key back if the next step fails.
        let handle = watched(key, &queues);
        queues.put(listener, key)?;
        Ok(handle)
    }

    /// Looks at all watched listeners.
    pub fn read(&self) -> Result<Look, LooksError> {
        let mut look = Look::default();
        self.read_into(&mut look)?;
        Ok(look)
    }

    /// [`read`](Self::read), in the memory of an earlier look: for who looks often. After an error it holds nothing.
    pub fn read_into(&self, look: &mut Look) -> Result<(), LooksError> {
        *look = Look { number: 0, cells: std::mem::take(&mut look.cells) };
        look.cells.clear();
        let mut queues = locked(&self.queues);
        let reach = locked(&self.indices).reach();
        queues.look(reach, look)
    }

    /// Why the connections of a process cannot be had, if they cannot.
    pub fn without_connections(&self) -> Option<&LooksError> {
        self.connections.as_ref().err().map(Arc::as_ref)
    }

    /// The open connections at these local ports that these processes hold, each once, in no order. Other addresses of a port
    /// and other network namespaces are among them: [`OpenConnection`] says which. Processes that are gone hold none.
    ///
    /// It takes what the processes have open, some 0.5 ms for 2,000 descriptors: not for a loop that serves.
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
}

/// A panic of another thread leaves nothing here half-done that a look would not do anew.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
