//! Starts generations, and finds out when they are ready.

use std::{os::fd::AsFd, sync::Arc};

use server_common::quic::Owner;

use crate::{
    dataplane::cells::WorkerCell,
    engine::event::{Event, GenerationId, Slot},
    policy::Policy,
    sockets::options,
    workers::{
        command::{Output, SpawnSpec, sample_command},
        discover::{Membership, Refusal, discover},
        limits::{Limit, Resource},
        process::Process,
        spawn::{SpawnError, spawn},
    },
};

use super::{
    actor::{Actor, Message},
    describe::describe,
    endpoint::Endpoint,
    endpoint_error::EndpointError,
    running::{ProbeState, Running},
    settings::{Mode, Readiness},
};

impl Actor {
    /// Starts a generation: its listeners, where they are the daemon's to make, and its process.
    pub(super) fn start(&mut self, generation: GenerationId, slot: Slot) -> Event {
        self.generations.insert(generation, Running::new(slot, self.settings.ready));
        match self.try_start(generation, slot) {
            Ok(pid) => Event::Started { generation, pid },
            Err(error) => {
                let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                Event::StartFailed { generation, why: format!("{}{hint}", describe(&error)) }
            }
        }
    }

    fn try_start(&mut self, generation: GenerationId, slot: Slot) -> Result<u32, StartError> {
        let settings = self.settings.clone();
        if settings.mode == Mode::Inherit {
            for endpoint in &mut self.endpoints {
                endpoint.make(slot)?;
                endpoint.name(slot, generation);
            }
            self.keep_anchors();
        }
        let name = settings.name.worker(generation.worker);
        let cell = self.make_cell(generation, slot);
        let command = match (&settings.command, settings.mode) {
            (Some(command), _) => Some(command.clone()),
            (None, Mode::Inherit) => None,
            (None, Mode::Own) => {
                let own: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.address).collect();
                Some(sample_command(&own, settings.sockets))
            }
        };
        let listeners = self
            .endpoints
            .iter()
            .filter_map(|endpoint| Some((endpoint.listener(slot)?.as_fd(), endpoint.address.to_string())))
            .collect();
        let output = if self.persistence.is_some() { Output::Shared } else { Output::Piped };
        let spec = SpawnSpec {
            name: name.clone(),
            generation: generation.number,
            command,
            user: self.user.clone(),
            directory: settings.directory.clone(),
            environment: self.environment_of(generation),
            limits: self.worker_limits(),
            listeners,
            load: cell.as_ref().map(|cell| cell.as_fd()),
            notify: Some(self.notify.path().to_owned()),
            output,
        };
        // Known to whoever goes on with the group before it does anything.
        let spawned = spawn(&spec, |process| self.save(Some((generation, process))))?;
        let process = spawned.process;
        if let Some(Err(error)) = spawned.output.map(|output| self.output.follow(&name, output)) {
            tracing::warn!("cannot pass on the output of {name}: {}", describe(&error));
        }
        self.watch(generation, process.clone());
        let pid = process.pid();
        if let Some(running) = self.generations.get_mut(&generation) {
            running.process = Some(process);
        }
        Ok(pid)
    }

    /// The variables that are configured, and those that say which QUIC connection IDs to make.
    fn environment_of(&self, generation: GenerationId) -> Vec<(String, String)> {
        let mut environment = self.settings.environment.clone();
        if let Policy::QuicCid(ids) = self.engine.policy() {
            environment.extend(ids.environment(Owner::new(generation.worker, generation.number)));
        }
        environment
    }

    /// Those that are configured, and for the rest what the daemon was started with.
    fn worker_limits(&self) -> Vec<(Resource, Limit)> {
        let configured = &self.settings.limits;
        let is_left = |(resource, _): &&(Resource, Limit)| !configured.iter().any(|(own, _)| own == resource);
        configured.iter().chain(self.limits.iter().filter(is_left)).copied().collect()
    }

    /// Makes the memory in which the worker can publish its load. Without it the worker is steered by what the kernel shows.
    fn make_cell(&mut self, generation: GenerationId, slot: Slot) -> Option<Arc<WorkerCell>> {
        let cell = match WorkerCell::create() {
            Ok(cell) => Arc::new(cell),
            Err(error) => {
                tracing::warn!("{generation:?} cannot publish its load: {}", describe(&error));
                return None;
            }
        };
        self.cells.put(slot, Some(cell.clone()));
        self.generations.get_mut(&generation)?.cell = Some(cell.clone());
        Some(cell)
    }

    /// Waits for the process in a task of its own.
    pub(super) fn watch(&self, generation: GenerationId, process: Process) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let exit = match process.wait().await {
                Ok(exit) => exit.to_string(),
                Err(error) => describe(&error),
            };
            // The group's task is gone only where the daemon ends.
            let _ = sender.send(Message::Exited { generation, exit });
        });
    }

    pub(super) fn process_exited(&mut self, generation: GenerationId, mut exit: String) {
        let owner = self.owner();
        if let Some(running) = self.generations.get_mut(&generation) {
            running.has_exited = true;
            let user = running.process.as_ref().and_then(Process::last_user);
            // The kernel has refused its bind with EADDRINUSE, of which the worker can only say that somebody listens.
            if let Some(user) = user.filter(|user| *user != owner)
                && self.settings.mode == Mode::Own
                && !running.is_ready
            {
                exit += &format!(
                    "; it ran as user {user}, whose sockets cannot join those of user {owner}: run it as user {owner}, \
                     or the group with --user {user}"
                );
            }
        }
        self.feed(Event::Exited { generation, exit });
    }

    /// A process has said that it is ready: it, or its parent, is a generation's.
    pub(super) fn told(&mut self, belongs_to: impl Fn(u32) -> bool) {
        let is_it =
            |running: &Running| running.process.as_ref().is_some_and(|process| belongs_to(process.pid()));
        let Some((&generation, running)) = self.generations.iter_mut().find(|(_, running)| is_it(running))
        else {
            return;
        };
        // Whoever says it over and over costs nothing more.
        if std::mem::replace(&mut running.has_told, true) {
            return;
        }
        self.save(None);
        self.ready_if_complete(generation);
    }

    /// Whether there is something to look for that tells of readiness: listeners of workers that bind them themselves,
    /// accepted probes.
    pub(super) fn looks_for_readiness(&self) -> bool {
        let starts = |running: &Running| {
            let is_looked_at =
                self.settings.mode == Mode::Own || matches!(running.probe, ProbeState::Connected { .. });
            is_looked_at && !running.is_ready && !running.has_exited
        };
        self.generations.values().any(starts)
    }

    /// Looks for it.
    pub(super) fn look_for_readiness(&mut self) {
        if self.settings.mode == Mode::Own {
            self.discover();
        }
        self.look_for_accepted_probes();
    }

    /// Looks for the listeners of workers that bind them themselves, and takes them in.
    fn discover(&mut self) {
        let starting: Vec<GenerationId> = self
            .generations
            .iter()
            .filter(|(_, running)| !running.is_ready && !running.has_exited)
            .map(|(&id, _)| id)
            .collect();
        for generation in starting {
            match self.discover_for(generation) {
                Ok(()) => self.ready_if_complete(generation),
                // The process may be between `socket` and `setsockopt`, or about to end: only what cannot change any
                // more is a refusal.
                Err(DiscoverError::Refused(Refusal::NotTaken { .. } | Refusal::NotListed { .. })) => {}
                Err(error) => {
                    let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
                    let why = format!("{}{hint}", describe(&error));
                    self.feed(Event::ListenerLost { generation, why });
                }
            }
        }
    }

    fn discover_for(&mut self, generation: GenerationId) -> Result<(), DiscoverError> {
        let Some(running) = self.generations.get(&generation) else { return Ok(()) };
        let (slot, Some(process)) = (running.slot, running.process.clone()) else { return Ok(()) };
        let owner_uid = self.owner();
        for endpoint in &mut self.endpoints {
            let v6_only = endpoint.any_member().and_then(|member| options::is_v6_only(member).ok());
            let membership = Membership { address: endpoint.address, owner_uid, v6_only };
            while !endpoint.is_complete(slot) {
                let known = endpoint.cookies();
                let found = discover(&mut self.diag, &membership, &process.tree(), &known)?;
                let Some(found) = found else { break };
                endpoint.put(slot, found.listener)?;
                endpoint.name(slot, generation);
            }
        }
        self.keep_anchors();
        Ok(())
    }

    /// What a worker that binds its sockets itself has not bound.
    pub(super) fn missing_sockets(&self, generation: GenerationId) -> Option<String> {
        let running = self.generations.get(&generation).filter(|_| self.settings.mode == Mode::Own)?;
        let wanting = self.endpoints.iter().filter(|endpoint| !endpoint.is_complete(running.slot));
        let missing = |endpoint: &Endpoint| {
            let found = endpoint.listeners(running.slot).count();
            format!("{found} of {} at {}", self.settings.sockets, endpoint.address)
        };
        let missing: Vec<String> = wanting.map(missing).collect();
        (!missing.is_empty()).then(|| format!("of the sockets to bind it had {}", missing.join(", ")))
    }

    /// The owner of the sockets of workers that bind them themselves.
    fn owner(&self) -> u32 {
        self.user.as_ref().map_or_else(effective_uid, |user| user.uid)
    }

    /// Tells the engine that a generation is ready, once it has a listener at every address and has said what it was
    /// to say.
    pub(super) fn ready_if_complete(&mut self, generation: GenerationId) {
        let Some(running) = self.generations.get_mut(&generation) else { return };
        let slot = running.slot;
        let has_told = running.has_told || running.ready == Readiness::Listener;
        let has_listeners = self.endpoints.iter().all(|endpoint| endpoint.is_complete(slot));
        if has_told && has_listeners && !running.is_ready {
            running.is_ready = true;
            // A worker that said so before it had accepted its probe: the connection is nobody's any more.
            running.probe = ProbeState::None;
            if self.engine.policy() == Policy::Cpu {
                self.look_at_cpus_for(|id| id == generation);
            }
            self.feed(Event::Ready { generation });
        }
    }
}

fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Listener(#[from] EndpointError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

impl StartError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Listener(error) => error.hint(),
            Self::Spawn(error) => error.hint().map(str::to_owned),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum DiscoverError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Put(#[from] EndpointError),
}

impl DiscoverError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => refusal.hint(),
            Self::Put(error) => error.hint(),
        }
    }
}
