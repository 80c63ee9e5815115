//! The listeners of this host, as a server is found by them.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use crate::{
    control::api::Fault,
    sockets::{
        address::{ListenAddress, Protocol},
        diag::{Diag, ListenerInfo},
    },
};

use super::find::failed;

/// All listeners of the network namespace, in both families and protocols.
pub(super) fn listeners() -> Result<Vec<(Protocol, ListenerInfo)>, Fault> {
    let ips: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let mut all = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for ip in ips {
            let like = ListenAddress { protocol, address: (ip, 0).into() };
            let found =
                Diag::open().and_then(|mut diag| diag.all_listeners(like)).map_err(|error| failed(&error))?;
            all.extend(found.all().filter(|it| it.local.port() != 0).map(|it| (protocol, it.clone())));
        }
    }
    Ok(all)
}

/// Whether one of these sockets is a listening unix socket.
pub(super) fn has_unix_listener(inodes: &HashSet<u64>) -> bool {
    /// `SO_ACCEPTCON` of `/proc/net/unix`'s flags.
    const LISTENS: u32 = 0x10000;
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    text.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(3);
        let flags = fields.next().and_then(|it| u32::from_str_radix(it, 16).ok()).unwrap_or(0);
        let inode = fields.nth(2).and_then(|it| it.parse().ok()).unwrap_or(0);
        flags & LISTENS != 0 && inodes.contains(&inode)
    })
}

/// Where somebody listens at the ports of these addresses, and not at these addresses: what may have been meant.
pub(super) fn beside(addresses: &[ListenAddress]) -> Result<Vec<ListenAddress>, Fault> {
    let all = listeners()?.into_iter();
    let all = all.map(|(protocol, it)| ListenAddress { protocol, address: it.local });
    let has_port = |it: &ListenAddress| {
        addresses
            .iter()
            .any(|other| other.protocol == it.protocol && other.address.port() == it.address.port())
    };
    let mut beside: Vec<ListenAddress> = all.filter(has_port).collect();
    beside.sort_unstable();
    beside.dedup();
    Ok(beside)
}

/// The ports that the kernel gives to sockets that ask for none.
pub(super) fn ephemeral_ports() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_whitespace().filter_map(|end| end.parse().ok());
    ends.next().unwrap_or(32_768)..=ends.next().unwrap_or(60_999)
}
