//! Looks for what nobody tells: listeners that do not serve any more, connections in a hold that has ended, stalls, strangers.

use std::{
    collections::{BTreeMap, HashSet},
    io,
};

use crate::{
    daemon::describe::describe,
    dataplane::cells::monotonic_nanoseconds,
    engine::event::{Event, GenerationId, Slot},
    sockets::{address::ListenAddress, diag::Diag, processes::Processes as AllProcesses, procfs},
    workers::process::Process,
};

use super::{
    host::GroupHost,
    members::Seen,
    message::{Message, Stranger},
    processes::{Judgement, QueueSample},
    task::GroupTask,
};

impl GroupTask {
    /// One look at every listener of the group.
    pub(super) fn supervise(&mut self) {
        let seen = match self.runtime.host().members.seen() {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!("cannot see the listeners of {}: {}", self.settings().name, describe(&error));
                return;
            }
        };
        if seen.iter().flat_map(|(_, seen)| seen).any(|(_, seen)| seen.unaccepted > 0) {
            self.runtime.host_mut().stay_lively();
        }
        self.look_at_pinned();
        let host = self.runtime.host_mut();
        let is_adopted = host.adoption.is_some();
        host.look_for_adopted();
        // Whether one is lost, the server's listeners tell.
        let serving = if is_adopted { Vec::new() } else { self.runtime.engine().serving() };
        for (generation, slot) in serving {
            let at: Vec<(ListenAddress, Seen)> =
                seen.iter().filter_map(|(address, seen)| Some((*address, of(seen, slot)?))).collect();
            if let Some(why) = self.runtime.host_mut().lost_listener(generation, slot, &at) {
                self.take_in(Event::ListenerLost { generation, why });
            }
        }
        let engine = self.runtime.engine();
        let waits = |slot| seen.iter().any(|(_, seen)| of(seen, slot).is_some_and(|own| own.unaccepted > 0));
        if !engine.is_holding() && engine.hold_slot().is_some_and(waits) {
            self.take_in(Event::HoldOccupied);
        }
    }

    /// The look that is taken in any case. Where the one that all groups share shows all as it should be, nothing else is asked: a group in
    /// which nothing happens costs no more.
    pub(super) fn look_around(&mut self) {
        self.look_after();
        let (_, host) = self.runtime.parts();
        host.look_at_deserted();
        host.shared.neighbours.refresh(&host.shared.threads.reading);
        if host.members.is_at_rest(&host.shared.neighbours) {
            host.count_strangers(0);
            self.look_at_pinned();
        } else {
            if host.adoption.is_none() {
                host.look_for_strangers();
            }
            self.supervise();
        }
    }

    /// Looks at every worker's CPUs, where the policy wants to know them.
    fn look_at_pinned(&mut self) {
        if self.runtime.engine().policy() == crate::policy::Policy::Cpu {
            self.look_at_cpus(|_| true);
        }
    }
}

impl GroupHost {
    /// One look at every queue, shown to the program.
    pub(super) fn sample_loads(&mut self) {
        // What cannot be seen is tried again at once; the program takes no old samples.
        let Ok(queues) = self.members.queues() else { return };
        let at = monotonic_nanoseconds();
        for (id, slot) in self.processes.sampled() {
            let queue = queues.get(&slot).copied().unwrap_or(0);
            let selected = if queue > 0 { self.members.selected(slot) } else { 0 };
            let judgement = self.processes.judge(id, QueueSample { at, queue, selected });
            let Some(Judgement { shown, news }) = judgement else { continue };
            self.members.show(slot, shown);
            if let Some((kind, detail)) = news {
                self.journal(kind, Some(id), detail);
                self.later.push_back(Message::Changed);
            }
        }
    }

