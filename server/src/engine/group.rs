//! The group: its state, and the one function that everything goes through.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use server_common::flow_hash::Seed;

use crate::policy::{Policy, WEIGHT_DEFAULT};

use super::{
    drain::Limits,
    effect::{AboutProcess, Effect, Note},
    event::{Event, GenerationId, Millis, OperationId},
    hold::Hold,
    operation::Operation,
    probe::Probing,
    publication::Publication,
    slots::Slots,
    worker::{Generation, Phase, Worker},
};

/// What the engine needs to know of a group's settings; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The seed of the program's hash.
    pub seed: Seed,
    /// The policy at the start.
    pub policy: Policy,
    /// How many slots there are.
    pub slots: u32,
    /// How many workers there are at the start.
    pub workers: u32,
    /// The weights of workers that come, by index; [`WEIGHT_DEFAULT`] where nothing is said.
    pub weights: BTreeMap<u32, u32>,
    /// Whether a restart stops the old generation first.
    pub replace: bool,
    /// Whether connections are held while no worker works; otherwise they are refused.
    pub hold: bool,
    /// Whether the kernel migrates what a stopped listener holds (Linux 5.14); otherwise it resets that.
    pub migrates: bool,
    /// Whether somebody else starts the group's server: its listeners come and go by themselves, and its processes are told nothing.
    #[serde(default)]
    pub adopts: bool,
    /// How long connections are held at most while no worker works; for as long as that is where it is `None`.
    #[serde(default)]
    pub hold_max: Option<Millis>,
    /// From start to ready.
    pub start: Millis,
    /// From a drain's begin to its deadline, where a command says nothing else.
    pub drain: Millis,
    /// The parts of a drain.
    pub limits: Limits,
}

impl Rules {
    /// The weight of a worker that comes.
    pub fn weight(&self, index: u32) -> u32 {
        self.weights.get(&index).copied().unwrap_or(WEIGHT_DEFAULT)
    }
}

/// When something is to be done by itself, or earlier: a [`Event::Tick`] that comes too early changes nothing. So two groups do not
/// differ by it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Alarm(pub(super) Option<Millis>);

impl PartialEq for Alarm {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Alarm {}

impl Alarm {
    /// Whether something is to be done by now.
    pub(super) fn is_due(self, now: Millis) -> bool {
        self.0.is_some_and(|at| at <= now)
    }

    /// Has it come no later than at this time.
    pub(super) fn bring_forward(&mut self, at: Option<Millis>) {
        self.0 = self.0.into_iter().chain(at).min();
    }
}

/// One group. See [`handle`](Self::handle).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub(super) rules: Rules,
    pub(super) policy: Policy,
    pub(super) workers: BTreeMap<u32, Worker>,
    /// The last generation's number of each worker that has left: should it come again, it counts on from there, so that a late
    /// event of one of its former generations is nobody's.
    pub(super) left_at: BTreeMap<u32, u64>,
    /// Not saved: the free ones are those that nobody has.
    #[serde(skip)]
    pub(super) slots: Slots,
    pub(super) hold: Hold,
    pub(super) publication: Publication,
    /// Not saved: a probe's connection ends with the daemon that made it.
    #[serde(skip)]
    pub(super) probing: Probing,
    pub(super) operations: BTreeMap<OperationId, Operation>,
    /// The name of the newest operation: they rise.
    pub(super) last_operation: OperationId,
    /// Whether the group is on its way to its end: connections are refused once no worker works.
    pub(super) stopping: bool,
    /// Worked out from the rest.
    #[serde(skip)]
    pub(super) alarm: Alarm,
    #[serde(skip)]
    pub(super) effects: Vec<Effect>,
}

impl Group {
    /// A group before its first event. The first [`Event::Tick`] makes its holding listener and starts its
    /// workers.
    pub fn new(rules: Rules) -> Self {
        let workers = if rules.adopts { 0 } else { rules.workers };
        Self {
            workers: (0..workers).map(|index| (index, Worker::new(rules.weight(index)))).collect(),
            left_at: BTreeMap::new(),
            slots: Slots::new(rules.slots),
            hold: Hold::default(),
            publication: Publication::new(),
            probing: Probing::default(),
            operations: BTreeMap::new(),
            last_operation: 0,
            stopping: false,
            alarm: Alarm::default(),
            effects: Vec::new(),
            policy: rules.policy,
            rules,
        }
    }

