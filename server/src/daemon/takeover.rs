//! Goes on with a group that another daemon had: finds its kernel groups, sockets and processes again.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use crate::{
    engine::{
        event::{Event, GenerationId, Slot},
        view::Stage,
    },
    sockets::{address::ListenAddress, diag::ListenerInfo, options, pidfd, procfs::Processes},
    workers::process::Process,
};

use super::{
    actor::Actor,
    reach::Reach,
    running::Running,
    state::{Saved, SavedProcess},
};

impl Actor {
    /// Finds everything of a saved group that is not in the engine. To be followed by [`resume`](Self::resume).
    pub(super) fn find_again(&mut self, saved: &Saved, processes: &Processes) {
        for (generation, slot, _) in self.engine.generations() {
            let mut running = Running::new(slot, self.settings.ready);
            running.reach = self.reach_of(generation);
            running.is_ready = self.engine.stage(generation).is_some_and(|stage| stage != Stage::Starting);
            let process = saved.processes.iter().find(|process| process.generation == generation);
            if let Some(SavedProcess { pid, start_time, has_told, .. }) = process {
                running.has_told = *has_told;
                // One that is gone, or whose number is another's by now, has ended.
                running.process = Process::open(*pid, Some(*start_time)).ok();
            }
            running.has_exited = running.process.as_ref().is_none_or(|process| process.unreaped().is_some());
            self.generations.insert(generation, running);
        }
        for (index, address) in saved.addresses.iter().enumerate() {
            if let Some(anchor) = &mut self.endpoints[index].anchor {
                let kept = self.persistence.as_ref().and_then(|persistence| persistence.kept_anchor(index));
                anchor.adopt(kept);
            }
            for (&slot, cookies) in &address.listeners {
                let mut find = |&cookie| Some((self.find_listener(index, slot, cookie, processes)?, cookie));
                // Of a worker that has lost one, none: it is not what it was.
                let found: Option<Vec<_>> = cookies.iter().map(&mut find).collect();
                for (listener, cookie) in found.into_iter().flatten() {
                    self.endpoints[index].adopt(slot, listener, cookie);
                }
            }
            for slot in self.engine.hold_slots() {
                let kept = || self.persistence.as_ref()?.kept_hold(index, slot);
                let found = if self.endpoints[index].listener(slot).is_none() { kept() } else { None };
                if let Some(listener) =
                    found.filter(|listener| options::listens(listener).is_ok_and(|listens| listens))
                    && let Ok(cookie) = options::socket_cookie(&listener)
                {
                    self.endpoints[index].adopt(slot, listener, cookie);
                }
            }
        }
    }

    /// The listener with this cookie: among those that are kept, or of the generation whose slot it is.
    fn find_listener(
        &mut self,
        address: usize,
        slot: Slot,
        cookie: u64,
        processes: &Processes,
    ) -> Option<OwnedFd> {
        let is_it = |listener: &OwnedFd| options::socket_cookie(listener).is_ok_and(|found| found == cookie);
        let kept = self.persistence.as_ref().and_then(|persistence| persistence.kept_hold(address, slot));
        if let Some(kept) = kept.filter(&is_it) {
            return Some(kept);
        }
        let holder = self.engine.holder(slot)?;
        let inode = u64::from(self.listener_inode(self.endpoints[address].address, cookie)?);
        let process = self.generations.get(&holder)?.process.as_ref()?;
        let among = |tree: Vec<u32>| pidfd::find_listener(&tree, inode);
        // Held by one that was started after the look that all groups share, or not at all: looked for once more.
        let found = among(process.tree_among(processes)).or_else(|| among(process.tree()));
        let (pid, descriptor) = found?;
        let holder = pidfd::open(pid).ok()?;
        pidfd::take_fd(holder, descriptor).ok().filter(is_it)
    }

    /// The inode of the listener with this cookie; nothing where there is none, or where it cannot be seen.
    fn listener_inode(&mut self, address: ListenAddress, cookie: u64) -> Option<u32> {
        let is_it = |listener: &&ListenerInfo| listener.cookie == cookie;
        let shared = self.neighbours.like(address).ok()?.at(address.address).find(is_it).map(|it| it.inode);
        // The look that all groups share may be older than a listener.
        shared.or_else(|| self.diag.listeners(address).ok()?.iter().find(is_it).map(|it| it.inode))
    }

