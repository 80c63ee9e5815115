//! What a worker that serves does with its listeners by itself: it binds more, closes some, or all to bind others, as servers do that reload.

use std::collections::{BTreeMap, HashSet};

use crate::{
    daemon::describe::describe,
    engine::event::{Event, GenerationId, Millis, Slot},
    sockets::{address::ListenAddress, procfs},
    workers::process::Process,
};

use super::{
    host::GroupHost,
    members::Seen,
    message::{Found, Message},
    task::GroupTask,
};

/// For how long a listener must be seen with connections and without a process, in milliseconds, before it is taken for lost: a
/// worker that hands its listener to its successor is without one for a moment. Less than between two looks.
const UNATTENDED_MAX: Millis = 200;

/// For how long a worker may be without a listener at an address, in milliseconds, before that is taken for lost: apache closes its
/// listeners up to 26 ms before it binds others. What comes meanwhile goes to other workers, or is held.
const CLOSED_MAX: Millis = 500;

impl GroupTask {
    /// These listeners of a generation, by inode, are held by none of its processes any more.
    pub(super) fn unattended(&mut self, id: GenerationId, inodes: &HashSet<u64>) {
        let host = self.runtime.host_mut();
        let now = host.shared.clock.now();
        let Some(since) = host.processes.unattended(id, !inodes.is_empty(), now) else { return };
        let Some(slot) = host.processes.slot(id) else { return };
        let is_serving = self.runtime.engine().serving().iter().any(|(serving, _)| *serving == id);
        if !is_serving || now.saturating_sub(since) < UNATTENDED_MAX {
            return;
        }
        let host = self.runtime.host_mut();
        if host.members.are_all_at_one(slot, inodes) {
            let why = "connections wait in its listener, which none of its processes holds open".to_owned();
            return self.take_in(Event::ListenerLost { generation: id, why });
        }
        let gone = host.members.leave_unattended(slot, inodes);
        host.sockets_changed(id, slot, BTreeMap::new(), gone);
    }
}

impl GroupHost {
    /// The generation that a process belongs to, by the process, its parents and their sessions.
    pub(super) fn whose(&self, lineage: &[u32]) -> Option<GenerationId> {
        let mut all = self.processes.all();
        all.find(|(_, process)| lineage.contains(&process.pid())).map(|(id, _)| id)
    }

    /// Whether a generation may have more sockets, up to `most` at each address.
    pub(super) fn has_room(&self, id: GenerationId, most: usize) -> bool {
        let Some(slot) = self.processes.slot(id) else { return false };
        !self.members.wanting(slot, most, self.processes.owner(), false).is_empty()
    }

    /// Takes in what a generation that serves has bound meanwhile.
    pub(super) fn found_more(&mut self, id: GenerationId, slot: Slot, found: Vec<Found>) {
        let listen: Vec<ListenAddress> = self.members.addresses().collect();
        let mut came = BTreeMap::<ListenAddress, usize>::new();
        for Found { address, result } in found {
            let taken = result.map_err(|refusal| describe(&refusal)).and_then(|discovered| {
                let taken = self.members.take_in(address, slot, id, discovered);
                taken.map_err(|error| describe(&error))
            });
            match taken {
                Ok(is_news) => *came.entry(listen[address]).or_default() += usize::from(is_news),
                // It may be about to close it, or to change it.
                Err(why) => tracing::debug!("a listener of {id:?} is not taken in: {why}"),
            }
        }
        if came.is_empty() {
            return;
        }
        self.members.let_go(slot, self.processes.process(id));
        self.keep_anchors();
        // Others that it has closed need not wait for the next look.
        let gone = self.members.leave_stopped(slot);
        self.sockets_changed(id, slot, came, gone);
    }

