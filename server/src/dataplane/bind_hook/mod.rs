//! The bind hook: lets any program's `bind` join its group, and tells of it.
//!
//! Two programs are attached to a cgroup: that of a group's workers, or one above all programs of the host. They set SO_REUSEPORT on a
//! socket that is about to be bound to one of the group's addresses; every other bind goes on as it was. systemd's own hooks
//! (`SocketBindAllow=`) stay in force beside them.
//!
//! Needs Linux 5.13, CAP_BPF and CAP_NET_ADMIN.

mod link;
mod proof;
mod scope;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{HashMap, MapData, MapError, RingBuf},
    programs::{CgroupSockAddr, CgroupSockAddrAttachType as AttachType, ProgramError},
};
use server_common::bind::{ADDRESSES_MAX, BindAddress, BindEvent, BindVerdict, INET, INET6};
use thiserror::Error;

use self::link::CgroupLink;
pub use self::{proof::ProofError, scope::Scope};
use crate::sockets::address::{ListenAddress, Protocol};

/// The object as `cargo xtask build-ebpf` wrote it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../server-ebpf/object/bind.bpf.o");

/// The programs, each with where it is attached. A pin has the program's name.
const PROGRAMS: [(&str, AttachType); 2] = [("bind4", AttachType::Bind4), ("bind6", AttachType::Bind6)];

/// The cookie of the only network namespace whose binds count.
const NETNS: &str = "NETNS";
const PORTS: &str = "PORTS";
const ADDRESSES: &str = "ADDRESSES";
const EVENTS: &str = "EVENTS";

/// Why there is no hook.
#[derive(Debug, Error)]
pub enum BindHookError {
    /// The maps could not be made.
    #[error("cannot create the maps of the bind hook")]
    Load(#[source] EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused the program `{program}`")]
    Program {
        /// The program's name.
        program: &'static str,
        /// The verifier's or the kernel's reason.
        #[source]
        source: ProgramError,
    },
    /// The object lacks something that it was built with.
    #[error("the embedded object has no {kind} `{name}`")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map could not be filled or read.
    #[error("cannot use the map `{map}`")]
    Map {
        /// Its name.
        map: &'static str,
        /// The kernel's reason.
        #[source]
        source: MapError,
    },
    /// A program could not be attached to the cgroup, or pinned.
    #[error("cannot {operation} the program `{program}`")]
    Link {
        /// What was tried.
        operation: &'static str,
        /// The program's name.
        program: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// More listen addresses than the hook has room for.
    #[error("{found} addresses, where the bind hook has room for {ADDRESSES_MAX}")]
    Addresses {
        /// How many there are.
        found: usize,
    },
}

impl BindHookError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Program { source: ProgramError::LoadError { io_error, .. }, .. }
                if io_error.raw_os_error() == Some(libc::EPERM) =>
            {
                "the bind hook needs CAP_BPF and CAP_NET_ADMIN"
            }
            Self::Program { .. } => "the bind hook needs Linux 5.13 or later",
            Self::Link { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
                "another program is attached to this cgroup or above it that allows no further one: `bpftool cgroup tree` shows it"
            }
            Self::Addresses { .. } => "use several groups",
            _ => "report it, with the kernel's version",
        }
    }
}

/// The hook of one group. Dropping it detaches it, unless it was pinned.
#[derive(Debug)]
pub struct BindHook {
    links: Vec<CgroupLink>,
}

/// What the hook tells, for one reader.
pub struct BindEvents(RingBuf<MapData>);

impl std::fmt::Debug for BindEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BindEvents").finish()
    }
}

impl BindHook {
    /// Loads the programs for the binds of this scope and attaches them to a cgroup. With a directory of pins, in which those of an
    /// earlier daemon are replaced, they outlive this process; there is no moment without either.
    pub fn attach(
        scope: &Scope,
        cgroup: BorrowedFd<'_>,
        pins: Option<&Path>,
    ) -> Result<(Self, BindEvents), BindHookError> {
        let mut ebpf = load(scope)?;
        let mut links = Vec::new();
        for (name, attach_type) in PROGRAMS {
            let program = program(&mut ebpf, name)?;
            program.load().map_err(|source| BindHookError::Program { program: name, source })?;
            let descriptor =
                program.fd().map_err(|source| BindHookError::Program { program: name, source })?;
            let failed = |operation| move |source| BindHookError::Link { operation, program: name, source };
            let link =
                CgroupLink::create(descriptor.as_fd(), cgroup, attach_type).map_err(failed("attach"))?;
            if let Some(pins) = pins {
                link.pin(&pins.join(name)).map_err(failed("pin"))?;
            }
            links.push(link);
        }
        let events = ebpf.take_map(EVENTS).ok_or(BindHookError::Missing { kind: "map", name: EVENTS })?;
        let events =
            RingBuf::try_from(events).map_err(|source| BindHookError::Map { map: EVENTS, source })?;
        Ok((Self { links }, BindEvents(events)))
    }

    /// Detaches both programs, pinned or not. Pins are left, of links to nothing.
    pub fn detach(self) -> io::Result<()> {
        // Each, whatever comes of the other.
        self.links.iter().map(CgroupLink::detach).fold(Ok(()), io::Result::and)
    }

    /// Whether both programs are attached still: somebody else can detach them, or remove the cgroup.
    pub fn is_attached(&self) -> bool {
        self.links.iter().all(|link| link.cgroup().is_ok_and(|cgroup| cgroup != 0))
    }
}

impl Iterator for BindEvents {
    type Item = Bind;