    /// What of earlier tables could send a flow to the generation: which buckets is not saved, so that any flow may be its own
    /// that began before its first instant, or before now.
    fn reach_of(&self, generation: GenerationId) -> Reach {
        Reach::of_any_flow(self.engine.first_instant(generation))
    }

    /// Goes on: does again what was not answered, and tells the engine what has happened meanwhile.
    pub(super) fn resume(&mut self) {
        let name = self.settings.name.clone();
        for effect in self.engine.resume(self.clock.now()) {
            for event in self.carry_and_fail(effect) {
                self.feed(event);
            }
        }
        for slot in self.engine.hold_slots() {
            let mut holding = self.endpoints.iter().filter(|endpoint| !endpoint.is_udp());
            if holding.any(|endpoint| endpoint.listener(slot).is_none()) {
                self.feed(Event::HoldLost { slot });
            }
        }
        for (generation, slot, runs) in self.engine.generations() {
            if let Some(event) = self.found(generation, slot, runs) {
                self.feed(event);
            }
        }
        self.keep_anchors();
        self.feed(Event::Tick);
        let again: Vec<_> = self
            .generations
            .iter()
            .filter_map(|(&id, running)| {
                running.process.clone().map(|process| (id, process, running.has_exited))
            })
            .collect();
        for (generation, process, has_exited) in again {
            if !has_exited {
                self.watch(generation, process);
            }
            if let Some(event) = self.starts(generation).then(|| self.prepare_probe(generation)).flatten() {
                self.feed(event);
            }
            self.ready_if_complete(generation);
        }
        let workers = self.generations.values().filter(|running| !running.has_exited).count();
        let running = if workers == 1 { "process that runs" } else { "processes that run" };
        let detail = format!("another daemon's, with {workers} {running}");
        self.journal.add("taken-over", &name, None, None, detail);
    }

    /// What became of a generation while there was no daemon.
    fn found(&mut self, generation: GenerationId, slot: Slot, runs: bool) -> Option<Event> {
        if !runs {
            return None;
        }
        let running = self.generations.get(&generation)?;
        if let Some(exit) = running.process.as_ref().and_then(Process::unreaped) {
            return Some(Event::Exited { generation, exit: exit.to_string() });
        }
        match (&running.process, self.engine.stage(generation)?) {
            // The daemon died before it had forked, or before the process had been let go.
            (None, Stage::Starting) => Some(Event::StartFailed {
                generation,
                why: "could not be started: the daemon that was about to was ended".to_owned(),
            }),
            (None, _) => Some(Event::Exited { generation, exit: "exit unknown".to_owned() }),
            (Some(process), Stage::Starting) => Some(Event::Started { generation, pid: process.pid() }),
            (Some(_), Stage::Serving) => {
                let lost = self.endpoints.iter().find(|endpoint| !endpoint.is_complete(slot))?;
                let why = format!("its listener on {} was gone when the daemon took over", lost.address);
                Some(Event::ListenerLost { generation, why })
            }
            (Some(_), Stage::Ending) => None,
        }
    }

    fn starts(&self, generation: GenerationId) -> bool {
        self.engine.stage(generation) == Some(Stage::Starting)
    }

    /// Clears the slots whose generations were forgotten, where the daemon before did not come to it, and counts what was counted
    /// for them.
    fn forget_what_is_nobodys(&mut self, saved: &Saved) {
        let taken = self.engine.taken_slots();
        let holders: BTreeMap<Slot, GenerationId> = saved.holders.iter().copied().collect();
        let slots: BTreeSet<Slot> =
            saved.addresses.iter().flat_map(|address| address.listeners.keys().copied()).collect();
        for slot in slots.difference(&taken) {
            let counted = self.forget_slot(*slot);
            let sum = match holders.get(slot) {
                Some(holder) => &mut self.totals.workers.entry(holder.worker).or_default().counters,
                None => &mut self.totals.held,
            };
            *sum = sum.plus(&counted);
        }
    }

    /// Everything that a fresh actor has not: see [`Saved`].
    pub(super) fn restore(&mut self, saved: &Saved, processes: &Processes) {
        self.totals = saved.totals.clone().into();
        self.strangers = saved.strangers;
        self.last_operation = saved.last_operation;
        self.journal.count_from(saved.last_event);
        self.find_again(saved, processes);
        self.forget_what_is_nobodys(saved);
    }
}
