//! Replays: a log of events, as a failing case prints it, told to the engine alone.

use std::collections::BTreeMap;

use crate::policy::Policy;

use super::{
    super::{
        drain::Limits,
        effect::{Effect, Failure, FailureKind, Signal},
        event::{Command, Event, GenerationId, Millis, Observation, OperationId, Slot},
        group::{Group, Rules},
        layout::Layout,
    },
    ledger::Ledger,
    script::SEED,
    watch::watch,
};

/// A group under replay.
pub(super) struct Replay {
    pub(super) group: Group,
    ledger: Ledger,
    now: Millis,
    operations: OperationId,
    /// Every effect so far, with its time.
    pub(super) effects: Vec<(Millis, Effect)>,
}

/// Rules for replays.
pub(super) fn rules(workers: u32) -> Rules {
    let limits = Limits { settle: 40, stop: 120 };
    Rules {
        seed: SEED,
        policy: Policy::Hash,
        slots: 32,
        workers,
        weights: BTreeMap::new(),
        replace: false,
        hold: true,
        adopts: false,
        hold_max: None,
        migrates: true,
        start: 30_000,
        drain: 400,
        limits,
    }
}

/// Tells a group of a whole log.
pub(super) fn replay(rules: Rules, log: &[(Millis, Event)]) -> Replay {
    let mut replay = Replay::new(rules);
    for (at, event) in log {
        replay.now = *at;
        replay.tell(event.clone());
    }
    replay
}

/// A generation's name.
pub(super) fn id(worker: u32, number: u64) -> GenerationId {
    GenerationId { worker, number }
}

impl Replay {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            group: Group::new(rules),
            ledger: Ledger::default(),
            now: 0,
            operations: 0,
            effects: Vec::new(),
        }
    }

    /// A group whose workers all work.
    pub(super) fn working(rules: Rules) -> Self {
        let workers = rules.workers;
        let mut replay = Self::new(rules);
        replay.tell(Event::Tick);
        replay.make_hold();
        replay.publish();
        for worker in 0..workers {
            replay.work(id(worker, 1));
        }
        replay
    }

    /// Tells of one event, a millisecond after the one before; what it made happen.
    pub(super) fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.now += 1;
        match watch(&mut self.group, &mut self.ledger, self.now, event.clone()) {
            Ok(effects) => {
                self.effects.extend(effects.iter().cloned().map(|effect| (self.now, effect)));
                effects
            }
            Err(broken) => panic!("{broken}\nat {} after {event:?}", self.now),
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Millis) -> Vec<Effect> {
        self.now += time;
        self.tell(Event::Tick)
    }

    pub(super) fn now(&self) -> Millis {
        self.now
    }

    pub(super) fn ask(&mut self, command: Command) -> OperationId {
        self.operations += 1;
        self.tell(Event::Command { operation: self.operations, command });
        self.operations
    }

    /// How an operation ended, where it has.
    pub(super) fn result(&self, wanted: OperationId) -> Option<Result<(), FailureKind>> {
        self.effects.iter().find_map(|(_, effect)| match effect {
            Effect::Finished { operation, result } if *operation == wanted => {
                Some(result.clone().map_err(|Failure { kind, .. }| kind))
            }
            _ => None,
        })
    }

    /// What was said to whoever asked for an operation that failed: what is wrong, and the way out.
    pub(super) fn failure(&self, wanted: OperationId) -> (String, String) {
        let failure = self.effects.iter().find_map(|(_, effect)| match effect {
            Effect::Finished { operation, result: Err(failure) } if *operation == wanted => Some(failure),
            _ => None,
        });
        let failure = failure.unwrap_or_else(|| panic!("operation {wanted} has not failed"));
        (failure.message.clone(), failure.hint.clone().unwrap_or_default())
    }

    /// The table that was given out last.
    pub(super) fn layout(&self) -> &Layout {
        let mut layouts = self.effects.iter().rev().filter_map(|(_, effect)| match effect {
            Effect::Publish(layout) => Some(layout),
            _ => None,
        });
        layouts.next().expect("a table was given out")
    }

    /// How many of that table's buckets name a slot.
    pub(super) fn buckets(&self, slot: Slot) -> usize {
        self.layout().buckets.iter().filter(|&&named| named == slot).count()
    }

    /// The slot that a generation was started with, where it was.
    pub(super) fn started(&self, wanted: GenerationId) -> Option<Slot> {
        self.effects.iter().find_map(|(_, effect)| match effect {
            Effect::Start { generation, slot } if *generation == wanted => Some(*slot),
            _ => None,
        })
    }

    pub(super) fn count(&self, wanted: &Effect) -> usize {
        self.effects.iter().filter(|(_, effect)| effect == wanted).count()
    }

    pub(super) fn make_hold(&mut self) {
        if let Some(slot) = self.group.hold.making {
            self.tell(Event::HoldMade { slot });
        }
    }

    /// The table in flight is published.
    pub(super) fn publish(&mut self) {
        if let Some(epoch) = self.group.publication.in_flight {
            self.tell(Event::Published { epoch });
        }
    }

    /// A generation that was started gets ready, and a table names it.
    pub(super) fn work(&mut self, generation: GenerationId) {
        self.tell(Event::Started { generation, pid: 1 });
        self.tell(Event::Ready { generation });
        self.make_hold();
        self.publish();
        let holds: Vec<Slot> = self.group.hold.retiring.iter().map(|retiring| retiring.slot).collect();
        for slot in holds {
            self.tell(Event::HoldShut { slot, moved: BTreeMap::new() });
        }
    }

    pub(super) fn exit(&mut self, generation: GenerationId) {
        self.tell(Event::Exited { generation, exit: "signal 9".into() });
    }

    /// Answers what a draining generation's drain asks, until it has ended with nothing left.
    pub(super) fn drain(&mut self, generation: GenerationId) {
        self.publish();
        for _ in 0..20 {
            let Some(drain) = self.group.drain_mut(generation) else { return };
            let first_instant = drain.first_instant;
            let observation = Observation::default();
            self.tell(Event::Observed { generation, first_instant, observation });
            if self.count(&Effect::Signal { generation, signal: Signal::Stop }) > 0 {
                self.exit(generation);
            }
            self.tell(Event::ListenerShut { generation, moved: BTreeMap::new() });
            self.pass(200);
        }
        panic!("the drain of {generation:?} does not end: {:?}", self.group.drain_mut(generation));
    }
}
