//! Counts the open connections that processes hold at some addresses.

use std::collections::HashSet;

use crate::{
    dataplane::looks::{Looks, OpenConnection},
    sockets::{address::ListenAddress, diag::Diag, procfs},
};

/// The inodes of the connections that any of the processes holds at these addresses. By the kernel's iterator where there is one: it
/// costs what the processes have open; else by sock_diag and `/proc`, which walk the host's connections too.
pub(crate) fn open_connections(
    looks: Option<&Looks>,
    pids: &[u32],
    addresses: &[ListenAddress],
) -> anyhow::Result<HashSet<u64>> {
    if pids.is_empty() || addresses.is_empty() {
        return Ok(HashSet::new());
    }
    if let Some(looks) = looks.filter(|looks| looks.without_connections().is_none()) {
        let ports = addresses.iter().map(|address| address.address.port()).collect();
        let open = looks.connections(pids, &ports)?;
        let is_at = |open: &OpenConnection| addresses.iter().any(|address| open.is_at(address.address));
        return Ok(open.into_iter().filter(is_at).map(|open| open.inode).collect());
    }
    procfs::require_room()?;
    let mut diag = Diag::open()?;
    let mut found = HashSet::new();
    let held = procfs::socket_inodes_of(pids);
    for &address in addresses {
        let connections =
            diag.connections(address)?.into_iter().map(|connection| u64::from(connection.inode));
        found.extend(connections.filter(|inode| held.contains(inode)));
    }
    Ok(found)
}
