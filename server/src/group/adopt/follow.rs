//! Has the engine follow what a server's listeners do.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    control::api::{Fault, FaultKind},
    daemon::{describe::describe, settings::Server},
    engine::event::{Command, Event, GenerationId, Slot},
    group::{host::GroupHost, message::Message, task::GroupTask},
    units::{UnitState, is_coming_back},
    workers::process::Process,
};

use super::{Came, Followed, Look, look};

/// What is said of a worker whose listeners are gone.
const LEFT: &str = "its server has closed its listener";

impl GroupTask {
    /// Takes in what a look at the server's listeners has found.
    pub(in crate::group) fn adopted(&mut self, found: Result<Look, String>) {
        let host = self.runtime.host_mut();
        let Some(adoption) = &mut host.adoption else { return };
        adoption.is_looking = false;
        let look = match found {
            Ok(look) => look,
            Err(why) => {
                return tracing::warn!("cannot see the listeners of {}: {why}", host.settings.name);
            }
        };
        let gone = adoption.forget_gone(&look);
        for id in host.let_gone_go(&gone) {
            self.take_in(Event::Left { generation: id, why: LEFT.to_owned() });
        }
        let mut begin = BTreeSet::new();
        let host = self.runtime.host();
        let own: HashSet<u64> = host.members.known().into_iter().flat_map(|(_, cookies)| cookies).collect();
        let present: HashSet<u64> = look.at.iter().flat_map(|at| &at.present).copied().collect();
        let (mut strangers, mut unready) = (HashSet::new(), 0);
        for (address, mut at) in look.at.into_iter().enumerate() {
            let (engine, host) = self.runtime.parts();
            unready += at.unready + host.wait_for_unsure(&mut at.came);
            // What the group has made while the look was taken is no stranger's.
            strangers.extend(at.strangers.difference(&own).copied());
            host.tell_of_refused(at.refused);
            for came in at.came {
                begin.extend(host.place_listener(engine, address, came));
            }
        }
        for worker in begin {
            self.take_in(Event::Came { worker });
        }
        let host = self.runtime.host_mut();
        host.note_unready(unready);
        let seen = host.adoption.as_mut().map_or(0, |adoption| {
            adoption.looked(&present);
            adoption.note_strangers(strangers)
        });
        host.count_strangers(seen);
    }
}

impl GroupTask {
    /// The unit of the server is in another state.
    pub(in crate::group) fn unit_changed(&mut self, state: &UnitState) {
        let host = self.runtime.host_mut();
        let now = host.shared.clock.now();
        let Some(adoption) = &mut host.adoption else { return };
        adoption.is_in(state.control_group.as_deref());
        // Something happens to it.
        adoption.stir(now);
        self.take_in(Event::Expected { is_coming: is_coming_back(state) });
    }
}

impl GroupHost {
    /// The unit that is to be followed, where the group's server is one's.
    pub(in crate::group) fn followed(&self) -> Option<Followed> {
        let Server::Unit(unit) = &self.adoption.as_ref()?.settings().server else { return None };
        let (unit, group) = (unit.clone(), self.settings.name.clone());
        Some(Followed { unit, group, socket: self.shared.socket.clone() })
    }

    /// Has the server's listeners be looked at, on a thread. The task is told.
    pub(in crate::group) fn look_for_adopted(&mut self) {
        let own = self.members.known().into_iter().map(|(_, cookies)| cookies).collect();
        let Some(question) = self.adoption.as_mut().and_then(|adoption| adoption.question(own)) else {
            return;
        };
        let failed = |why| Message::Adopted(Err(why));
        let job = move || Message::Adopted(look(&question));
        let at_once = self.shared.inbox.hand_in(&self.shared.threads.processes, failed, job);
        self.later.extend(at_once);
    }

    /// Forgets the members with these cookies, which are not there any more; the generations that have none left.
    fn let_gone_go(&mut self, gone: &HashSet<u64>) -> Vec<GenerationId> {
        let holders: BTreeMap<Slot, GenerationId> = self.processes.holders().collect();
        let changed = self.members.leave_gone(gone).into_iter();
        let changed: BTreeSet<_> = changed.filter_map(|slot| Some((*holders.get(&slot)?, slot))).collect();
        if !changed.is_empty() {
            self.stay_lively();
            self.later.push_back(Message::Changed);
        }
        changed.into_iter().filter(|(_, slot)| self.members.is_vacant(*slot)).map(|(id, _)| id).collect()
    }

    /// Finds a listener that has come its worker, and puts it into the worker's slot, where that has one. The worker that is to begin with
    /// it, where there is one.
    fn place_listener(
        &mut self,
        engine: &crate::engine::group::Group,
        address: usize,
        came: Came,
    ) -> Option<u32> {
        let now = self.shared.clock.now();
        let adoption = self.adoption.as_mut()?;
        let cookie = came.discovered.cookie;
        if let Some((worker, is_news)) = adoption.note_takers(&came) {
            if is_news {
                self.note_holder(address, worker, &came);
            }
            return None;
        }
        let worker = adoption.take_place(now, address, &came, engine.workers_by_index())?;
        self.stay_lively();
        if !engine.takes_listeners(worker) {
            self.adoption.as_mut()?.park(&[cookie]);
            return None;
        }
        let newest = self
            .processes
            .newest(worker)
            .filter(|(id, slot)| !engine.is_draining(*id) && !self.members.is_vacant(*slot));
        let Some((id, slot)) = newest else {
            let adoption = self.adoption.as_mut()?;
            adoption.offered.entry(worker).or_default().push((address, came));
            return Some(worker);
        };
        if let Err(why) = self.take_adopted(id, slot, address, came) {
            tracing::warn!("a listener of {} is not taken in: {why}", self.settings.name.worker(worker));
            self.adoption.as_mut()?.listeners.remove(&cookie);
        }
        self.members.let_go_all(slot);
        self.later.push_back(Message::Changed);
        None
    }

