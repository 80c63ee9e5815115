//! A fresh network namespace: ports, addresses and kernel settings that nobody else has, gone with the last
//! process in it. For the demo, the privileged tests and what `check` tries out.
//!
//! Everything here acts on the *calling thread*: threads and processes that it starts afterwards are in the
//! same namespace, threads that exist already are not. Needs CAP_SYS_ADMIN to enter, CAP_NET_ADMIN inside.

use std::{
    io,
    net::Ipv6Addr,
    num::NonZeroU64,
    os::fd::{AsFd, AsRawFd as _},
    path::PathBuf,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use thiserror::Error;

/// `lo` is the first device of every network namespace, and a fresh one has no other.
const LOOPBACK_INDEX: u32 = 1;

/// Why a network namespace could not be entered or set up.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// `unshare(CLONE_NEWNET)` failed.
    #[error("cannot enter a network namespace of its own (needs CAP_SYS_ADMIN)")]
    Enter(#[source] io::Error),
    /// A request to the kernel over rtnetlink failed.
    #[error("cannot {operation} in the network namespace (needs CAP_NET_ADMIN)")]
    Netlink {
        /// What was asked for.
        operation: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel setting could not be written.
    #[error("cannot set {name} = {value:?}")]
    Sysctl {
        /// The setting, as `net.ipv4.tcp_migrate_req`.
        name: String,
        /// The value wanted.
        value: String,
        /// The error of the write.
        source: io::Error,
    },
}

impl NetnsError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Enter(error) if error.raw_os_error() == Some(libc::EPERM) => {
                "run it as root, or give it CAP_SYS_ADMIN and CAP_NET_ADMIN"
            }
            Self::Enter(_) => "the kernel needs CONFIG_NET_NS, and user.max_net_namespaces above 0",
            Self::Netlink { .. } => "run it as root, or give it CAP_NET_ADMIN",
            Self::Sysctl { .. } => "the kernel may be older than the setting, or /proc/sys is read-only here",
        }
    }
}

/// The kernel's number of a network namespace, never given to another until the next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cookie(NonZeroU64);

impl Cookie {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// ENOPROTOOPT before Linux 5.14.
    pub fn here() -> io::Result<Self> {
        Self::of_socket(socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?)
    }

