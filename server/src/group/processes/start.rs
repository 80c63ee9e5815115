//! Starts generations: a process is made, written down, let go, and watched.

use std::{os::fd::OwnedFd, sync::Arc};

use crate::{
    daemon::describe::describe,
    dataplane::cells::WorkerCell,
    engine::event::{GenerationId, Slot},
    group::message::{Astray, Message},
    sockets::procfs,
    workers::{
        cgroup::WorkersCgroup,
        command::{Output, SpawnSpec},
        limits::{Limit, Resource},
        placeholders::fill_in,
        process::{Exit, Process},
        spawn::{Forked, SpawnError, fork_worker},
    },
};

use super::{
    Processes,
    generation::{Generation, Launch},
};

/// What has come of a start.
#[derive(Debug)]
pub(crate) enum Started {
    /// Its program runs, in this process.
    Runs(u32),
    /// It could not be started; the reason.
    Failed(String),
}

/// How a process has ended, once that can be told.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: String,
    /// The user that it ran as in the end, where it had not become ready.
    pub(crate) user_before_ready: Option<u32>,
}

impl Processes {
    /// A generation is about to be started, with this slot for its listeners.
    pub(crate) fn begin(&mut self, id: GenerationId, slot: Slot) {
        self.generations.insert(id, Generation::new(slot, self.settings.ready, self.origin().serves()));
    }

    /// Makes the memory in which a worker can publish its load. Without it the worker is steered by what the kernel shows.
    pub(crate) fn make_cell(&mut self, id: GenerationId) -> Option<Arc<WorkerCell>> {
        let cell = match WorkerCell::create() {
            Ok(cell) => Arc::new(cell),
            Err(error) => {
                tracing::warn!("{id:?} cannot publish its load: {}", describe(&error));
                return None;
            }
        };
        self.generations.get_mut(&id)?.cell = Some(cell.clone());
        Some(cell)
    }

    /// Has a generation's process be made, on a thread: the task is told. What it is told at once is returned.
    pub(crate) fn fork(
        &mut self,
        id: GenerationId,
        command: Option<Vec<String>>,
        listeners: Vec<(OwnedFd, String)>,
        variables: Vec<(String, String)>,
    ) -> Option<Message> {
        use std::os::fd::AsFd as _;
        let failed =
            move |why: String| Message::Forked { generation: id, result: Err(SpawnError::Refused(why)) };
        let cell = self.generations.get(&id).and_then(|generation| generation.cell.clone());
        let load = match cell.map(|cell| cell.as_fd().try_clone_to_owned()).transpose() {
            Ok(load) => load,
            Err(error) => return Some(failed(format!("cannot duplicate a descriptor: {error}"))),
        };
        let settings = &self.settings;
        let name = settings.name.worker(id.worker);
        let fill_in = |text: &str| fill_in(text, &name, id.number);
        let environment = settings.environment.iter().map(|(key, value)| (key.clone(), fill_in(value)));
        let spec = SpawnSpec {
            generation: id.number,
            command: command.map(|words| words.iter().map(|word| fill_in(word)).collect()),
            user: self.user.clone(),
            directory: settings.directory.as_ref().map(|path| fill_in(&path.to_string_lossy()).into()),
            environment: environment.chain(variables).collect(),
            name: name.clone(),
            limits: self.worker_limits(),
            listeners,
            load,
            notify: Some(self.notify.clone()),
            output: if self.are_lasting { Output::Shared } else { Output::Piped },
            cgroup: self.cgroup.clone(),
        };
        let job = move || Message::Forked { generation: id, result: fork_worker(spec) };
        self.inbox.hand_in(&self.threads.spawning, failed, job)
    }

    /// Those that are configured, and for the rest what the daemon was started with.
    fn worker_limits(&self) -> Vec<(Resource, Limit)> {
        let configured = &self.settings.limits;
        let is_left = |(resource, _): &&(Resource, Limit)| !configured.iter().any(|(own, _)| own == resource);
        configured.iter().chain(self.limits.iter().filter(is_left)).copied().collect()
    }