    /// Looks after what a generation that serves has closed. Why it is lost, where it has no listener left at an address.
    pub(super) fn lost_listener(
        &mut self,
        id: GenerationId,
        slot: Slot,
        seen: &[(ListenAddress, Seen)],
    ) -> Option<String> {
        let process = self.processes.process(id)?.clone();
        // Of a process that has ended, its end is told.
        if seen.iter().any(|(_, seen)| seen.stopped > 0) && !process.has_ended() {
            let gone = self.members.leave_stopped(slot);
            self.sockets_changed(id, slot, BTreeMap::new(), gone);
            if let Some((address, _)) = seen.iter().find(|(_, seen)| seen.listening == 0) {
                return self.closed_all(id, slot, *address);
            }
        }
        self.processes.closed(id, false, 0);
        // A duplicate keeps a listener open that its worker has closed, so the kernel goes on queueing: only `/proc` tells that nobody
        // will accept. It is read where connections wait.
        let may_be_unattended = seen.iter().any(|(_, seen)| seen.unaccepted > 0);
        if may_be_unattended && self.members.keeps(slot) {
            self.look_for_holders(id, slot, process);
        } else if !may_be_unattended {
            self.processes.unattended(id, false, 0);
        }
        None
    }

    /// A generation has no listener left at an address: why it is lost, unless it may still bind others.
    fn closed_all(&mut self, id: GenerationId, slot: Slot, address: ListenAddress) -> Option<String> {
        // What the daemon keeps open does not close: somebody has shut it down.
        if self.members.keeps_at(address, slot) {
            return Some(format!("its listener on {address} was shut down"));
        }
        let now = self.shared.clock.now();
        let since = self.processes.closed(id, true, now)?;
        if self.processes.seek(id) && now.saturating_sub(since) < CLOSED_MAX {
            self.stay_lively();
            return None;
        }
        Some(format!(
            "its listener on {address} does not listen any more: it was shut down, or none of its processes holds open what it had"
        ))
    }

    /// Looks, on a thread, which of a generation's listeners none of its processes holds. The task is told.
    fn look_for_holders(&mut self, id: GenerationId, slot: Slot, process: Process) {
        let inodes = self.members.all_inodes(slot);
        let failed = move |_| Message::Unattended { generation: id, inodes: HashSet::new() };
        let job = move || {
            let held_by_none_of = |pids: &[u32]| -> HashSet<u64> {
                let held = procfs::socket_inodes_of(pids);
                inodes.iter().copied().filter(|inode| !held.contains(inode)).collect()
            };
            // Most have one process, which spares the look at all others.
            let mut inodes = held_by_none_of(&[process.pid()]);
            if !inodes.is_empty() {
                inodes = held_by_none_of(&process.tree());
            }
            // Without room for a look, everybody would seem to have let go.
            if procfs::require_room().is_err() {
                inodes.clear();
            }
            Message::Unattended { generation: id, inodes }
        };
        let at_once = self.shared.inbox.hand_in(&self.shared.threads.processes, failed, job);
        self.later.extend(at_once);
    }

    /// Says what has come and gone of a generation's sockets; what the closed ones held, the kernel has migrated.
    fn sockets_changed(
        &mut self,
        id: GenerationId,
        slot: Slot,
        came: BTreeMap<ListenAddress, usize>,
        gone: Vec<(ListenAddress, usize)>,
    ) {
        if came.is_empty() && gone.is_empty() {
            return;
        }
        let migrated: u64 = self.moved().values().sum();
        let gone: BTreeMap<ListenAddress, usize> = gone.into_iter().collect();
        let said = |(address, now): (ListenAddress, usize)| {
            let [came, gone] = [&came, &gone].map(|counts| counts.get(&address).copied().unwrap_or(0));
            (came + gone > 0)
                .then(|| format!("at {address} it has bound {came} and closed {gone}, and has {now}"))
        };
        let said: Vec<String> = self.members.sockets(slot).into_iter().filter_map(said).collect();
        let mut detail = format!("its sockets have changed: {}", said.join("; "));
        if migrated > 0 {
            detail += &format!(" (connections migrated: {migrated})");
        }
        self.journal("sockets", Some(id), detail);
        self.stay_lively();
        self.later.push_back(Message::Changed);
    }
}