    /// Begins a generation with the listeners that were found for its worker.
    pub(in crate::group) fn begin_adopted(&mut self, id: GenerationId, slot: Slot) {
        self.processes.begin(id, slot);
        let offered = self.adoption.as_mut().and_then(|adoption| adoption.offered.remove(&id.worker));
        let mut failure = None;
        for (address, came) in offered.into_iter().flatten() {
            let cookie = came.discovered.cookie;
            if let Err(why) = self.take_adopted(id, slot, address, came) {
                self.adoption.as_mut().and_then(|adoption| adoption.listeners.remove(&cookie));
                failure = Some(why);
            }
        }
        if self.members.is_vacant(slot) {
            let why = failure.unwrap_or_else(|| LEFT.to_owned());
            return self.tell(Event::StartFailed { generation: id, why });
        }
        self.members.let_go_all(slot);
        self.keep_anchors();
        let pid = self.processes.adopted(id);
        if let Some(pid) = pid {
            self.tell(Event::Started { generation: id, pid });
        }
        self.tell(Event::Ready { generation: id });
    }

    fn take_adopted(
        &mut self,
        id: GenerationId,
        slot: Slot,
        address: usize,
        came: Came,
    ) -> Result<(), String> {
        let (pid, taken_by) = (came.discovered.pid, came.taken_by);
        self.members.take_in(address, slot, id, came.discovered).map_err(|error| {
            let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            format!("{}{hint}", describe(&error))
        })?;
        // One process is the worker's; of several, the one that holds it for all.
        let leader = match taken_by.len() {
            1 => taken_by.first().copied().unwrap_or(pid),
            _ => pid,
        };
        if let Ok(process) = Process::open(leader, None) {
            self.processes.is_led_by(id, process);
        }
        Ok(())
    }

    /// Notes that other processes take from a listener.
    fn note_holder(&mut self, address: usize, worker: u32, came: &Came) {
        let Some((id, slot)) = self.processes.newest(worker) else { return };
        let leader = match came.taken_by.len() {
            1 => came.taken_by.first().copied().unwrap_or(came.discovered.pid),
            _ => came.discovered.pid,
        };
        if let Ok(holder) = Process::open(came.discovered.pid, None) {
            self.members.note_held(
                address,
                slot,
                came.discovered.cookie,
                &holder,
                came.discovered.descriptor,
            );
        }
        if let Ok(process) = Process::open(leader, None) {
            self.processes.is_led_by(id, process);
            self.tell(Event::Started { generation: id, pid: leader });
            self.later.push_back(Message::Changed);
        }
    }

    /// Sees to what a command needs, or says why it cannot be.
    pub(in crate::group) fn prepare(&mut self, command: &Command) -> Result<(), Fault> {
        let (Some(adoption), Command::Undrain { worker }) = (&mut self.adoption, command) else {
            return Ok(());
        };
        if !adoption.has_listener(*worker) {
            let name = self.settings.name.worker(*worker);
            let message = format!("cannot put {name} back to work: its server has no listener for it");
            let hint = "`steer status` lists the workers; one comes with each listener of the server's";
            return Err(Fault::new(FaultKind::Refused, message).with_hint(hint));
        }
        // The next look finds it as if it had come.
        if adoption.unpark(*worker) {
            adoption.stir(self.shared.clock.now());
        }
        Ok(())
    }

    /// Has listeners whose processes have ended be looked at again: others may take from them.
    pub(in crate::group) fn look_at_deserted(&mut self) {
        let deserted: Vec<u32> = self.processes.deserted().map(|id| id.worker).collect();
        let Some(adoption) = self.adoption.as_mut().filter(|_| !deserted.is_empty()) else { return };
        adoption.doubt(&deserted);
    }

    fn tell_of_refused(&mut self, refused: Vec<(u64, String)>) {
        for (cookie, why) in refused {
            let is_new = self.adoption.as_mut().is_some_and(|adoption| adoption.refused.insert(cookie));
            if is_new {
                self.journal("refused", None, why);
            }
        }
    }

    fn wait_for_unsure(&mut self, came: &mut Vec<Came>) -> usize {
        let now = self.shared.clock.now();
        self.adoption.as_mut().map_or(0, |adoption| adoption.wait_for_unsure(came, now))
    }

    fn note_unready(&mut self, count: usize) {
        let now = self.shared.clock.now();
        if let Some(adoption) = self.adoption.as_mut() {
            adoption.note_unready(count, now);
        }
    }
}
