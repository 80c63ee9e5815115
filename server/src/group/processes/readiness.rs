//! When a generation is ready: it has its listeners, and has said or shown that it accepts.

use std::{
    cell::LazyCell,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::{
    daemon::settings::Readiness,
    engine::event::{GenerationId, Slot},
    group::{
        members::Wanting,
        message::{Astray, Found, Message},
    },
    sockets::{
        address::{ListenAddress, Protocol},
        diag::Diag,
        procfs,
    },
    workers::{
        cgroup::WorkersCgroup,
        discover::{Refusal, discover},
    },
};

use super::{
    Processes,
    generation::{Generation, Launch, ProbeState},
    origin::Serves,
};

/// A program that has not listened where it is to after this time may listen elsewhere.
const LISTENS_SOON: Duration = Duration::from_millis(1_500);

/// For how long more listeners of a working generation are looked for, after it has bound one or lost one.
const BINDS_WITHIN: Duration = Duration::from_secs(1);

/// What nobody tells of and is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// Listeners that a worker binds itself.
    Listeners(GenerationId, Slot),
    /// That a connected probe was accepted.
    Accepted(GenerationId, Slot),
}

impl Processes {
    /// A process has said that it is ready: the generation whose it is, or whose descendant, where that is news.
    pub(crate) fn told(&mut self, belongs_to: impl Fn(u32) -> bool) -> Option<GenerationId> {
        let is_it = |generation: &Generation| {
            generation.process.as_ref().is_some_and(|process| belongs_to(process.pid()))
        };
        let (&id, generation) = self.generations.iter_mut().find(|(_, generation)| is_it(generation))?;
        // Whoever says it over and over costs nothing more.
        (!std::mem::replace(&mut generation.has_told, true)).then_some(id)
    }

    /// Whether a generation has become ready, now that it has its listeners or not; once.
    pub(crate) fn becomes_ready(&mut self, id: GenerationId, has_listeners: bool) -> bool {
        let Some(generation) = self.generations.get_mut(&id) else { return false };
        generation.has_all = has_listeners;
        let has_shown = match (generation.serves, generation.ready) {
            // Of what it was passed and does not take, nobody would take anything.
            (Serves::Unknown, _) => false,
            (Serves::Own, Readiness::Listener | Readiness::Any) => generation.is_settled,
            (Serves::Own, _) => generation.is_settled && generation.has_told,
            (Serves::Passed, _) => generation.has_told,
        };
        // What it says can be heard before what its exec came to.
        let runs = matches!(generation.launch, Launch::Runs);
        let is_ready = runs && has_shown && has_listeners && !generation.is_ready;
        if is_ready {
            generation.is_ready = true;
            // A worker that said so before it had accepted its probe: the connection is nobody's any more.
            generation.end_probe();
            self.output.forget_lines(&self.settings.name.worker(id.worker));
        }
        is_ready
    }

    /// What a worker that is not ready has printed last, where the daemon reads that.
    pub(crate) fn last_lines(&self, worker: u32) -> Vec<String> {
        self.output.last_lines(&self.settings.name.worker(worker))
    }

    /// What is to be looked for now; nothing of a generation whose listeners are being looked for, nor of one that does not run its program
    /// yet: until its exec a process has a copy of each descriptor of the daemon, also of the listeners that were just taken from others.
    pub(crate) fn signs(&self) -> impl Iterator<Item = Sign> {
        let running = self.generations.iter().filter(|(_, it)| !it.has_exited && it.process.is_some());
        running.flat_map(|(&id, generation)| {
            let is_probed = matches!(generation.probe, ProbeState::Connected(_));
            let may_bind = match generation.serves {
                Serves::Passed => false,
                _ if generation.is_ready => generation.is_sought(),
                Serves::Unknown => true,
                Serves::Own => !is_probed || !generation.is_settled || !generation.has_all,
            };
            let is_sought = may_bind && !generation.is_searched && matches!(generation.launch, Launch::Runs);
            let listeners = is_sought.then_some(Sign::Listeners(id, generation.slot));
            listeners.into_iter().chain(is_probed.then_some(Sign::Accepted(id, generation.slot)))
        })
    }

