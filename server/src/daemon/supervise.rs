//! Looks for what nobody tells: listeners that do not serve any more, connections in a hold that has ended, strangers.

use std::collections::HashSet;

use crate::{
    engine::event::{Event, GenerationId, Slot},
    sockets::{diag::ListenerInfo, procfs},
};

use super::{actor::Actor, describe::describe};

/// How many times in a row a listener must be seen with connections and without a process, before it is taken for
/// lost: a worker that hands its listener to its successor is without one for a moment.
const UNATTENDED_MAX: u32 = 2;

impl Actor {
    /// One look at the listeners of every address.
    pub(super) fn supervise(&mut self) {
        let mut listening = Vec::new();
        for endpoint in &self.endpoints {
            match self.diag.listeners(endpoint.address) {
                Ok(listeners) => listening.push(listeners),
                Err(error) => {
                    tracing::warn!("cannot see the listeners of {}: {}", endpoint.address, describe(&error));
                    return;
                }
            }
        }
        // Without it, workers would seem to have let go of their listeners.
        let sees_processes = procfs::require_room().is_ok();
        if sees_processes {
            self.count_strangers(&listening);
        }
        self.look_at_cpus();
        for (generation, slot) in self.engine.serving() {
            if let Some(why) = self.lost_listener(generation, slot, &listening, sees_processes) {
                self.feed(Event::ListenerLost { generation, why });
            }
        }
        let queue = |slot: Slot| {
            let own = self.endpoints.iter().zip(&listening).filter_map(|(endpoint, listeners)| {
                let cookie = endpoint.cookie(slot)?;
                listeners.iter().find(|listener| listener.cookie == cookie)
            });
            own.map(|listener| listener.unaccepted).sum::<u32>()
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
        listening: &[Vec<ListenerInfo>],
        sees_processes: bool,
    ) -> Option<String> {
        let running = self.generations.get_mut(&generation)?;
        let mut is_unattended = false;
        for (endpoint, listeners) in self.endpoints.iter().zip(listening) {
            let cookie = endpoint.cookie(slot)?;
            let Some(listener) = listeners.iter().find(|listener| listener.cookie == cookie) else {
                return Some(format!("its listener on {} was shut down", endpoint.address));
            };
            // The daemon's own descriptor keeps a listener open that the worker has closed, so the kernel goes on
            // queueing: only /proc tells that nobody will accept. It is read where connections wait.
            let process = running.process.as_ref()?;
            is_unattended |= sees_processes
                && listener.unaccepted > 0
                && !procfs::socket_inodes_of(&process.tree()).contains(&u64::from(listener.inode));
        }
        running.unattended = if is_unattended { running.unattended + 1 } else { 0 };
        (running.unattended >= UNATTENDED_MAX)
            .then(|| "connections wait in its listener, which none of its processes holds open".to_owned())
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
