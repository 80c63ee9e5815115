//! Looks for what nobody tells: listeners that do not serve any more, connections in a hold that has ended, strangers.

use std::collections::{BTreeMap, HashSet};

use crate::{
    engine::event::{Event, GenerationId, Slot},
    sockets::{
        diag::ListenerInfo,
        options::{self, Listening},
        procfs,
    },
};

use super::{actor::Actor, describe::describe};

/// How many times in a row a listener must be seen with connections and without a process, before it is taken for
/// lost: a worker that hands its listener to its successor is without one for a moment.
const UNATTENDED_MAX: u32 = 2;

impl Actor {
    /// One look at every listener that the daemon has a descriptor of: they are asked one by one, which takes no walk of the
    /// kernel's listeners.
    pub(super) fn supervise(&mut self) {
        let mut seen = Vec::new();
        for endpoint in &self.endpoints {
            match endpoint.listening() {
                Ok(listening) => seen.push(listening),
                Err(error) => {
                    tracing::warn!("cannot see the listeners of {}: {}", endpoint.address, describe(&error));
                    return;
                }
            }
        }
        // Without it, workers would seem to have let go of their listeners.
        let sees_processes = procfs::require_room().is_ok();
        self.look_at_cpus();
        for (generation, slot) in self.engine.serving() {
            if let Some(why) = self.lost_listener(generation, slot, &seen, sees_processes) {
                self.feed(Event::ListenerLost { generation, why });
            }
        }
        let queue = |slot: Slot| {
            let own = seen.iter().filter_map(|listening| listening.get(&slot));
            own.map(|listening| listening.unaccepted).sum::<u32>()
        };
        let is_occupied =
            !self.engine.is_holding() && self.engine.hold_slot().is_some_and(|slot| queue(slot) > 0);
        if is_occupied {
            self.feed(Event::HoldOccupied);
        }
    }

    fn lost_listener(
        &mut self,
        generation: GenerationId,
        slot: Slot,
        seen: &[BTreeMap<Slot, Listening>],
        sees_processes: bool,
    ) -> Option<String> {
        let running = self.generations.get_mut(&generation)?;
        let mut is_unattended = false;
        for (endpoint, listening) in self.endpoints.iter().zip(seen) {
            let listening = listening.get(&slot)?;
            if !listening.listens {
                return Some(format!("its listener on {} was shut down", endpoint.address));
            }
            // The daemon's own descriptor keeps a listener open that the worker has closed, so the kernel goes on
            // queueing: only /proc tells that nobody will accept. It is read where connections wait.
            let process = running.process.as_ref()?;
            is_unattended |= sees_processes && listening.unaccepted > 0 && {
                let inode = options::inode(endpoint.listener(slot)?).ok()?;
                !procfs::socket_inodes_of(&process.tree()).contains(&inode)
            };
        }
        running.unattended = if is_unattended { running.unattended + 1 } else { 0 };
        (running.unattended >= UNATTENDED_MAX)
            .then(|| "connections wait in its listener, which none of its processes holds open".to_owned())
    }

    /// One look at who else listens at the group's addresses. They get nothing, so nothing hangs on when it is seen.
    pub(super) fn look_for_strangers(&mut self) {
        let mut listening = Vec::new();
        for endpoint in &self.endpoints {
            match self.diag.listeners(endpoint.address) {
                Ok(listeners) => listening.push(listeners),
                Err(error) => {
                    tracing::warn!("cannot see who listens at {}: {}", endpoint.address, describe(&error));
                    return;
                }
            }
        }
        self.count_strangers(&listening);
    }

    fn count_strangers(&mut self, listening: &[Vec<ListenerInfo>]) {
        let mut strangers = 0;
        for (endpoint, listeners) in self.endpoints.iter().zip(listening) {
            let own: HashSet<u64> = endpoint.cookies();
            let others = listeners.iter().filter(|listener| !own.contains(&listener.cookie));
            strangers += others.filter(|other| !self.is_a_workers(u64::from(other.inode))).count() as u64;
        }
        if strangers > self.strangers {
            let detail = format!("{strangers} sockets of others have joined the group; they get nothing");
            self.totals.strangers += strangers - self.strangers;
            self.journal.add("stranger", &self.settings.name, None, None, detail);
        }
        self.strangers = strangers;
    }

    /// Whether a listener that is in no slot is one of a worker's own: one that is starting, or more than it needs.
    fn is_a_workers(&self, inode: u64) -> bool {
        self.generations
            .values()
            .filter_map(|running| running.process.as_ref())
            .any(|process| procfs::socket_inodes_of(&process.tree()).contains(&inode))
    }
}
