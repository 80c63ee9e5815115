//! The open connections of processes.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
};

use aya::programs::ProgramFd;
use server_common::looks::{HeldConnection, PORT_WORDS};

use super::{
    error::LooksError,
    iterator::{Link, Over, read_to_end},
    object::{Object, names, share},
};
use crate::{
    dataplane::shared_array::SharedArray,
    sockets::diag::{ConnectionState, takes},
};

/// The size of the kernel's own buffer: one read returns no more.
const BUFFER: usize = 32 * 1024;

/// An open connection of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenConnection {
    /// The inode of the socket, as in `/proc/PID/fd`; it identifies the connection.
    pub inode: u64,
    /// The local address, an IPv4 address never in its IPv6-mapped form.
    pub local: SocketAddr,
    /// The inode of the network namespace, as in `/proc/PID/ns/net`; 0 if the kernel has no network namespaces.
    pub namespace: u32,
    /// The state.
    pub state: ConnectionState,
}

impl OpenConnection {
    /// Whether a listener at this address takes connections to its local address.
    pub fn is_at(&self, listen: SocketAddr) -> bool {
        takes(listen, self.local)
    }
}

/// The map and the program of looks at connections.
pub(super) struct Connections {
    program: ProgramFd,
    ports: SharedArray<u64>,
    buffer: Vec<u8>,
}

impl Connections {
    /// Loads the program and tries to link it to one process, which needs Linux 6.1.
    pub(super) fn new(object: &mut Object) -> Result<Self, LooksError> {
        let program = object.connections()?;
        Link::create(program.as_fd(), Over::Process(std::process::id())).map_err(error("link"))?;
        let ports = share(&object.take(names::PORTS)?, names::PORTS, PORT_WORDS as usize)?;
        Ok(Self { program, ports, buffer: vec![0; BUFFER] })
    }

    /// Reads the connections of these processes, one process after another.
    pub(super) fn look(
        &mut self,
        pids: &[u32],
        ports: &BTreeSet<u16>,
    ) -> Result<Vec<OpenConnection>, LooksError> {
        let mut found = Vec::new();
        self.want(ports);
        let looked = pids.iter().try_for_each(|&pid| self.look_at(pid, &mut found));
        self.forget(ports);
        looked?;
        // Descriptors and processes can share a connection.
        found.sort_unstable_by_key(|connection: &OpenConnection| connection.inode);
        found.dedup_by_key(|connection| connection.inode);
        Ok(found)
    }

    fn look_at(&mut self, pid: u32, found: &mut Vec<OpenConnection>) -> Result<(), LooksError> {
        // The kernel takes 0 for all processes.
        if pid == 0 {
            return Ok(());
        }
        let link = Link::create(self.program.as_fd(), Over::Process(pid)).map_err(error("link"))?;
        let iteration = link.open().map_err(error("open"))?;
        read_to_end(&iteration, &mut self.buffer, |bytes| found.extend(records(bytes))).map_err(error("read"))
    }

    fn want(&self, ports: &BTreeSet<u16>) {
        for &port in ports {
            let (word, bit) = place(port);
            self.ports.write(word, self.ports.read(word).unwrap_or_default() | bit);
        }
    }

    fn forget(&self, ports: &BTreeSet<u16>) {
        ports.iter().for_each(|&port| self.ports.write(place(port).0, 0));
    }
}

/// The index of a port's word, and its bit.
fn place(port: u16) -> (usize, u64) {
    (usize::from(port) / u64::BITS as usize, 1 << (u32::from(port) % u64::BITS))
}

/// Decodes the output of one read, which holds whole records only.
fn records(bytes: &[u8]) -> impl Iterator<Item = OpenConnection> {
    let (records, _) = bytes.as_chunks::<{ size_of::<HeldConnection>() }>();
    records.iter().filter_map(|record| {
        // SAFETY: the bytes of one record; any bit pattern is valid.
        let held: HeldConnection =
            unsafe { std::ptr::from_ref(record).cast::<HeldConnection>().read_unaligned() };
        Some(OpenConnection {
            inode: held.inode,
            local: SocketAddr::new(Ipv6Addr::from(held.address).to_canonical(), held.port),
            namespace: held.namespace,
            state: ConnectionState::of(held.state)?,
        })
    })
}

fn error(operation: &'static str) -> impl Fn(io::Error) -> LooksError {
    move |source| LooksError::Iterator { operation, program: names::CONNECTIONS, source }
}