    /// Takes in one event at one time and returns what is to be done, in order.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        match event {
            Event::Command { operation, command } => self.command(now, operation, command),
            Event::HoldMade { slot } => self.hold_made(slot),
            Event::HoldFailed { slot, why } => self.hold_failed(now, slot, why),
            Event::HoldLost { slot } => self.hold_lost(slot),
            Event::HoldShut { slot, moved } => self.hold_shut(slot, &moved),
            Event::Pinned { generation, cpus } => self.pinned(generation, cpus),
            Event::Came { worker } => self.came(now, worker),
            Event::Left { generation, why } => self.left(now, generation, why),
            Event::Expected { is_coming } => self.hold.expected(now, is_coming),
            Event::HoldOccupied => self.hold.is_used = true,
            Event::Started { generation, pid } => self.started(generation, pid),
            Event::StartFailed { generation, why } => self.start_failed(now, generation, why),
            Event::ProbeWanted { generation, hash } => self.probe_wanted(generation, hash),
            Event::ProbeEnded { generation } => self.probe_ended(generation),
            Event::Ready { generation } => self.ready(now, generation),
            Event::Exited { generation, exit } => self.exited(now, generation, exit),
            Event::Published { epoch } => self.published(now, epoch),
            Event::PublishFailed { epoch, why } => self.publish_failed(now, epoch, why),
            Event::Observed { generation, first_instant, observation } => {
                if self.observed(now, generation, first_instant, observation) {
                    return std::mem::take(&mut self.effects);
                }
            }
            Event::ListenerLost { generation, why } => self.listener_lost(now, generation, why),
            Event::ListenerShut { generation, moved } => self.listener_shut(generation, &moved),
            Event::Tick => {}
        }
        self.settle(now);
        std::mem::take(&mut self.effects)
    }

    /// Brings everything forward that time or the event has made possible.
    fn settle(&mut self, now: Millis) {
        self.step_ramps(now);
        self.step_canaries(now);
        self.step_hold_end(now);
        self.step_hold(now);
        self.step_vacancies(now);
        self.step_lifecycles(now);
        self.step_drains(now);
        self.step_operations(now);
        // Operations start and drain workers, which may be able to go on at once.
        self.step_lifecycles(now);
        self.step_hold(now);
        self.step_probing();
        self.publish_if_due(now);
        self.step_drains(now);
        self.set_alarm(now);
    }

    /// Works out when something is to be done by itself.
    pub(super) fn set_alarm(&mut self, now: Millis) {
        let wakes_at = self
            .lifecycles_wake_at(now)
            .into_iter()
            .chain(self.hold.retry_at)
            .chain(self.hold_ends_at())
            .chain(self.vacancies_wake_at())
            .chain(self.publication_wakes_at())
            .chain(self.ramps_wake_at())
            .min();
        self.alarm = Alarm(wakes_at);
    }

    /// When the group wants a [`Event::Tick`], should nothing else happen before; `now` where that is over.
    pub fn wakes_at(&self, now: Millis) -> Option<Millis> {
        self.alarm.0.map(|at| at.max(now))
    }

    /// Whether a stop has come to its end: no generation is left.
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.workers.is_empty() && self.operations.is_empty()
    }

    pub(super) fn generation(&self, id: GenerationId) -> Option<&Generation> {
        self.workers.get(&id.worker)?.generations.get(&id.number)
    }

    pub(super) fn generation_mut(&mut self, id: GenerationId) -> Option<&mut Generation> {
        self.workers.get_mut(&id.worker)?.generations.get_mut(&id.number)
    }

    pub(super) fn note(
        &mut self,
        kind: &'static str,
        generation: Option<GenerationId>,
        detail: impl Into<String>,
    ) {
        let process = generation.map(|id| self.about_process(id)).unwrap_or_default();
        self.effects.push(Effect::Note(Note { kind, generation, process, detail: detail.into() }));
    }

    fn about_process(&self, id: GenerationId) -> AboutProcess {
        let Some(generation) = self.generation(id) else { return AboutProcess::default() };
        let was_told = matches!(&generation.phase, Phase::Draining(drain) if drain.stop_sent.is_some());
        AboutProcess { pid: generation.pid, exit: generation.exit.clone(), was_told }
    }
}