    /// Of the network namespace that a socket was made in.
    ///
    /// # Errors
    /// As [`here`](Self::here).
    pub fn of_socket(socket: impl AsFd) -> io::Result<Self> {
        let mut cookie = 0_u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to the cookie.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        NonZeroU64::new(cookie).map(Self).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// Moves the calling thread into a fresh network namespace and brings its `lo` up.
///
/// The namespace lives as long as a thread, process or open socket in it. There is no way back: call it while
/// the process is single-threaded if all of it shall move.
///
/// # Errors
/// Without CAP_SYS_ADMIN, or where the kernel's limit of namespaces is reached.
pub fn enter_fresh() -> Result<(), NetnsError> {
    // SAFETY: the call is unsafe only for UnshareFlags::FILES, which parts threads' descriptors; NEWNET does not.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|error| NetnsError::Enter(error.into()))?;
    if has_ipv6() {
        // The first namespace's settings may be inherited (net.core.devconf_inherit_init_net), and without an
        // address on `lo` no AnyIP route works.
        set_sysctl("net.ipv6.conf.lo.disable_ipv6", "0")?;
    }
    let request = Message::new(libc::RTM_NEWLINK, 0).link_up(LOOPBACK_INDEX);
    request.exchange("bring lo up")
}

/// Whether the kernel of this namespace has IPv6 at all (it has not after `ipv6.disable=1`).
pub fn has_ipv6() -> bool {
    sysctl_path("net.ipv6.conf.lo.disable_ipv6").exists()
}

/// Makes every address of an IPv6 prefix local (AnyIP), as 127.0.0.0/8 is for IPv4. Servers and clients bind to
/// such an address with IPV6_FREEBIND. Doing it twice is harmless.
///
/// # Errors
/// Without CAP_NET_ADMIN or IPv6.
pub fn add_local_prefix(prefix: Ipv6Addr, length: u8) -> Result<(), NetnsError> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let request = Message::new(libc::RTM_NEWROUTE, flags as u16).local_route(prefix, length);
    request.exchange(&format!("make {prefix}/{length} local"))
}

/// Writes one `net.*` setting of the calling thread's network namespace.
///
/// # Errors
/// If the kernel has no such setting, refuses the value, or `/proc/sys` is read-only.
pub fn set_sysctl(name: &str, value: &str) -> Result<(), NetnsError> {
    std::fs::write(sysctl_path(name), value).map_err(|source| NetnsError::Sysctl {
        name: name.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Leaves nearly all ports to clients whose port the kernel chooses.
///
/// # Errors
/// If the setting cannot be written.
pub fn widen_port_range() -> Result<(), NetnsError> {
    set_sysctl("net.ipv4.ip_local_port_range", "1024 65535")
}

fn sysctl_path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name.replace('.', "/"))
}

/// One rtnetlink request with an acknowledgement. The two that are needed are a few words each, so they are
/// written by hand.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A header; its length is filled in when the message is sent.
    fn new(kind: u16, flags: u16) -> Self {
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        Self { bytes }
    }

    /// `struct ifinfomsg`: set IFF_UP of this device and leave its other flags.
    fn link_up(mut self, index: u32) -> Self {
        let up = libc::IFF_UP as u32;
        self.bytes.extend([libc::AF_UNSPEC as u8, 0, 0, 0]);
        for word in [index, up, up] {
            self.bytes.extend(word.to_ne_bytes());
        }
        self
    }

    /// `struct rtmsg` and its attributes: `ip -6 route add local PREFIX/LENGTH dev lo`.
    fn local_route(mut self, prefix: Ipv6Addr, length: u8) -> Self {
        let (table, scope) = (libc::RT_TABLE_LOCAL, libc::RT_SCOPE_UNIVERSE);
        let family = libc::AF_INET6 as u8;
        self.bytes.extend([family, length, 0, 0, table, libc::RTPROT_STATIC, scope, libc::RTN_LOCAL]);
        self.bytes.extend(0u32.to_ne_bytes());
        self.attribute(libc::RTA_DST, &prefix.octets());
        self.attribute(libc::RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
        self
    }

    /// `struct rtattr` and its value, whose length here is always a multiple of the alignment of 4.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend((4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
    }

    fn exchange(mut self, operation: &str) -> Result<(), NetnsError> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        send_and_wait(&self.bytes)
            .map_err(|source| NetnsError::Netlink { operation: operation.to_owned(), source })
    }
}

fn send_and_wait(request: &[u8]) -> io::Result<()> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.send_to(request, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match acknowledged(&answer) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is no acknowledgement")),
    }
}

/// The errno of an NLMSG_ERROR message, 0 for success: `struct nlmsghdr`, then the negative errno.
fn acknowledged(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then_some(-error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_request_has_the_kernels_layout() {
        let prefix: Ipv6Addr = "fd00:5ee1::".parse().unwrap();
        let bytes = Message::new(libc::RTM_NEWROUTE, 0).local_route(prefix, 64).bytes;
        assert_eq!(bytes.len(), 16 + 12 + (4 + 16) + (4 + 4));
        assert_eq!(bytes[16..20], [10, 64, 0, 0]);
        assert_eq!(bytes[20..24], [255, 4, 0, 2]);
        assert_eq!(bytes[32..36], [0xfd, 0x00, 0x5e, 0xe1]);
    }

    #[test]
    fn an_acknowledgement_is_read() {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&2u16.to_ne_bytes());
        assert_eq!(acknowledged(&answer), Some(0));
        answer[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(acknowledged(&answer), Some(libc::EPERM));
        answer[4..6].copy_from_slice(&3u16.to_ne_bytes());
        assert_eq!(acknowledged(&answer), None);
        assert_eq!(acknowledged(&answer[..10]), None);
    }

    #[test]
    fn a_setting_that_is_not_there_is_named() {
        let error = set_sysctl("net.ipv4.no_such_setting", "1").unwrap_err();
        assert_eq!(error.to_string(), "cannot set net.ipv4.no_such_setting = \"1\"");
        assert!(error.hint().contains("older"));
    }
}