    /// Which listeners a generation serves.
    pub(crate) fn serves(&self, id: GenerationId) -> Option<Serves> {
        Some(self.generations.get(&id)?.serves)
    }

    /// How long ago the last look for a generation's listeners began.
    pub(crate) fn searched_since(&self, id: GenerationId) -> Option<Duration> {
        self.generations.get(&id)?.searched_at.map(|at| at.elapsed())
    }

    /// Whether it waits only for a look at a generation's listeners that finds nothing new.
    pub(crate) fn is_urgent(&self, id: GenerationId) -> bool {
        let waits = |it: &Generation| match it.serves {
            Serves::Unknown => it.has_told,
            Serves::Own => !it.is_ready && it.has_all && !it.is_settled,
            Serves::Passed => false,
        };
        self.generations.get(&id).is_some_and(waits)
    }

    /// Has more listeners of a generation be looked for, where it serves and binds them itself: it has bound one, or lost one. Whether that
    /// can be.
    pub(crate) fn seek(&mut self, id: GenerationId) -> bool {
        let binds = self.origin().binds();
        let is_it =
            |it: &&mut Generation| binds && it.is_ready && it.serves != Serves::Passed && !it.is_stopping;
        let Some(generation) = self.generations.get_mut(&id).filter(is_it) else { return false };
        generation.sought_until = Some(Instant::now() + BINDS_WITHIN);
        true
    }

    /// A generation has bound listeners itself; whether that is news.
    pub(crate) fn binds_itself(&mut self, id: GenerationId) -> bool {
        let Some(generation) = self.generations.get_mut(&id) else { return false };
        if generation.serves != Serves::Unknown {
            return false;
        }
        generation.serves = Serves::Own;
        generation.end_probe();
        true
    }

    /// Has the listeners that a generation is to bind itself be looked for, on a thread. The task is told what is found.
    pub(crate) fn search(&mut self, id: GenerationId, wanting: Vec<Wanting>) -> Option<Message> {
        let generation = self.generations.get_mut(&id)?;
        let process = generation.process.clone()?;
        generation.is_searched = true;
        generation.searched_at = Some(Instant::now());
        generation.had_told_before = generation.has_told;
        let is_late = generation.astray.is_none() && generation.begun.elapsed() >= LISTENS_SOON;
        let cgroup = self.cgroup.clone();
        let failed = move |why: String| {
            tracing::debug!("cannot look for the listeners of {id:?}: {why}");
            Message::Discovered { generation: id, found: Vec::new(), astray: None }
        };
        let job = move || {
            let tree = LazyCell::new(|| process.tree());
            let addresses: Vec<ListenAddress> = wanting.iter().map(|it| it.membership.address).collect();
            let found: Vec<Found> = wanting.into_iter().flat_map(|wanting| find(wanting, &tree)).collect();
            let is_lost = is_late && found.is_empty();
            let astray = is_lost.then(|| astray(&addresses, &tree, cgroup.as_deref())).flatten();
            Message::Discovered { generation: id, found, astray }
        };
        self.inbox.hand_in(&self.threads.processes, failed, job)
    }

    /// Whether a generation that is not ready has bound something, and nothing more for a while.
    pub(crate) fn binds_no_more(&self, id: GenerationId) -> bool {
        let is_it = |it: &Generation| !it.is_ready && it.serves == Serves::Own && it.is_settled;
        self.generations.get(&id).is_some_and(|it| is_it(it) && it.begun.elapsed() >= LISTENS_SOON)
    }

    /// Whether a generation's process has ended by itself before it was ready.
    pub(crate) fn ended_unready(&self, id: GenerationId) -> bool {
        let generation = self.generations.get(&id);
        generation.is_some_and(|it| it.has_exited && !it.is_ready && !it.is_stopping && !it.is_killed)
    }

