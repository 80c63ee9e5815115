//! What the bind hook and the daemon share: listen addresses as keys, and what the hook tells of a bind.

/// `AF_INET` of the kernel's ABI.
pub const INET: u8 = 2;
/// `AF_INET6` of the kernel's ABI.
pub const INET6: u8 = 10;

/// The most listen addresses of a group that the hook knows.
pub const ADDRESSES_MAX: u32 = 1024;

/// A listen address. One value has one representation: unused words are 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct BindAddress {
    /// The address in network byte order; of IPv4, the first word.
    pub address: [u32; 4],
    /// The port, in host byte order.
    pub port: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// [`INET`] or [`INET6`].
    pub family: u8,
}

const _: () = assert!(size_of::<BindAddress>() == 20);

impl BindAddress {
    /// Its port and protocol, whatever the address: the key by which the hook passes over all other binds.
    #[inline(always)]
    pub fn port_key(&self) -> u32 {
        u32::from(self.port) << 8 | u32::from(self.protocol)
    }
}

/// What the hook did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum BindVerdict {
    /// The socket has SO_REUSEPORT now: its bind joins the group.
    Joins = 1,
    /// It is a port of the group at another address: the hook leaves it alone.
    OtherAddress = 2,
    /// The kernel did not let the hook set SO_REUSEPORT.
    Refused = 3,
}

/// A bind to a port of the group by a process that the hook sees, before the kernel takes the port.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BindEvent {
    /// What it binds.
    pub address: BindAddress,
    /// The process, as numbered in the initial pid namespace.
    pub pid: u32,
    /// The number of the process's cgroup in the cgroup2 hierarchy: the inode number of its directory.
    pub cgroup: u64,
    /// A [`BindVerdict`].
    pub verdict: u32,
    /// To the alignment of `cgroup`: the ring buffer is given no byte that was not set.
    pub padding: u32,
}

const _: () = assert!(size_of::<BindEvent>() == 40);
const _: () = assert!(core::mem::offset_of!(BindEvent, cgroup) == 24);