    /// Looks, on a thread, who else listens at the group's addresses. They get nothing, so nothing hangs on when they are seen.
    fn look_for_strangers(&mut self) {
        let known = self.members.known();
        let processes: Vec<(GenerationId, Process)> =
            self.processes.all().map(|(id, process)| (id, process.clone())).collect();
        let job = move || {
            let mut others = Vec::new();
            for (address, own) in known {
                // Not by the look that is shared: that may be from before the group has closed one of its own.
                let listeners = Diag::open().and_then(|mut diag| diag.listeners(address));
                match listeners {
                    Ok(found) => others.extend(
                        found.iter().filter(|it| !own.contains(&it.cookie)).map(|it| (it.cookie, it.inode)),
                    ),
                    Err(error) => return Message::Neighbours(Err(describe(&error))),
                }
            }
            Message::Neighbours(name_holders(others, &processes).map_err(|error| error.to_string()))
        };
        // What could not be looked at now is looked at again.
        let _ = self.shared.inbox.hand_in(
            &self.shared.threads.processes,
            |why| Message::Neighbours(Err(why)),
            job,
        );
    }

    /// Takes in who else listens at the group's addresses.
    ///
    /// What a worker holds of it may have been bound since: it is looked for, where the worker may have more, up to `most` at each address.
    pub(super) fn strangers_found(&mut self, most: usize, found: Result<Vec<Stranger>, String>) {
        let found = match found {
            Ok(found) => found,
            Err(why) => return tracing::warn!("cannot see who listens beside the group: {why}"),
        };
        // Of what was in no slot at the look, some may have been taken into one since.
        let known: HashSet<u64> = self.members.known().into_iter().flat_map(|(_, cookies)| cookies).collect();
        let found: Vec<Stranger> = found.into_iter().filter(|it| !known.contains(&it.cookie)).collect();
        let mut unused = BTreeMap::<GenerationId, usize>::new();
        found.iter().filter_map(|it| it.holder).for_each(|id| *unused.entry(id).or_default() += 1);
        for (id, count) in unused {
            if !self.has_room(id, most) || !self.processes.seek(id) {
                self.tell_of_unused(id, count, most);
            }
        }
        // A listener that is in no slot may be one's that is starting, or more than it needs.
        self.count_strangers(found.iter().filter(|it| it.holder.is_none()).count() as u64);
    }

    /// Says, once for each generation, that a worker has bound more sockets than its group takes in.
    fn tell_of_unused(&mut self, id: GenerationId, count: usize, most: usize) {
        if !self.processes.origin().binds() || !self.processes.has_unused(id) {
            return;
        }
        let plural = if count == 1 { "" } else { "s" };
        let taken = most.min(self.settings.socket_room() as usize);
        let hint = match most {
            1 => {
                "a connection ID names a worker, and not one of its sockets: run more workers, or choose another policy"
            }
            _ => "give --sockets, or sockets of [group.workers]",
        };
        let detail = format!(
            "it has bound {count} socket{plural} more than its group takes in, which is {taken} at each address; \
             what is more gets nothing (hint: {hint})"
        );
        self.journal("unused-sockets", Some(id), detail);
    }

    pub(super) fn count_strangers(&mut self, strangers: u64) {
        if strangers > self.strangers {
            let detail = format!("{strangers} sockets of others have joined the group; they get nothing");
            self.totals.strangers += strangers - self.strangers;
            self.journal("stranger", None, detail);
        }
        if strangers != self.strangers {
            self.strangers = strangers;
            self.later.push_back(Message::Changed);
        }
    }
}

/// Whose each of these sockets is. Without room to look, workers would seem to hold none of them: then nothing is said.
fn name_holders(
    others: Vec<(u64, u32)>,
    processes: &[(GenerationId, Process)],
) -> Result<Vec<Stranger>, io::Error> {
    if others.is_empty() {
        return Ok(Vec::new());
    }
    procfs::require_room()?;
    let all = AllProcesses::now();
    let held: Vec<_> = processes
        .iter()
        .map(|(id, process)| (*id, procfs::socket_inodes_of(&process.tree_among(&all))))
        .collect();
    let holder =
        |inode: u32| held.iter().find(|(_, held)| held.contains(&u64::from(inode))).map(|(id, _)| *id);
    Ok(others.into_iter().map(|(cookie, inode)| Stranger { cookie, holder: holder(inode) }).collect())
}

fn of(seen: &[(Slot, Seen)], slot: Slot) -> Option<Seen> {
    seen.iter().find(|(of, _)| *of == slot).map(|(_, seen)| *seen)
}
