//! Goes on with a group that another daemon had: finds its kernel groups, sockets and processes again.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use crate::{
    daemon::describe::describe,
    engine::{
        event::{Event, GenerationId, Slot},
        group::Group,
        view::Stage,
    },
    sockets::{
        address::ListenAddress,
        diag::{Diag, ListenerInfo},
        options, pidfd,
        processes::Processes as AllProcesses,
    },
    workers::process::Process,
};

use super::{adopt::Look, host::GroupHost, record::Saved, task::GroupTask};

impl GroupHost {
    /// Everything that a group that begins has not: see [`Saved`]. It blocks: for `/proc` and netlink.
    pub(super) fn restore(
        &mut self,
        engine: &Group,
        saved: &Saved,
        processes: &AllProcesses,
        first_look: &mut Option<Look>,
    ) {
        self.totals = saved.totals.clone().into();
        self.strangers = saved.strangers;
        self.replies.count_from(saved.last_operation);
        self.shared.journal.count_from(saved.last_event);
        self.find_again(engine, saved, processes, first_look);
        self.forget_what_is_nobodys(engine, saved);
    }

    /// Finds everything of a saved group that is not in the engine. To be followed by [`GroupTask::resume`].
    fn find_again(
        &mut self,
        engine: &Group,
        saved: &Saved,
        processes: &AllProcesses,
        first_look: &mut Option<Look>,
    ) {
        for (generation, slot, stage) in engine.stages() {
            self.processes.find_again(generation, slot, stage != Stage::Starting, saved);
        }
        if let Some(look) = first_look {
            self.find_adopted_again(engine, saved, look);
        }
        for (index, address) in saved.addresses.iter().enumerate() {
            let record = self.record.as_ref();
            self.members.adopt_anchor(index, || record?.kept_anchor(index));
            for (&slot, cookies) in &address.listeners {
                let is_adopted = self.adoption.is_some() && !engine.hold_slots().contains(&slot);
                let wanted = (0..=u8::MAX).zip(cookies).filter(|(_, cookie)| **cookie != 0 && !is_adopted);
                for (place, &cookie) in wanted {
                    let found = self.find_listener(engine, (index, address.address), slot, cookie, processes);
                    if let Some(listener) = found {
                        self.adopt(index, slot, place, listener);
                    }
                }
                // A worker may have closed some meanwhile.
                self.members.free_places(index, slot, cookies.len());
            }
            for slot in engine.hold_slots() {
                let is_there = self.members.has_listener(index, slot);
                let kept =
                    self.record.as_ref().filter(|_| !is_there).and_then(|it| it.kept_hold(index, slot));
                if let Some(listener) = kept.filter(|listener| options::listens(listener).unwrap_or(false)) {
                    self.adopt(index, slot, 0, listener);
                }
            }
        }
        for (generation, slot, stage) in engine.stages() {
            if self.adoption.is_some() {
                self.members.let_go_all(slot);
            } else if stage != Stage::Starting {
                self.members.let_go(slot, self.processes.process(generation));
            }
        }
    }

    /// Finds the listeners of a server that somebody else has started, among those of the first look: they are not new.
    fn find_adopted_again(&mut self, engine: &Group, saved: &Saved, look: &mut Look) {
        for (index, (address, at)) in saved.addresses.iter().zip(&mut look.at).enumerate() {
            let slot_of = |cookie: u64| {
                let slots = address.listeners.iter();
                let (&slot, cookies) = slots.into_iter().find(|(_, cookies)| cookies.contains(&cookie))?;
                let place = cookies.iter().position(|it| *it == cookie)?;
                Some((slot, u8::try_from(place).ok()?))
            };
            for came in std::mem::take(&mut at.came) {
                let found = slot_of(came.discovered.cookie);
                let found = found.and_then(|(slot, place)| Some((slot, place, engine.holder(slot)?)));
                let Some((slot, place, id)) = found else {
                    at.came.push(came);
                    continue;
                };
                if let Some(adoption) = &mut self.adoption {
                    adoption.has(index, id.worker, &came);
                }
                let (pid, descriptor, cookie) =
                    (came.discovered.pid, came.discovered.descriptor, came.discovered.cookie);
                self.adopt(index, slot, place, came.discovered.listener);
                if let Ok(process) = Process::open(pid, None) {
                    self.members.note_held(index, slot, cookie, &process, descriptor);
                    self.processes.is_led_by(id, process);
                }
            }
        }
    }

    fn adopt(&mut self, address: usize, slot: Slot, place: u8, listener: OwnedFd) {
        if let Err(error) = self.members.adopt(address, slot, place, listener) {
            tracing::warn!("a listener in slot {slot} is not taken over: {}", describe(&error));
        }
    }

