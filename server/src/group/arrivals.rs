//! What comes back of a generation's processes and listeners: forked, running, ready, found, ended.

use std::{io, os::fd::OwnedFd};

use tokio::net::TcpStream;

use server_common::bind::BindVerdict;

use crate::{
    daemon::{describe::describe, foreground::Ending},
    dataplane::bind_hook::{Bind, BindEvents, BindHook},
    engine::event::{Event, GenerationId},
    policy::Policy,
    sockets::options,
    workers::{
        command::LISTEN_FDS_START,
        discover::Refusal,
        spawn::{Forked, SpawnError},
    },
};

use super::{
    crash::{self, Moment},
    members::CLEARED,
    message::{Astray, Found, Message, Purpose},
    processes::{Ended, Serves, Sign, Started},
    task::GroupTask,
};

impl GroupTask {
    pub(super) fn forked(&mut self, id: GenerationId, result: Result<Forked, SpawnError>) {
        let host = self.runtime.host_mut();
        match host.processes.forked(id, result) {
            None => {}
            Some(Err(why)) => self.take_in(Event::StartFailed { generation: id, why }),
            Some(Ok(process)) => {
                if host.processes.origin().passes()
                    && let Some(slot) = host.processes.slot(id)
                {
                    host.members.note_passed(slot, &process, LISTEN_FDS_START);
                }
                self.runtime.forked(id);
            }
        }
    }

    pub(super) fn executed(&mut self, id: GenerationId, failure: Option<&SpawnError>) {
        match self.runtime.host_mut().processes.executed(id, failure) {
            None => {}
            Some((Started::Failed(why), _)) => self.take_in(Event::StartFailed { generation: id, why }),
            Some((Started::Runs(pid), exit)) => {
                self.take_in(Event::Started { generation: id, pid });
                match exit {
                    Some(exit) => self.hear(Message::Exited { generation: id, exit }),
                    None => {
                        self.prepare_probe(id);
                        self.ready_if_complete(id);
                    }
                }
            }
        }
    }

    pub(super) fn prepare_probe(&mut self, id: GenerationId) {
        let (engine, host) = self.runtime.parts();
        let seed = engine.seed();
        let event = host.prepare_probe(&seed, id);
        event.into_iter().for_each(|event| self.take_in(event));
    }

    pub(super) fn exited(&mut self, id: GenerationId, ended: Ended) {
        let host = self.runtime.host_mut();
        let Ended { mut exit, user_before_ready } = ended;
        let owner = host.processes.owner();
        // The kernel refused its bind with EADDRINUSE; the worker can only report that somebody listens.
        if let Some(user) = user_before_ready.filter(|user| *user != owner)
            && host.processes.origin().binds()
        {
            exit += &format!(
                "; it ran as user {user}, whose sockets cannot join those of user {owner}: run it as user {owner}, \
                 or the group with --user {user}"
            );
        }
        if let Some(slot) = host.processes.end_probe(id) {
            host.members.discard_unaccepted(slot);
        }
        // The kernel has closed its listeners, and migrated what they held.
        let moved = host.moved();
        host.moved.insert(id, moved);
        self.take_in(Event::Exited { generation: id, exit });
    }

    pub(super) fn taken(&mut self, slot: u16, purpose: Purpose, listeners: Vec<OwnedFd>) {
        let host = self.runtime.host_mut();
        match purpose {
            Purpose::Shut(id) => {
                host.members.shut_taken(&listeners);
                host.listener_shut(id);
            }
            Purpose::Wake => {
                for listener in &listeners {
                    if let Err(error) = options::wake_receivers(listener) {
                        tracing::warn!("{}", describe(&error));
                    }
                }
            }
            Purpose::Refill => {
                for address in host.members.refill(slot, listeners) {
                    host.repaired(address, CLEARED);
                }
            }
            Purpose::Release => self.release_through(listeners),
        }
    }

    /// A process has said that it is ready: it, or its parent, is a generation's. Whether that is news.
    pub(super) fn told(&mut self, belongs_to: impl Fn(u32) -> bool) -> bool {
        let Some(id) = self.runtime.host_mut().processes.told(belongs_to) else { return false };
        self.runtime.changed();
        self.ready_if_complete(id);
        crash::at(Moment::Ready);
        true
    }

    /// Tells the engine that a generation is ready, once it has a listener at every address and has said what it was
    /// to say.
    pub(super) fn ready_if_complete(&mut self, id: GenerationId) {
        let host = self.runtime.host_mut();
        let Some(slot) = host.processes.slot(id) else { return };
        if !host.processes.becomes_ready(id, host.members.is_complete(slot)) {
            return;
        }
        host.members.let_go(slot, host.processes.process(id));
        if self.runtime.engine().policy() == Policy::Cpu {
            self.look_at_cpus(|other| other == id);
        }
        self.take_in(Event::Ready { generation: id });
    }

    /// How many sockets a worker may have at each address at most: a connection ID names a worker, and not one of its sockets.
    pub(super) fn sockets_most(&self) -> usize {
        if matches!(self.runtime.engine().policy(), Policy::QuicCid(_)) { 1 } else { usize::MAX }
    }

