//! What is left at a draining generation, as the kernel shows it.

use std::time::Duration;

use crate::{
    engine::event::{Millis, Observation},
    sockets::{diag::Diag, procfs},
};

use super::{endpoint::Endpoint, flows::key_of, running::Running};

/// How much older than it is a handshake may be taken for: the kernel's timers count in jiffies (10 ms at
/// most), rounded twice. Taking one too many for the generation's own is the safe side: it only waits for it.
const AGE_SLACK: Duration = Duration::from_millis(20);

/// Counts what is left. `first_instant` is when the last new flow can have reached the generation; without it every
/// handshake in its buckets counts.
pub(super) fn observe(
    diag: &mut Diag,
    endpoints: &mut [Endpoint],
    running: &Running,
    now: Millis,
    first_instant: Option<Millis>,
) -> anyhow::Result<Observation> {
    let mut found = Observation::default();
    let mut connections = Vec::new();
    for endpoint in endpoints.iter_mut() {
        if endpoint.is_udp() {
            found.by_id += endpoint.by_id(running.slot)?;
            found.flows += endpoint.flows().get(&running.slot).map_or(0, |count| count.flows);
            let sockets = diag.listeners(endpoint.address)?;
            let own = sockets.iter().filter(|socket| endpoint.has(running.slot, socket.cookie));
            found.unread += own.filter(|socket| socket.unaccepted > 0).count() as u64;
            continue;
        }
        // Own are the half-open handshakes in its buckets that began before its first instant: the kernel does not
        // say which listener a request belongs to, but the table that was published then does.
        let flows = diag.flows(endpoint.address)?;
        let own = flows.handshakes.iter().filter(|handshake| {
            let began_before = |instant: Millis| {
                handshake.age + AGE_SLACK >= Duration::from_millis(now.saturating_sub(instant))
            };
            first_instant.is_none_or(began_before)
                && running
                    .reach
                    .may_have(|keying| key_of(keying, handshake.remote, handshake.local), began_before)
        });
        found.handshakes += own.count() as u64;
        let listeners = diag.listeners(endpoint.address)?;
        let own = listeners.iter().filter(|listener| endpoint.has(running.slot, listener.cookie));
        found.unaccepted += own.map(|listener| u64::from(listener.unaccepted)).sum::<u64>();
        // In the order in which a connection goes, so that none is behind each look: what was unaccepted then may have
        // been accepted before the queue was asked for.
        connections.extend(match flows.some_unaccepted {
            true => diag.connections(endpoint.address)?,
            false => flows.connections,
        });
    }
    // After the walks: what was accepted in between is the worker's by now.
    if let Some(process) = running.process.as_ref().filter(|_| !connections.is_empty()) {
        let held = procfs::socket_inodes_of(&process.tree());
        let own = connections.iter().filter(|connection| held.contains(&u64::from(connection.inode)));
        found.connections = own.count() as u64;
    }
    Ok(found)
}