    /// A process was made, or could not be. With one, a record has to name it before it is [let go](Self::let_go). One that is not wanted
    /// any more ends by itself.
    pub(crate) fn forked(
        &mut self,
        id: GenerationId,
        result: Result<Forked, SpawnError>,
    ) -> Option<Result<Process, String>> {
        let forked = match result {
            Ok(forked) => forked,
            Err(error) => return self.generations.contains_key(&id).then(|| Err(explain(&error))),
        };
        // Also one that nobody waits for any more: it is reaped.
        self.watch(id, forked.process.clone());
        let generation = self.generations.get_mut(&id)?;
        let process = forked.process.clone();
        generation.process = Some(process.clone());
        generation.launch = match generation.is_killed {
            // Dropped, it ends.
            true => Launch::Going { exit: None },
            false => Launch::Held(Box::new(forked)),
        };
        Some(Ok(process))
    }

    /// Lets a generation's process go to its program. The task is told what comes of that.
    pub(crate) fn let_go(&mut self, id: GenerationId) -> Option<Message> {
        let generation = self.generations.get_mut(&id)?;
        let going = Launch::Going { exit: None };
        let Launch::Held(forked) = std::mem::replace(&mut generation.launch, going) else { return None };
        let (output, start) = match forked.let_go() {
            Ok(gone) => gone,
            Err(failure) => return Some(Message::Executed { generation: id, failure: Some(failure) }),
        };
        let name = self.settings.name.worker(id.worker);
        if let Some(Err(error)) = output.map(|output| self.output.follow(&name, output)) {
            tracing::warn!("cannot pass on the output of {name}: {}", describe(&error));
        }
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let failure = start.outcome().await.err();
            inbox.send(Message::Executed { generation: id, failure }).await;
        });
        None
    }

    /// A generation's program runs, or could not be executed. Its process may have ended by now: then how, too.
    pub(crate) fn executed(
        &mut self,
        id: GenerationId,
        failure: Option<&SpawnError>,
    ) -> Option<(Started, Option<Result<Exit, String>>)> {
        let generation = self.generations.get_mut(&id)?;
        let Launch::Going { exit } = std::mem::replace(&mut generation.launch, Launch::Runs) else {
            return None;
        };
        if let Some(failure) = failure {
            // Its end is no event of its own.
            generation.has_exited = true;
            return Some((Started::Failed(explain(failure)), None));
        }
        let pid = generation.process.as_ref()?.pid();
        Some((Started::Runs(pid), exit))
    }

    /// Waits for a process in a task of its own, and has it reaped on a thread. The task is told.
    pub(crate) fn watch(&self, id: GenerationId, process: Process) {
        let (inbox, pool) = (self.inbox.clone(), self.threads.processes.clone());
        let (cgroup, pid, ending) = (self.cgroup.clone(), process.pid(), process.clone());
        let reap = move || {
            // Until it is reaped, a process that has ended is in its cgroup.
            let is_outside =
                |cgroup: &WorkersCgroup| procfs::cgroup_of(pid).is_some_and(|path| !cgroup.holds(&path));
            (cgroup.as_deref().is_some_and(is_outside), process.reap())
        };
        tokio::spawn(async move {
            let exit = match ending.ended().await {
                Ok(()) => pool.run(reap).await.map_err(|error| error.to_string()),
                Err(error) => Err(describe(&error)),
            };
            let exit = match exit {
                Ok((is_outside, reaped)) => {
                    if is_outside {
                        inbox.send(Message::Astray { generation: id, astray: Astray::OutOfCgroup }).await;
                    }
                    reaped.map_err(|error| describe(&error))
                }
                Err(why) => Err(why),
            };
            inbox.send(Message::Exited { generation: id, exit }).await;
        });
    }

    /// A generation's process has ended. Nothing is to be told yet where it was on its way to its program.
    pub(crate) fn exited(&mut self, id: GenerationId, exit: Result<Exit, String>) -> Option<Ended> {
        let generation = self.generations.get_mut(&id)?;
        match &mut generation.launch {
            // It was killed before it was let go.
            Launch::Going { exit: told } if !generation.is_killed => {
                *told = Some(exit);
                return None;
            }
            launch => *launch = Launch::Runs,
        }
        // What could not be executed has been told of.
        if std::mem::replace(&mut generation.has_exited, true) {
            return None;
        }
        let user = generation.process.as_ref().and_then(Process::last_user);
        Some(Ended {
            exit: exit.map_or_else(|why| why, |exit| exit.to_string()),
            user_before_ready: user.filter(|_| !generation.is_ready),
        })
    }
}

/// Why a worker could not be started, with the way out.
fn explain(error: &SpawnError) -> String {
    let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
    format!("{}{hint}", describe(error))
}
