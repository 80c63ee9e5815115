//! What an event costs the engine in a large group, from the first start to the last receipt: printed, and compared with a group
//! of an eighth of the workers: it must not cost more than in proportion.
//!
//! Not among the engine's own tests, where no clock has a place. Only a release build's figures say something:
//! `cargo test --release -p steer --test engine_pace -- --nocapture`.

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use server_common::{
    limits::{WORKERS_MAX, slots},
    table::Table,
};
use steer::{
    engine::{
        drain::Limits,
        effect::{Effect, Outcome},
        event::{Command, Event, GenerationId, Millis, Moved, Observation, OperationId},
        group::{Group, Rules},
        layout::Layout,
        view::State,
    },
    policy::Policy,
};

/// How long this thread has run: what else runs on the host is not in it.
fn busy() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long something takes.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = busy();
    let result = work();
    (result, busy() - begun)
}

/// A group and a world in which everything goes well: each effect is answered a millisecond later.
struct World {
    group: Group,
    now: Millis,
    answers: Vec<Event>,
    operations: OperationId,
    finished: BTreeMap<OperationId, bool>,
    /// Until when each listener that is looked at has a connection.
    connected_until: Millis,
    outcomes: Vec<Outcome>,
    layout: Option<Layout>,
    /// By kind of event, how many there were, and how long the engine took for them in all and at most.
    costs: BTreeMap<String, (u32, Duration, Duration)>,
}

impl World {
    fn new(workers: u32) -> Self {
        let rules = Rules {
            seed: [1, 2],
            policy: Policy::Hash,
            slots: slots(workers),
            workers,
            weights: BTreeMap::new(),
            replace: false,
            hold: true,
            adopts: false,
            hold_max: None,
            migrates: true,
            start: 30_000,
            drain: 60_000,
            limits: Limits { settle: 1_000, stop: 10_000 },
        };
        Self {
            group: Group::new(rules),
            now: 0,
            answers: Vec::new(),
            operations: 0,
            finished: BTreeMap::new(),
            connected_until: 0,
            outcomes: Vec::new(),
            layout: None,
            costs: BTreeMap::new(),
        }
    }

    /// Tells the engine of an event, and asks when it wants the next, as the daemon does.
    fn tell(&mut self, event: Event) -> Option<Millis> {
        let debug = format!("{event:?}");
        let kind = debug.split([' ', '(']).next().unwrap_or_default().to_owned();
        let now = self.now;
        let ((effects, wakes_at), took) = timed(|| (self.group.handle(now, event), self.group.wakes_at(now)));
        let (count, sum, most) = self.costs.entry(kind).or_default();
        (*count, *sum, *most) = (*count + 1, *sum + took, took.max(*most));
        for effect in effects {
            self.answer(effect);
        }
        wakes_at
    }

    fn answer(&mut self, effect: Effect) {
        match effect {
            Effect::MakeHold { slot } => self.answers.push(Event::HoldMade { slot }),
            Effect::ShutHold { slot } => self.answers.push(Event::HoldShut { slot, moved: Moved::new() }),
            Effect::Start { generation, .. } => {
                self.answers.push(Event::Started { generation, pid: 1 });
                self.answers.push(Event::Ready { generation });
            }
            Effect::Publish(layout) => {
                self.answers.push(Event::Published { epoch: layout.epoch });
                self.layout = Some(layout);
            }
            Effect::Observe { generation, first_instant } => self.answers.push(Event::Observed {
                generation,
                first_instant,
                observation: Observation {
                    connections: u64::from(self.now < self.connected_until),
                    ..Observation::default()
                },
            }),
            Effect::Signal { generation, .. } => {
                self.answers.push(Event::Exited { generation, exit: "exit status 0".into() });
            }
            Effect::ShutListener { generation, .. } => {
                // What it held went to many.
                let slots = self.group.serving().into_iter().map(|(_, slot)| slot);
                let moved = slots.filter(|slot| slot % 4 == 0).map(|slot| (slot, 1)).collect();
                self.answers.push(Event::ListenerShut { generation, moved });
            }
            Effect::Receipt { receipt, .. } => self.outcomes.push(receipt.outcome),
            Effect::Finished { operation, result } => {
                self.finished.insert(operation, result.is_ok());
            }
            Effect::Probe { .. } | Effect::Forget { .. } | Effect::Note(_) => {}
        }
    }

    /// Goes on until nothing is left to be done, and every worker works.
    fn settle(&mut self) {
        let mut wakes_at = self.tell(Event::Tick);
        loop {
            let answers = std::mem::take(&mut self.answers);
            self.now += 1;
            if answers.is_empty() {
                let Some(at) = wakes_at else { break };
                self.now = self.now.max(at);
                wakes_at = self.tell(Event::Tick);
            }
            for event in answers {
                wakes_at = self.tell(event);
            }
        }
        assert!(self.group.states().all(|state| state == State::Working));
    }