    /// The next bind to a port of the group by a process in the cgroup, where there was one since. More may follow after `None`.
    fn next(&mut self) -> Option<Bind> {
        loop {
            let item = self.0.next()?;
            if let Some(bind) = Bind::decode(&item) {
                return Some(bind);
            }
        }
    }
}

/// Readable when there are events.
impl AsRawFd for BindEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A bind to a port of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bind {
    /// The address.
    pub address: ListenAddress,
    /// The process, as numbered in the initial pid namespace.
    pub pid: u32,
    /// The number of its cgroup: the inode number of the directory, and what a dump of listeners says of theirs.
    pub cgroup: u64,
    /// What the hook did.
    pub verdict: BindVerdict,
}

impl Bind {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<{ size_of::<BindEvent>() }>()?;
        // SAFETY: the bytes of one event, in which any bit pattern is valid.
        let event = unsafe { bytes.as_ptr().cast::<BindEvent>().read_unaligned() };
        let verdict = match event.verdict {
            verdict if verdict == BindVerdict::Joins as u32 => BindVerdict::Joins,
            verdict if verdict == BindVerdict::OtherAddress as u32 => BindVerdict::OtherAddress,
            verdict if verdict == BindVerdict::Refused as u32 => BindVerdict::Refused,
            _ => return None,
        };
        Some(Self { address: address_of(event.address)?, pid: event.pid, cgroup: event.cgroup, verdict })
    }
}

fn load(Scope { addresses, netns }: &Scope) -> Result<Ebpf, BindHookError> {
    let netns = netns.map_or(0, |cookie| cookie.get());
    let found = addresses.len();
    let size = u32::try_from(found).ok().filter(|size| *size <= ADDRESSES_MAX);
    let size = size.ok_or(BindHookError::Addresses { found })?.max(1);
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .map_max_entries(PORTS, size)
        .map_max_entries(ADDRESSES, size)
        .override_global(NETNS, &netns, true)
        .load(OBJECT)
        .map_err(BindHookError::Load)?;
    let keys: Vec<Key> = addresses.iter().map(|address| Key(key_of(*address))).collect();
    fill(&mut ebpf, PORTS, keys.iter().map(|key| key.0.port_key()))?;
    fill(&mut ebpf, ADDRESSES, keys.into_iter())?;
    Ok(ebpf)
}

/// Puts keys into a map, each with a value that nobody reads.
fn fill<K: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
    keys: impl Iterator<Item = K>,
) -> Result<(), BindHookError> {
    let error = |source| BindHookError::Map { map: name, source };
    let map = ebpf.map_mut(name).ok_or(BindHookError::Missing { kind: "map", name })?;
    let mut map: HashMap<_, K, u32> = HashMap::try_from(map).map_err(error)?;
    for key in keys {
        map.insert(key, 1, 0).map_err(error)?;
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut CgroupSockAddr, BindHookError> {
    let found = ebpf.program_mut(name).ok_or(BindHookError::Missing { kind: "program", name })?;
    found.try_into().map_err(|source| BindHookError::Program { program: name, source })
}

/// [`BindAddress`], for aya.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(BindAddress);

// SAFETY: integers without padding.
unsafe impl aya::Pod for Key {}

fn key_of(ListenAddress { protocol, address }: ListenAddress) -> BindAddress {
    let words = |octets: &[u8]| {
        let mut words = [0; 4];
        for (word, octets) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*octets);
        }
        words
    };
    let (family, words) = match address.ip() {
        IpAddr::V4(address) => (INET, words(&address.octets())),
        IpAddr::V6(address) => (INET6, words(&address.octets())),
    };
    let protocol = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
    };
    BindAddress { address: words, port: address.port(), protocol: protocol as u8, family }
}

fn address_of(BindAddress { address, port, protocol, family }: BindAddress) -> Option<ListenAddress> {
    let protocol = match i32::from(protocol) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    let mut octets = [0; 16];
    for (octets, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(address) {
        *octets = word.to_ne_bytes();
    }
    let ip: IpAddr = match family {
        INET => IpAddr::from(*octets.first_chunk::<4>()?),
        INET6 => octets.into(),
        _ => return None,
    };
    Some(ListenAddress { protocol, address: SocketAddr::new(ip, port) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_key_and_back() {
        for text in ["tcp://127.0.0.1:80", "udp://[2001:db8::1]:443", "tcp://[::]:65535", "udp://0.0.0.0:1"] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address_of(key_of(address)), Some(address));
        }
        let key = key_of("tcp://127.0.0.1:80".parse().unwrap());
        assert_eq!(key.address, [u32::from_ne_bytes([127, 0, 0, 1]), 0, 0, 0], "as the kernel has it");
        assert_eq!(key.port_key(), 80 << 8 | 6);
    }

    #[test]
    fn what_is_no_event_is_none() {
        let address = key_of("tcp://[::1]:80".parse().unwrap());
        let event = BindEvent { address, pid: 7, cgroup: 1 << 40, verdict: 1, padding: 0 };
        // SAFETY: integers without padding.
        let bytes: [u8; size_of::<BindEvent>()] = unsafe { std::mem::transmute(event) };
        let address = "tcp://[::1]:80".parse().unwrap();
        let bind = Bind { address, pid: 7, cgroup: 1 << 40, verdict: BindVerdict::Joins };
        assert_eq!(Bind::decode(&bytes), Some(bind));
        assert_eq!(Bind::decode(&bytes[1..]), None, "too short");
        let mut other = bytes;
        other[32] = 9;
        assert_eq!(Bind::decode(&other), None, "a verdict of another release");
    }
}
