//! The processes of a group's generations: how they start, become ready, show their load, and end.

mod adopted;
mod ending;
mod generation;
mod loads;
mod origin;
mod pinning;
mod probe;
mod readiness;
mod stall;
mod start;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use crate::{
    daemon::settings::GroupSettings,
    dataplane::cells::WorkerCell,
    engine::event::{GenerationId, Slot},
    sockets::processes::Processes as AllProcesses,
    threads::Threads,
    workers::{
        cgroup::WorkersCgroup,
        limits::{Limit, Resource},
        output::OutputSink,
        process::Process,
        user::ResolvedUser,
    },
};

use super::{
    message::Inbox,
    observer::Subject,
    record::{Saved, SavedProcess},
};

use self::generation::{Generation, Launch};
pub(crate) use self::{
    ending::LEFT_BEHIND,
    loads::Judgement,
    origin::{Origin, Serves},
    probe::target as probe_target,
    readiness::Sign,
    stall::QueueSample,
    start::{Ended, Started},
};

/// The processes of a group.
#[derive(Debug)]
pub(crate) struct Processes {
    settings: Arc<GroupSettings>,
    /// Whom the workers run as, where that is not the daemon's user.
    user: Option<ResolvedUser>,
    /// The limits that workers have where nothing is configured.
    limits: Vec<(Resource, Limit)>,
    /// Where workers say that they are ready.
    notify: PathBuf,
    output: OutputSink,
    /// Whether they outlive the daemon.
    are_lasting: bool,
    /// Where they start, where that is not the daemon's own.
    cgroup: Option<Arc<WorkersCgroup>>,
    generations: BTreeMap<GenerationId, Generation>,
    threads: Threads,
    inbox: Inbox,
}

/// What processes are started with that is the daemon's.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) user: Option<ResolvedUser>,
    pub(crate) limits: Vec<(Resource, Limit)>,
    pub(crate) notify: PathBuf,
    pub(crate) output: OutputSink,
    pub(crate) are_lasting: bool,
    pub(crate) cgroup: Option<Arc<WorkersCgroup>>,
    pub(crate) threads: Threads,
    pub(crate) inbox: Inbox,
}

/// A generation, as others see it.
#[derive(Debug, Clone)]
pub(crate) struct GenerationView {
    pub(crate) slot: Slot,
    pub(crate) process: Option<Process>,
    pub(crate) is_stalled: bool,
    /// Where it can say how loaded it is.
    pub(crate) cell: Option<Arc<WorkerCell>>,
}

impl Processes {
    pub(crate) fn new(settings: Arc<GroupSettings>, means: Means) -> Self {
        let Means { user, limits, notify, output, are_lasting, cgroup, threads, inbox } = means;
        let generations = BTreeMap::new();
        Self { settings, user, limits, notify, output, are_lasting, cgroup, generations, threads, inbox }
    }

    /// Has later generations be as other settings say, run as another user.
    pub(crate) fn reconfigure(&mut self, settings: Arc<GroupSettings>, user: Option<ResolvedUser>) {
        (self.settings, self.user) = (settings, user);
    }

    /// Where generations come from.
    pub(crate) fn origin(&self) -> Origin {
        Origin::of(&self.settings)
    }

    /// The owner of the sockets of workers that bind them themselves.
    pub(crate) fn owner(&self) -> u32 {
        self.user.as_ref().map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid)
    }

    /// The slot of a generation.
    pub(crate) fn slot(&self, id: GenerationId) -> Option<Slot> {
        Some(self.generations.get(&id)?.slot)
    }

    /// Whose slot each is.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (Slot, GenerationId)> {
        self.generations.iter().map(|(&id, generation)| (generation.slot, id))
    }

    /// A generation's process, once there is one.
    pub(crate) fn process(&self, id: GenerationId) -> Option<&Process> {
        self.generations.get(&id)?.process.as_ref()
    }

    /// What is known of a generation's connections.
    pub(crate) fn subject(&self, id: GenerationId) -> Option<Arc<Mutex<Subject>>> {
        Some(self.generations.get(&id)?.subject.clone())
    }

    /// The generations' processes, those that have ended too.
    pub(crate) fn all(&self) -> impl Iterator<Item = (GenerationId, &Process)> {
        self.generations.iter().filter_map(|(&id, generation)| Some((id, generation.process.as_ref()?)))
    }

    /// How many processes run.
    pub(crate) fn running(&self) -> usize {
        self.generations.values().filter(|generation| generation.runs()).count()
    }

    /// As others see them.
    pub(crate) fn views(&self) -> BTreeMap<GenerationId, GenerationView> {
        let view = |generation: &Generation| GenerationView {
            slot: generation.slot,
            process: generation.process.clone(),
            is_stalled: generation.is_stalled,
            cell: generation.cell.clone(),
        };
        self.generations.iter().map(|(&id, generation)| (id, view(generation))).collect()
    }

    /// What the next daemon has to know.
    pub(crate) fn saved(&self) -> Vec<SavedProcess> {
        let runs = self.generations.iter().filter(|(_, generation)| !generation.has_exited);
        runs.filter_map(|(&generation, state)| {
            let process = state.process.as_ref()?;
            Some(SavedProcess {
                generation,
                pid: process.pid(),
                start_time: process.start_time(),
                has_told: state.has_told,
            })
        })
        .collect()
    }

    /// Finds a generation of an earlier daemon again; `is_ready` is what its engine knew.
    pub(crate) fn find_again(&mut self, id: GenerationId, slot: Slot, is_ready: bool, saved: &Saved) {
        let mut generation = Generation::new(slot, self.settings.ready, self.origin().serves());
        generation.is_ready = is_ready;
        generation.launch = Launch::Runs;
        let process = saved.processes.iter().find(|process| process.generation == id);
        if let Some(SavedProcess { pid, start_time, has_told, .. }) = process {
            generation.has_told = *has_told;
            // One that is gone, or whose number is another's by now, has ended.
            generation.process = Process::open(*pid, Some(*start_time)).ok();
        }
        let lives = |process: &Process| process.unreaped().is_none();
        let is_adopted = self.origin() == Origin::Adopt;
        generation.has_exited = !is_adopted && !generation.process.as_ref().is_some_and(lives);
        self.generations.insert(id, generation);
    }

    /// The living processes of a generation, among those of one look.
    pub(crate) fn tree_among(&self, id: GenerationId, all: &AllProcesses) -> Vec<u32> {
        self.process(id).map(|process| process.tree_among(all)).unwrap_or_default()
    }

    /// Forgets a generation; the cell it had.
    pub(crate) fn forget(&mut self, id: GenerationId) -> Option<Arc<WorkerCell>> {
        self.generations.remove(&id)?.cell
    }
}
