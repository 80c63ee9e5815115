//! Groups whose server somebody else starts, in the simulated world: listeners come and go by themselves, and nothing is asked of them.

use std::cell::RefCell;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::policy::WEIGHT_MAX;

use super::{
    super::{
        event::{Event, GenerationId},
        group::Rules,
    },
    cases,
    kernel::Holder,
    ledger::Checked,
    replay::rules,
    script::{Action, Fate, Script, policy},
    tally::Tally,
    world::{Happening, World, play},
};

const CASES: u32 = 40;

/// Listeners that the server has at most.
const LISTENERS: u32 = 5;

impl World {
    /// The generation that has the server's listener for a worker.
    fn listening(&self, worker: u32) -> Option<GenerationId> {
        let listens = |(id, process): &(&GenerationId, &super::process::Process)| {
            id.worker == worker && process.listener.is_some() && !process.has_ended
        };
        self.processes.iter().find(listens).map(|(&id, _)| id)
    }

    /// Whether the server goes on to have a generation's listener.
    pub(super) fn listens(&self, id: GenerationId) -> bool {
        let listener = self.processes.get(&id).and_then(|process| process.listener);
        listener.is_some_and(|listener| self.kernel.listeners[listener].is_listening)
    }

    /// The server listens once more, or has somebody take from what it has.
    pub(super) fn come(&mut self, worker: u32) -> Checked {
        match self.listening(worker) {
            Some(id) if !self.processes[&id].is_forgotten => {
                self.tally.skipped += 1;
                Ok(())
            }
            parked => {
                // One that is in no slot is found as if it had come.
                if let Some(process) = parked.and_then(|id| self.processes.get_mut(&id)) {
                    process.has_ended = true;
                }
                self.tally.executed += 1;
                self.tell(Event::Came { worker })
            }
        }
    }

    /// The server closes a listener. Its process answers what it has accepted.
    pub(super) fn go(&mut self, worker: u32) -> Checked {
        let Some(id) = self.listening(worker) else {
            self.tally.skipped += 1;
            return Ok(());
        };
        self.tally.executed += 1;
        let process = self.process(id);
        (process.accepts, process.has_ended) = (false, true);
        let is_parked = process.is_forgotten;
        if let Some(listener) = process.listener {
            self.take_down(listener)?;
        }
        if !is_parked {
            self.plan_soon(Happening::Tell(Event::Left { generation: id, why: "closed".into() }));
        }
        Ok(())
    }

    /// A generation begins with a listener that is there.
    pub(super) fn begin_adopted(&mut self, id: GenerationId) {
        let slot = self.process(id).slot;
        let listener = self.kernel.listen(Holder::Generation(id), slot);
        let process = self.process(id);
        process.listener = Some(listener);
        (process.is_running, process.accepts) = (true, true);
        self.plan(0, Happening::Tell(Event::Started { generation: id, pid: 1 }));
        self.plan(0, Happening::Tell(Event::Ready { generation: id }));
    }
}

fn adopting(hold_max: Option<u64>) -> Rules {
    Rules { adopts: true, hold_max, slots: 2 * LISTENERS + 4, ..rules(LISTENERS) }
}

fn action() -> impl Strategy<Value = Action> {
    let worker = 0..LISTENERS;
    prop_oneof![
        8 => worker.clone().prop_map(Action::Come),
        8 => worker.clone().prop_map(Action::Go),
        2 => Just(Action::ComeAll),
        2 => Just(Action::GoAll),
        2 => any::<bool>().prop_map(Action::Expect),
        3 => worker.clone().prop_map(Action::Drain),
        3 => worker.clone().prop_map(Action::DrainUntilReplaced),
        3 => Just(Action::DrainAllUntilReplaced),
        3 => worker.clone().prop_map(Action::Undrain),
        2 => policy().prop_map(Action::SetPolicy),
        2 => (worker.clone(), 0..=WEIGHT_MAX).prop_map(|(worker, weight)| Action::SetWeight(worker, weight)),
        1 => (worker, 0u32..9, 0u64..4000).prop_map(|(worker, weight, over)| Action::Ramp(worker, weight, over)),
        4 => Just(Action::Burst),
    ]
}

fn script() -> impl Strategy<Value = Script> {
    // Mostly soon after one another, now and then after a place was given up.
    let pause = prop_oneof![6 => 0u64..900, 1 => 3_000u64..7_000];
    let hold_max = prop::option::of(select_hold());
    (hold_max, vec(any::<u8>(), 1..200), vec((pause, action()), 1..40)).prop_map(
        |(hold_max, bytes, mut actions)| {
            actions.insert(0, (0, Action::ComeAll));
            // In the end the server is there, whole, and nobody has it drained.
            for worker in 0..LISTENERS {
                actions.push((2_000, Action::Undrain(worker)));
            }
            actions.push((2_000, Action::ComeAll));
            Script { rules: adopting(hold_max), own: true, bytes, fates: vec![Fate::BENIGN], actions }
        },
    )
}

fn select_hold() -> impl Strategy<Value = u64> {
    prop_oneof![Just(500), Just(30_000)]
}

#[test]
fn listeners_that_come_and_go_lose_nothing_while_the_group_holds() {
    let config = Config { cases: cases(CASES), max_shrink_iters: 300, ..Config::with_source_file(file!()) };
    let total = RefCell::new(Tally::default());
    let result = TestRunner::new(config).run(&script(), |script| {
        let tally = play(&script).map_err(TestCaseError::fail)?;
        total.borrow_mut().add(&tally);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let total = total.into_inner();
    println!("{total:#?}");
    let seen =
        [total.accepted, total.held, total.migrated, total.drained, total.holds, total.operations_done];
    assert!(seen.iter().all(|count| *count >= u64::from(CASES)), "{seen:?}");
}