    /// Notes what a generation does that does not listen where it is to; whether that is news.
    pub(crate) fn note_astray(&mut self, id: GenerationId, astray: Astray) -> bool {
        // Once: who does one thing after another is told of no more often.
        let is_new = |it: &&mut Generation| !it.is_ready && it.astray.is_none();
        let generation = self.generations.get_mut(&id).filter(is_new);
        generation.map(|it| it.astray = Some(astray)).is_some()
    }

    /// What a generation does that does not listen where it is to, as far as that was noticed.
    pub(crate) fn astray(&self, id: GenerationId) -> Option<Astray> {
        self.generations.get(&id)?.astray
    }

    /// The look for a generation's listeners is over. Its slot, and whether it is ready already; nothing where it has ended.
    ///
    /// Decides which listeners a generation serves that said that it is ready before the look: a program binds first, so if it has
    /// none of its own, it serves those that it was passed.
    pub(crate) fn searched(&mut self, id: GenerationId, has_found: bool) -> Option<(Slot, bool)> {
        let generation = self.generations.get_mut(&id)?;
        generation.is_searched = false;
        generation.is_settled = !has_found;
        if generation.serves == Serves::Unknown && !has_found && generation.had_told_before {
            generation.serves = Serves::Passed;
        }
        (!generation.has_exited).then_some((generation.slot, generation.is_ready))
    }

    /// Notes that a generation has bound more sockets than its group takes in; whether that is news.
    pub(crate) fn has_unused(&mut self, id: GenerationId) -> bool {
        let Some(generation) = self.generations.get_mut(&id) else { return false };
        generation.is_ready && !std::mem::replace(&mut generation.has_unused, true)
    }
}

/// What processes do that do not listen at these addresses.
fn astray(wanted: &[ListenAddress], tree: &[u32], cgroup: Option<&WorkersCgroup>) -> Option<Astray> {
    let is_outside = |cgroup: &WorkersCgroup| {
        tree.iter().filter_map(|pid| procfs::cgroup_of(*pid)).any(|path| !cgroup.holds(&path))
    };
    let elsewhere = listens_elsewhere(wanted, tree).map(Astray::Elsewhere);
    elsewhere.or_else(|| cgroup.is_some_and(is_outside).then_some(Astray::OutOfCgroup))
}

/// Where processes listen beside these addresses, at the first that is found.
fn listens_elsewhere(wanted: &[ListenAddress], tree: &[u32]) -> Option<ListenAddress> {
    let own = procfs::socket_inodes_of(tree);
    let protocols: BTreeSet<Protocol> = wanted.iter().map(|address| address.protocol).collect();
    let ips: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let kinds = protocols.into_iter().flat_map(|protocol| ips.map(|ip| (protocol, ip)));
    kinds.into_iter().find_map(|(protocol, ip)| {
        let of_kind = ListenAddress { protocol, address: (ip, 0).into() };
        let listeners = Diag::open().and_then(|mut diag| diag.all_listeners(of_kind)).ok()?;
        let addresses = listeners.all().filter(|it| own.contains(&u64::from(it.inode)));
        addresses.map(|it| ListenAddress { protocol, address: it.local }).find(|it| !wanted.contains(it))
    })
}

/// What a worker has bound of what is wanted at one address.
fn find(wanting: Wanting, tree: &LazyCell<Vec<u32>, impl FnOnce() -> Vec<u32>>) -> Vec<Found> {
    let Wanting { address, membership, mut known, room } = wanting;
    let mut found = Vec::new();
    let mut diag = match Diag::open() {
        Ok(diag) => diag,
        Err(source) => {
            let refusal = Refusal::NotListed { address: membership.address, source };
            return vec![Found { address, result: Err(refusal) }];
        }
    };
    while found.len() < room {
        match discover(&mut diag, &membership, tree, &known).transpose() {
            None => break,
            Some(Ok(discovered)) => {
                known.insert(discovered.cookie);
                found.push(Found { address, result: Ok(discovered) });
            }
            Some(Err(refusal)) => {
                found.push(Found { address, result: Err(refusal) });
                break;
            }
        }
    }
    found
}