    fn ask(&mut self, command: Command) {
        self.operations += 1;
        let operation = self.operations;
        self.tell(Event::Command { operation, command });
        self.settle();
        assert_eq!(self.finished.get(&operation), Some(&true));
    }

    /// What one part of the test cost for each event, printed.
    fn take_cost(&mut self, workers: u32, part: &'static str) -> (&'static str, Duration) {
        let costs = std::mem::take(&mut self.costs);
        let (count, sum) =
            costs.values().fold((0, Duration::ZERO), |(n, sum), cost| (n + cost.0, sum + cost.1));
        println!("{workers} workers, {part}: {count} events, {:?} each", sum / count.max(1));
        for (kind, (count, sum, most)) in costs {
            println!("    {kind:>13} {count:>6} {:>10.1?} at most {most:>9.1?}", sum / count);
        }
        (part, sum / count.max(1))
    }
}

/// Everything that happens in a group's life, and what each part costs for each event.
fn live(workers: u32) -> Vec<(&'static str, Duration)> {
    let mut world = World::new(workers);
    let mut costs = Vec::new();
    world.settle();
    costs.push(world.take_cost(workers, "start"));
    world.ask(Command::Restart { worker: None, timeout: None, canary: None });
    let handed_over = std::mem::take(&mut world.outcomes);
    assert_eq!(handed_over, vec![Outcome::Drained; workers as usize]);
    costs.push(world.take_cost(workers, "restart of all"));
    let working = world.group.serving();
    for (generation, _) in working {
        world.answers.push(Event::Exited { generation, exit: "signal 9".into() });
    }
    world.settle();
    assert_eq!(std::mem::take(&mut world.outcomes), vec![Outcome::Lost; workers as usize]);
    costs.push(world.take_cost(workers, "death of all"));
    for count in [workers / 2, workers] {
        world.ask(Command::Scale { workers: count, timeout: None });
    }
    assert_eq!(world.outcomes, vec![Outcome::Drained; workers as usize / 2]);
    costs.push(world.take_cost(workers, "scale to a half and back"));
    // Whose connections last: as many looks as there are drains, again and again.
    world.connected_until = world.now + 3_000;
    world.ask(Command::Scale { workers: 2, timeout: None });
    costs.push(world.take_cost(workers, "drains of all but two"));
    world.ask(Command::Scale { workers, timeout: None });
    world.costs.clear();
    costs.extend(look(&world));
    costs
}

/// What others ask the engine in between.
fn look(world: &World) -> Vec<(&'static str, Duration)> {
    const TIMES: usize = 5;
    let looked = |part, look: &dyn Fn()| {
        let took = (0..TIMES).map(|_| timed(look).1).min().unwrap_or_default();
        println!("    {part}: {took:?}");
        (part, took)
    };
    let group = &world.group;
    let ids: Vec<GenerationId> = group.generations().into_iter().map(|(id, ..)| id).collect();
    // SAFETY: `Table` is `repr(C)` of integers: all zeroes is a value.
    let mut table = unsafe { Box::<Table>::new_zeroed().assume_init() };
    let layout = world.layout.as_ref().expect("a table was published");
    println!("    a table written: {:?}", timed(|| layout.write(&mut table)).1);
    vec![
        looked("workers", &|| drop(black_box(group.workers()))),
        looked("serving", &|| drop(black_box(group.serving()))),
        looked("slots", &|| drop(black_box(group.slots()))),
        looked("stage of each", &|| {
            drop(black_box(ids.iter().map(|id| group.stage(*id)).collect::<Vec<_>>()))
        }),
        looked("holders", &|| drop(black_box(group.holders()))),
    ]
}

#[test]
fn an_event_costs_no_more_than_in_proportion_to_the_group() {
    const TIMES: u32 = 8;
    // A pass over all workers for each worker would be 64 times as much. What shares the processor's caches makes any single
    // figure larger, and none smaller: of several the smallest counts.
    const MOST: u32 = 3 * TIMES;
    let most_workers = WORKERS_MAX as u32 / if cfg!(debug_assertions) { 4 } else { 1 };
    let several = |workers| {
        let lives = [(); 3].map(|()| live(workers));
        let least = |at: usize| lives.iter().map(|costs| costs[at].1).min();
        let parts = lives[0].iter().enumerate().map(|(at, (part, _))| (*part, least(at).unwrap_or_default()));
        parts.collect::<Vec<_>>()
    };
    let (few, many) = (several(most_workers / TIMES), several(most_workers));
    for ((part, few), (_, many)) in few.into_iter().zip(many) {
        println!("{part}: {few:?}, of {TIMES} times as many workers {many:?}");
        assert!(many < few * MOST, "{part}: {few:?}, and of {TIMES} times as many workers {many:?}");
    }
}
