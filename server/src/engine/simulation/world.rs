//! The simulated world: time, what is about to happen, and the engine in the middle of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::group::runtime::{Host, Recording, Runtime};

use super::{
    super::{
        effect::Effect,
        event::{Decision, Event, GenerationId, Millis, OperationId},
        group::Group,
        layout::Layout,
    },
    entropy::Entropy,
    flows::Flow,
    kernel::{ConnectionId, Kernel, ListenerId},
    ledger::{Checked, Ledger},
    notifications::Notifications,
    process::Process,
    script::{Action, Fate, Script},
    tally::Tally,
    watch::{check_changes_nothing, watch},
};

/// How long the world lives on without faults, for everything to come to its end: longer than the longest back-off, than any
/// drain's deadline and than anybody's patience.
const CALM: Millis = 120_000;

/// How many happenings no case needs: more are a livelock.
const HAPPENINGS_MAX: usize = 400_000;

/// Something that is about to happen.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// The engine is told.
    Tell(Event),
    /// A script's action.
    Act(Action),
    /// The kernel reads another table from now on, and the older one until the grace period is over.
    Swap(Layout),
    /// A client's SYN, and whether another follows.
    Arrive {
        again: bool,
    },
    /// A client's ACK.
    Establish(ConnectionId),
    /// A listener's process has time for its queue.
    Accept(ListenerId),
    /// A client of a flow sends a datagram.
    Datagram(usize),
    /// A client has what it wanted.
    Close(ConnectionId),
    /// A record of this number is written.
    Recorded(u64),
    /// The daemon reads what is at the head of its notification socket's queue.
    Peek,
    /// A process is made, goes to its program, is ready, has a fault, ends.
    Fork(GenerationId),
    Launch(GenerationId),
    Ready(GenerationId),
    Fault(GenerationId),
    End(GenerationId, String),
    /// The daemon carries out an effect that takes time.
    MakeHold(u16),
    ShutHold(u16),
    ShutListener(GenerationId),
    Observe(GenerationId, Option<Millis>),
    /// The daemon looks whether the holding listener holds something.
    LookAtHold,
}

/// What the runtime wants done, in order.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    wanted: VecDeque<Wish>,
}

#[derive(Debug)]
enum Wish {
    Effect(Box<Effect>),
    LetGo(GenerationId),
    Acknowledge(GenerationId),
    Record(u64, Arc<Group>),
}

impl Host for Wishes {
    /// The generation whose notification is acknowledged.
    type Acknowledgement = GenerationId;

    fn acknowledge(&mut self, generation: GenerationId) {
        self.wanted.push_back(Wish::Acknowledge(generation));
    }

    fn execute(&mut self, _: &Group, effect: Effect) {
        self.wanted.push_back(Wish::Effect(Box::new(effect)));
    }

    fn let_go(&mut self, generation: GenerationId) {
        self.wanted.push_back(Wish::LetGo(generation));
    }

    fn record(&mut self, number: u64, engine: &Arc<Group>) -> Recording {
        self.wanted.push_back(Wish::Record(number, engine.clone()));
        Recording::UnderWay
    }

    fn publish(&mut self, _: &Arc<Group>) {}
}

pub(super) struct World {
    pub(super) now: Millis,
    pub(super) runtime: Runtime<Wishes>,
    pub(super) kernel: Kernel,
    pub(super) ledger: Ledger,
    /// What the next daemon goes on from, with the books as they were then: the last record that is written.
    pub(super) recorded: (Arc<Group>, Ledger),
    /// The record that is being written, with its number.
    pub(super) recording: Option<(u64, Arc<Group>, Ledger)>,
    pub(super) entropy: Entropy,
    pub(super) own: bool,
    pub(super) fates: Vec<Fate>,
    pub(super) processes: BTreeMap<GenerationId, Process>,
    pub(super) notifications: Notifications,
    /// Who was to start while no other process of its worker runs. A start that is decided under `surge` is carried out all the same
    /// where a reload comes between that says `replace`.
    pub(super) alone: BTreeSet<GenerationId>,
    pub(super) flows: Vec<Flow>,
    pub(super) operations: OperationId,
    pub(super) tally: Tally,
    pub(super) log: Vec<(Millis, Event)>,
    pub(super) clients_come: bool,
    /// Whether the daemon has the holding listener in view.
    pub(super) looks_at_hold: bool,
    /// The daemon dies at what it wants next, after so much of it.
    pub(super) dies_after: Option<usize>,
    pub(super) agenda: BTreeMap<(Millis, usize), Happening>,
    sequence: usize,
}

/// Plays a case to its end.
pub(super) fn play(script: &Script) -> Result<Tally, String> {
    let mut world = World::new(script);
    world.play().map(|()| world.tally.clone()).map_err(|broken| {
        let log: Vec<String> =
            world.log.iter().map(|(at, event)| format!("    ({at}, Event::{event:?}),")).collect();
        format!("{broken}\nat {} of this log, under {:?}:\n{}", world.now, script.rules, log.join("\n"))
    })
}