    pub(super) fn look_for_signs(&mut self) {
        self.runtime.host_mut().look_for_adopted();
        let most = self.sockets_most();
        let host = self.runtime.host_mut();
        let (signs, owner): (Vec<Sign>, u32) = (host.processes.signs().collect(), host.processes.owner());
        for sign in signs {
            let host = self.runtime.host_mut();
            match sign {
                Sign::Listeners(id, slot) if !host.is_search_due(id, slot) => {}
                Sign::Listeners(id, slot) => {
                    let is_passed = host.processes.serves(id) == Some(Serves::Unknown);
                    let wanting = host.members.wanting(slot, most, owner, is_passed);
                    let at_once = host.processes.search(id, wanting);
                    host.later.extend(at_once);
                }
                // Nothing else can have reached its queue.
                Sign::Accepted(id, slot) => {
                    if host.members.waiting(slot) == 0 {
                        host.processes.probe_accepted(id);
                        self.runtime.changed();
                        self.ready_if_complete(id);
                    }
                }
            }
        }
    }

    /// Takes in what was found of a worker that binds its listeners itself.
    pub(super) fn discovered(&mut self, id: GenerationId, found: Vec<Found>, astray: Option<Astray>) {
        let host = self.runtime.host_mut();
        if let Some(astray) = astray {
            host.goes_astray(id, astray);
        }
        let before = host.processes.serves(id);
        let Some((slot, is_ready)) = host.processes.searched(id, !found.is_empty()) else { return };
        if is_ready {
            return host.found_more(id, slot, found);
        }
        if (before, host.processes.serves(id)) == (Some(Serves::Unknown), Some(Serves::Passed)) {
            host.journal("inherits", Some(id), "it takes the listeners that it was passed".to_owned());
        }
        let has_shown = found.iter().any(|found| found.result.is_ok()) && host.processes.binds_itself(id);
        if has_shown {
            host.forget_passed(id, slot);
        }
        for Found { address, result } in found {
            let refused = match result {
                Ok(discovered) => match host.members.take_in(address, slot, id, discovered) {
                    Ok(_) => continue,
                    Err(error) => (describe(&error), error.hint()),
                },
                // The process may be between `socket` and `setsockopt`, or about to end: only what cannot change any
                // more is a refusal.
                Err(Refusal::NotTaken { .. } | Refusal::NotListed { .. }) => continue,
                Err(refusal) => (describe(&refusal), refusal.hint()),
            };
            let hint = refused.1.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            let why = format!("{}{hint}", refused.0);
            return self.take_in(Event::ListenerLost { generation: id, why });
        }
        host.keep_anchors();
        if has_shown {
            // Where it is to be probed: at the listener that it serves.
            self.prepare_probe(id);
        }
        self.ready_if_complete(id);
        let host = self.runtime.host_mut();
        host.do_without(id, slot);
    }

    /// A process in the workers' cgroup has bound a port of the group.
    pub(super) fn bound(&mut self, bind: &Bind, belongs_to: &[u32]) {
        let host = self.runtime.host_mut();
        let now = host.shared.clock.now();
        let Some(sharing) = &mut host.sharing else { return };
        match bind.verdict {
            BindVerdict::Joins => {
                sharing.expect(now);
                if let Some(adoption) = &mut host.adoption {
                    return adoption.stir(now);
                }
                if let Some(id) = host.whose(belongs_to) {
                    host.processes.seek(id);
                }
            }
            BindVerdict::Refused => {
                tracing::warn!("{}: the bind hook could not set SO_REUSEPORT", host.settings.name);
            }
            BindVerdict::OtherAddress => {
                let foreground = host.shared.foreground.as_ref().filter(|_| !host.starts.has_succeeded());
                if let Some((foreground, alternative)) =
                    foreground.and_then(|it| Some((it, it.alternative(bind.address)?)))
                {
                    return foreground.end(Ending::Follow(alternative));
                }
                if let Some(id) = host.whose(belongs_to) {
                    host.goes_astray(id, Astray::Elsewhere(bind.address));
                }
            }
        }
    }

    /// The bind hook was attached again after somebody had detached it.
    pub(super) fn hook_attached(&mut self, attached: Result<Box<(BindHook, BindEvents)>, String>) {
        let host = self.runtime.host_mut();
        let Some(sharing) = &mut host.sharing else { return };
        let what = match sharing.attached(attached, &self.outside, &host.shared.inbox) {
            Ok(()) => "the bind hook was detached, and is attached again".to_owned(),
            Err(why) => format!("the bind hook was detached, and cannot be attached again: {why}"),
        };
        host.journal("mended", None, what);
    }

    pub(super) fn probed(&mut self, id: GenerationId, connected: io::Result<TcpStream>) {
        let host = self.runtime.host_mut();
        let again = match connected {
            Ok(connection) => {
                host.processes.probe_connected(id, connection);
                false
            }
            Err(error) => {
                tracing::debug!("the probe of {id:?} did not connect: {error}");
                true
            }
        };
        self.take_in(Event::ProbeEnded { generation: id });
        if again {
            self.prepare_probe(id);
        }
    }

    /// Looks at the CPUs that some generations' processes may run on.
    pub(super) fn look_at_cpus(&mut self, which: impl Fn(GenerationId) -> bool) {
        for (generation, cpus) in self.runtime.host_mut().processes.look_at_cpus(which) {
            self.take_in(Event::Pinned { generation, cpus });
        }
    }
}