    /// The listener with this cookie: among those that are kept, or of the generation whose slot it is.
    fn find_listener(
        &self,
        engine: &Group,
        (index, address): (usize, ListenAddress),
        slot: Slot,
        cookie: u64,
        processes: &AllProcesses,
    ) -> Option<OwnedFd> {
        let is_it = |listener: &OwnedFd| options::socket_cookie(listener).is_ok_and(|found| found == cookie);
        let kept = self.record.as_ref().and_then(|record| record.kept_hold(index, slot));
        if let Some(kept) = kept.filter(&is_it) {
            return Some(kept);
        }
        let holder = engine.holder(slot)?;
        let inode = u64::from(self.listener_inode(address, cookie)?);
        let among = |tree: Vec<u32>| pidfd::find_listener(&tree, inode);
        // Held by one that was started after the look that all groups share, or not at all: looked for once more.
        let found = among(self.processes.tree_among(holder, processes))
            .or_else(|| among(self.processes.process(holder)?.tree()));
        let (pid, descriptor) = found?;
        let holder = pidfd::open(pid).ok()?;
        pidfd::take_fd(holder, descriptor).ok().filter(is_it)
    }

    /// The inode of the listener with this cookie; nothing where there is none, or where it cannot be seen.
    fn listener_inode(&self, address: ListenAddress, cookie: u64) -> Option<u32> {
        let is_it = |listener: &&ListenerInfo| listener.cookie == cookie;
        let shared = self.shared.neighbours.look(address).ok();
        let shared = shared.and_then(|look| look.at(address.address).find(is_it).map(|it| it.inode));
        // The look that all groups share may be older than a listener.
        shared.or_else(|| {
            let mut diag = Diag::open().ok()?;
            diag.listeners(address).ok()?.iter().find(is_it).map(|it| it.inode)
        })
    }

    /// Clears the slots whose generations were forgotten, where the daemon before did not come to it, and counts what was counted
    /// for them.
    fn forget_what_is_nobodys(&mut self, engine: &Group, saved: &Saved) {
        let taken = engine.taken_slots();
        let holders: BTreeMap<Slot, GenerationId> = saved.holders.iter().copied().collect();
        let slots: BTreeSet<Slot> =
            saved.addresses.iter().flat_map(|address| address.listeners.keys().copied()).collect();
        for slot in slots.difference(&taken) {
            let counted = self.members.forget(*slot);
            let sum = match holders.get(slot) {
                Some(holder) => &mut self.totals.workers.entry(holder.worker).or_default().counters,
                None => &mut self.totals.held,
            };
            *sum = sum.plus(&counted);
        }
    }
}

impl GroupTask {
    /// Goes on: does again what was not answered, and tells the engine what has happened meanwhile.
    pub(super) fn resume(&mut self) {
        let now = self.runtime.host().shared.clock.now();
        self.runtime.resume(now);
        for slot in self.runtime.engine().hold_slots() {
            if !self.runtime.host().members.has_hold(slot) {
                self.runtime.take_in(now, Event::HoldLost { slot });
            }
        }
        for (generation, slot, runs) in self.runtime.engine().generations() {
            if let Some(event) = self.found(generation, slot, runs) {
                self.runtime.take_in(now, event);
            }
        }
        self.runtime.host_mut().keep_anchors();
        self.runtime.take_in(now, Event::Tick);
        let all: Vec<(GenerationId, Process)> =
            self.runtime.host().processes.all().map(|(id, process)| (id, process.clone())).collect();
        for (generation, process) in all {
            if !process.has_ended() && self.runtime.host().adoption.is_none() {
                self.runtime.host().processes.watch(generation, process);
            }
            if self.runtime.engine().stage(generation) == Some(Stage::Starting) {
                self.prepare_probe(generation);
            }
            self.ready_if_complete(generation);
        }
        if let Some(first) = self.first_look.take() {
            self.adopted(Ok(first));
        }
        let host = self.runtime.host_mut();
        host.stay_lively();
        let workers = host.processes.running();
        let running = if workers == 1 { "process that runs" } else { "processes that run" };
        host.journal("taken-over", None, format!("another daemon's, with {workers} {running}"));
    }

    /// What became of a generation while there was no daemon.
    fn found(&self, generation: GenerationId, slot: Slot, runs: bool) -> Option<Event> {
        if !runs {
            return None;
        }
        let host = self.runtime.host();
        if host.adoption.is_some() {
            let why = || "its listener was gone when the daemon took over".to_owned();
            return match self.runtime.engine().stage(generation)? {
                Stage::Starting => Some(Event::StartFailed { generation, why: why() }),
                _ => host.members.is_vacant(slot).then(|| Event::Left { generation, why: why() }),
            };
        }
        let process = host.processes.process(generation);
        if let Some(exit) = process.and_then(Process::unreaped) {
            return Some(Event::Exited { generation, exit: exit.to_string() });
        }
        match (process, self.runtime.engine().stage(generation)?) {
            // The daemon died before it had forked, or before the process had been let go.
            (None, Stage::Starting) => Some(Event::StartFailed {
                generation,
                why: "could not be started: the daemon that was about to was ended".to_owned(),
            }),
            (None, _) => Some(Event::Exited { generation, exit: "exit unknown".to_owned() }),
            (Some(process), Stage::Starting) => Some(Event::Started { generation, pid: process.pid() }),
            (Some(_), Stage::Serving) => {
                let lost = host.members.lacking(slot).next()?;
                let why = format!("its listener on {lost} was gone when the daemon took over");
                Some(Event::ListenerLost { generation, why })
            }
            (Some(_), Stage::Ending) => None,
        }
    }
}