impl World {
    fn new(script: &Script) -> Self {
        let group = Group::new(script.rules.clone());
        let mut world = Self {
            now: 0,
            recorded: (Arc::new(group.clone()), Ledger::default()),
            recording: None,
            runtime: Runtime::new(group, Wishes::default()),
            kernel: Kernel::default(),
            ledger: Ledger::default(),
            entropy: Entropy::new(script.bytes.clone()),
            own: script.own,
            fates: script.fates.clone(),
            processes: BTreeMap::new(),
            notifications: Notifications::default(),
            alone: BTreeSet::new(),
            flows: Vec::new(),
            operations: 0,
            tally: Tally::default(),
            log: Vec::new(),
            clients_come: true,
            looks_at_hold: false,
            dies_after: None,
            agenda: BTreeMap::new(),
            sequence: 0,
        };
        world.plan(0, Happening::Tell(Event::Tick));
        world.plan(1, Happening::Arrive { again: true });
        let mut at = 0;
        for (pause, action) in &script.actions {
            at += pause;
            world.plan(at, Happening::Act(action.clone()));
        }
        world
    }

    /// Plans something for so many milliseconds from now.
    pub(super) fn plan(&mut self, delay: Millis, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + delay, self.sequence), happening);
    }

    pub(super) fn plan_soon(&mut self, happening: Happening) {
        let delay = self.entropy.delay();
        self.plan(delay, happening);
    }

    fn play(&mut self) -> Checked {
        let last_act = self.agenda.keys().map(|&(at, _)| at).max().unwrap_or(0);
        self.run_until(last_act)?;
        // Canaries that wait for a decision get it.
        for turn in 0..6 {
            self.plan(8_000 * turn, Happening::Act(Action::Decide(Decision::Proceed)));
        }
        self.entropy.is_calm = true;
        self.run_until(last_act + CALM / 2)?;
        self.clients_come = false;
        self.run_until(last_act + CALM)?;
        self.check_end()
    }

    fn run_until(&mut self, end: Millis) -> Checked {
        for _ in 0..HAPPENINGS_MAX {
            let planned = self.agenda.keys().next().copied();
            let jitter = self.entropy.below(3) as Millis;
            let tick = self.group().wakes_at(self.now).map(|at| at.max(self.now) + jitter);
            let planned_at = planned.map_or(Millis::MAX, |(at, _)| at);
            let next = tick.unwrap_or(Millis::MAX).min(planned_at);
            if next > end {
                self.now = end;
                return Ok(());
            }
            self.now = next;
            match planned.filter(|_| planned_at <= next) {
                Some(key) => match self.agenda.remove(&key) {
                    Some(happening) => self.happen(happening)?,
                    None => unreachable!("its key was just read"),
                },
                None => self.tell(Event::Tick)?,
            }
        }
        Err(format!("a livelock: {HAPPENINGS_MAX} happenings until {}", self.now))
    }

    /// The engine.
    pub(super) fn group(&self) -> &Group {
        self.runtime.engine()
    }

    /// Tells the runtime of an event, checks what its engine makes of it, and sets out to do what it wants.
    pub(super) fn tell(&mut self, event: Event) -> Checked {
        self.take_in(event)?;
        self.settle()
    }

    /// The same, without what comes of it yet.
    pub(super) fn take_in(&mut self, event: Event) -> Checked {
        self.log.push((self.now, event.clone()));
        let now = self.now;
        let mut engine = self.group().clone();
        let effects = watch(&mut engine, &mut self.ledger, now, event.clone())?;
        if engine.rules.replace {
            self.alone.extend(effects.iter().filter_map(|effect| match effect {
                Effect::Start { generation, .. } => Some(*generation),
                _ => None,
            }));
        }
        self.runtime.take_in(now, event);
        if *self.group() != engine {
            return Err("the runtime tells its engine of something else".into());
        }
        Ok(())
    }

    /// Has the runtime go on, and does what it wants.
    pub(super) fn settle(&mut self) -> Checked {
        self.runtime.settle();
        while let Some(wish) = self.runtime.host_mut().wanted.pop_front() {
            match &mut self.dies_after {
                Some(0) => return self.succeed(),
                Some(left) => *left -= 1,
                None => {}
            }
            match wish {
                Wish::Record(number, snapshot) => {
                    self.tally.records += 1;
                    self.recording = Some((number, snapshot, self.ledger.clone()));
                    self.plan_soon(Happening::Recorded(number));
                }
                Wish::LetGo(id) => {
                    self.check_recorded(id)?;
                    self.plan_soon(Happening::Launch(id));
                }
                Wish::Acknowledge(id) => self.acknowledged(id)?,
                Wish::Effect(effect) => {
                    if let Effect::Start { generation, .. } = *effect {
                        self.check_recorded(generation)?;
                    }
                    self.carry_out(*effect)?;
                }
            }
        }
        Ok(())
    }

    /// A process that no record names would be nobody's after the daemon's death. One that is forgotten already ends by itself.
    fn check_recorded(&self, id: GenerationId) -> Checked {
        let names = |group: &Group| group.generations().iter().any(|(named, ..)| *named == id);
        match names(&self.recorded.0) || !names(self.group()) {
            true => Ok(()),
            false => Err(format!("{id:?} is started before a record names it")),
        }
    }

    /// A record is written: what was decided before it may be done.
    pub(super) fn record_written(&mut self, number: u64) -> Checked {
        if let Some((_, snapshot, ledger)) = self.recording.take_if(|(under_way, ..)| *under_way == number) {
            self.recorded = (snapshot, ledger);
        }
        self.runtime.recorded(number);
        self.settle()
    }

    /// Takes an event that comes too late, or once more.
    pub(super) fn tell_stale(&mut self, event: Event) -> Checked {
        self.tell(Event::Tick)?;
        // A successor that has not heard of a command is asked by others: nobody asks once more for those before it.
        if matches!(event, Event::Command { operation, .. } if operation > self.group().last_operation) {
            return Ok(());
        }
        check_changes_nothing(self.group(), self.now, &event)
    }
}
