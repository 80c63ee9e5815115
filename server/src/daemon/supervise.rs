//! Looks for what nobody tells: listeners that do not serve any more, connections in a hold that has ended, strangers.

use crate::{
    engine::event::{Event, GenerationId, Millis, Slot},
    sockets::{
        diag::{DiagError, ListenerInfo},
        options::{self, Listening},
        procfs::{self, Processes},
    },
    workers::process::Process,
};

use super::{actor::Actor, describe::describe, endpoint::Endpoint, running::Running, settings::Mode};

/// For how long a listener must be seen with connections and without a process, in milliseconds, before it is taken for lost: a
/// worker that hands its listener to its successor is without one for a moment. Less than between two looks.
const UNATTENDED_MAX: Millis = 200;

/// What each slot's listener of one address says of itself.
type Seen = Vec<(Slot, Listening)>;

impl Actor {
    /// One look at every listener that the daemon has a descriptor of: each is asked itself, which takes no walk of the kernel's.
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
        if seen.iter().flatten().any(|(_, listening)| listening.unaccepted > 0) {
            self.stay_lively();
        }
        self.look_at_cpus();
        for (generation, slot) in self.engine.serving() {
            if let Some(why) = self.lost_listener(generation, slot, &seen) {
                self.feed(Event::ListenerLost { generation, why });
            }
        }
        let waits = |slot| seen.iter().any(|seen| of(seen, slot).is_some_and(|own| own.unaccepted > 0));
        if !self.engine.is_holding() && self.engine.hold_slot().is_some_and(waits) {
            self.feed(Event::HoldOccupied);
        }
    }

    fn lost_listener(&mut self, generation: GenerationId, slot: Slot, seen: &[Seen]) -> Option<String> {
        let running = self.generations.get_mut(&generation)?;
        let mut is_unattended = false;
        for (endpoint, seen) in self.endpoints.iter().zip(seen) {
            let listening = of(seen, slot)?;
            if !listening.listens {
                return Some(format!("its listener on {} was shut down", endpoint.address));
            }
            // The daemon's own descriptor keeps a listener open that the worker has closed, so the kernel goes on
            // queueing: only /proc tells that nobody will accept. It is read where connections wait.
            let process = running.process.as_ref()?;
            is_unattended |= listening.unaccepted > 0 && has_let_go(process, endpoint, slot);
        }
        if !is_unattended {
            running.unattended_since = None;
            return None;
        }
        let now = self.clock.now();
        let since = *running.unattended_since.get_or_insert(now);
        (now.saturating_sub(since) >= UNATTENDED_MAX)
            .then(|| "connections wait in its listener, which none of its processes holds open".to_owned())
    }

    /// One look at who listens at the group's addresses, by the walk that all groups share. Where that shows all as it should be,
    /// nothing else is asked: a group in which nothing happens costs no more.
    pub(super) fn look_around(&mut self) {
        match self.is_at_rest() {
            Ok(true) => {
                self.look_at_cpus();
                self.count_strangers(0);
            }
            Ok(false) => {
                self.supervise();
                self.look_for_strangers();
            }
            Err(error) => {
                self.supervise();
                tracing::warn!("cannot see who listens beside the group: {}", describe(&error));
            }
        }
    }

    /// Whether the group's listeners all listen, have nothing in their queues, and are alone.
    fn is_at_rest(&self) -> Result<bool, DiagError> {
        for endpoint in &self.endpoints {
            let (address, mut missing) = (endpoint.address, endpoint.cookies());
            let look = self.neighbours.like(address)?;
            let mut found = look.at(address.address);
            if !found.all(|other| other.unaccepted == 0 && missing.remove(&other.cookie))
                || !missing.is_empty()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// They get nothing, so nothing hangs on when they are seen.
    fn look_for_strangers(&mut self) {
        match self.strangers() {
            Ok(Some(strangers)) => self.count_strangers(strangers),
            Ok(None) => {}
            Err(error) => tracing::warn!("cannot see who listens beside the group: {}", describe(&error)),
        }
    }

    /// How many others listen at the group's addresses; nothing where that cannot be told.
    fn strangers(&mut self) -> Result<Option<u64>, DiagError> {
        let mut others = Vec::new();
        for endpoint in &self.endpoints {
            let (address, own) = (endpoint.address, endpoint.cookies());
            let is_other = |listener: &&ListenerInfo| !own.contains(&listener.cookie);
            // Not by the look that is shared: that may be from before the group has closed one of its own.
            let listeners = self.diag.listeners(address)?;
            others.extend(listeners.iter().filter(is_other).map(|other| u64::from(other.inode)));
        }
        if others.is_empty() {
            return Ok(Some(0));
        }
        // Without it, workers would seem to hold none of them.
        if procfs::require_room().is_err() {
            return Ok(None);
        }
        let held = self.take_out_held(&mut others);
        held.into_iter().for_each(|(generation, count)| self.tell_of_unused(generation, count));
        Ok(Some(others.len() as u64))
    }

    /// Takes out the sockets that workers hold, and counts them: a listener that is in no slot may be one's that is starting, or more
    /// than it needs.
    fn take_out_held(&self, sockets: &mut Vec<u64>) -> Vec<(GenerationId, usize)> {
        let processes = Processes::now();
        let take_out = |(&generation, running): (&GenerationId, &Running)| {
            let held = procfs::socket_inodes_of(&running.process.as_ref()?.tree_among(&processes));
            let before = sockets.len();
            sockets.retain(|inode| !held.contains(inode));
            Some((generation, before - sockets.len()))
        };
        self.generations.iter().filter_map(take_out).collect()
    }

    /// Says, once for each generation, that a worker has bound more sockets than its group takes in.
    fn tell_of_unused(&mut self, generation: GenerationId, count: usize) {
        let Some(running) = self.generations.get_mut(&generation) else { return };
        if count == 0 || self.settings.mode == Mode::Inherit || !running.is_ready || running.has_unused {
            return;
        }
        running.has_unused = true;
        let (plural, taken) = (if count == 1 { "" } else { "s" }, self.settings.sockets);
        let detail = format!(
            "it has bound {count} socket{plural} more than its group takes in, which is {taken} at each address; \
             what is more gets nothing (hint: give --sockets, or sockets of [group.workers])"
        );
        let worker = self.settings.name.worker(generation.worker);
        self.journal.add(
            "unused-sockets",
            &self.settings.name,
            Some(worker),
            Some(generation.number),
            detail,
        );
    }

    fn count_strangers(&mut self, strangers: u64) {
        if strangers > self.strangers {
            let detail = format!("{strangers} sockets of others have joined the group; they get nothing");
            self.totals.strangers += strangers - self.strangers;
            self.journal.add("stranger", &self.settings.name, None, None, detail);
        }
        self.strangers = strangers;
    }
}

fn of(seen: &Seen, slot: Slot) -> Option<Listening> {
    seen.iter().find(|(of, _)| *of == slot).map(|(_, listening)| *listening)
}

/// Whether there is a listener in a worker's slot that none of its processes holds.
fn has_let_go(process: &Process, endpoint: &Endpoint, slot: Slot) -> bool {
    let inodes: Vec<u64> =
        endpoint.listeners(slot).filter_map(|listener| options::inode(listener).ok()).collect();
    let holds = |pids: &[u32]| {
        let held = procfs::socket_inodes_of(pids);
        inodes.iter().all(|inode| held.contains(inode))
    };
    // Without room for a look, everybody would seem to have let go. Most have one process, which spares the look at all others.
    procfs::require_room().is_ok() && !holds(&[process.pid()]) && !holds(&process.tree())
}
