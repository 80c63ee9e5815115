//! What must hold of the engine's effects whatever the world is like: kept and checked after every event, in simulations and
//! in replays.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::Policy;

use super::{
    super::{
        drain::KILL_PATIENCE,
        effect::{Effect, Receipt},
        event::{Command, Event, GenerationId, Millis, OperationId, Slot},
        group::Group,
        layout::Layout,
        worker::{Goal, Phase},
    },
    kernel::Holder,
    tables::{Named, check_change},
};

/// How much later than its latest moment a receipt may come in a world whose answers take up to a quarter of a second.
const LATENESS: Millis = 2_000;

/// `Err` says what is broken.
pub(super) type Checked<T = ()> = Result<T, String>;

/// The books.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    /// Who has been given which slot.
    pub(super) slots: BTreeMap<Slot, Holder>,
    /// The table in use, and the one that may be.
    tables: Vec<Named>,
    in_flight: Option<u64>,
    asked: BTreeSet<OperationId>,
    finished: BTreeSet<OperationId>,
    started: BTreeSet<GenerationId>,
    /// Drains under way, with deadline and first instant.
    drains: BTreeMap<GenerationId, (Millis, Option<Millis>)>,
    receipts: BTreeSet<GenerationId>,
    /// What was last asked of each worker's weight.
    weights: BTreeMap<u32, (OperationId, u32)>,
    /// Workers whose weight has come to 0, in a table that is published.
    idle: BTreeSet<u32>,
    /// The CPUs of generations, as told.
    cpus: BTreeMap<GenerationId, Vec<usize>>,
}

impl Ledger {
    /// Takes in what the engine made of an event.
    pub(super) fn take_in(
        &mut self,
        now: Millis,
        group: &Group,
        event: &Event,
        effects: &[Effect],
    ) -> Checked {
        match event {
            Event::Command { operation, command } => {
                self.asked.insert(*operation);
                self.note_command(group, *operation, command);
            }
            Event::Pinned { generation, cpus } if self.started.contains(generation) => {
                self.cpus.insert(*generation, cpus.clone());
            }
            Event::Published { epoch } if self.in_flight == Some(*epoch) => {
                self.in_flight = None;
                self.tables.retain(|named| named.layout.epoch == *epoch);
            }
            Event::PublishFailed { epoch, .. } if self.in_flight == Some(*epoch) => {
                self.in_flight = None;
                self.tables.retain(|named| named.layout.epoch != *epoch);
            }
            Event::HoldShut { slot, .. } | Event::HoldFailed { slot, .. } => drop(self.slots.remove(slot)),
            _ => {}
        }
        for effect in effects {
            self.take_in_effect(now, group, effect)?;
        }
        if group.rules.adopts {
            // A place that was given up has lost its weight.
            let is_there = |worker: &u32| group.workers.get(worker).is_some_and(|it| it.goal != Goal::Leave);
            self.idle.retain(is_there);
            self.weights.retain(|worker, _| is_there(worker));
        }
        self.note_drains(group)
    }

    /// Another daemon has taken over, which does not know whether the table in flight was published.
    pub(super) fn succeed(&mut self) {
        self.in_flight = None;
    }

    fn note_command(&mut self, group: &Group, operation: OperationId, command: &Command) {
        match command {
            Command::SetWeight { worker, weight, .. } => self.note_weight(operation, *worker, *weight),
            Command::Scale { workers, .. } => self.forget_weights_from(*workers),
            Command::Reconfigure(change) => {
                // Who comes, now or later, has the weight of one that comes.
                let has = |(worker, weight): &(&u32, &u32)| {
                    let named = group.workers.get(*worker).filter(|named| named.goal != Goal::Leave);
                    named.is_some_and(|named| named.weight == **weight)
                };
                for (&worker, &weight) in change.weights.iter().filter(has) {
                    self.note_weight(operation, worker, weight);
                }
                change.workers.into_iter().for_each(|workers| self.forget_weights_from(workers));
            }
            _ => {}
        }
    }

    fn note_weight(&mut self, operation: OperationId, worker: u32, weight: u32) {
        self.weights.insert(worker, (operation, weight));
        self.idle.remove(&worker);
    }

    /// Who leaves and comes again has another weight, also where the change to the one before has not ended yet.
    fn forget_weights_from(&mut self, workers: u32) {
        self.idle.retain(|worker| *worker < workers);
        self.weights.retain(|worker, _| *worker < workers);
    }

    /// Whether nothing new may reach a worker.
    pub(super) fn is_idle(&self, worker: u32) -> bool {
        self.idle.contains(&worker)
    }

    /// The newest table has those on each CPU that are pinned to it.
    pub(super) fn check_cpus(&self, group: &Group) -> Checked {
        let Some(layout) = self.tables.last().map(|named| &named.layout) else { return Ok(()) };
        let mut wanted = BTreeMap::<usize, Vec<Slot>>::new();
        for slot in layout.working.iter().filter(|_| group.policy() == Policy::Cpu) {
            let Some(Holder::Generation(id)) = self.slots.get(slot) else { continue };
            for cpu in self.cpus.get(id).into_iter().flatten() {
                wanted.entry(*cpu).or_default().push(*slot);
            }
        }
        if layout.policy == group.policy() && layout.cpus == wanted {
            return Ok(());
        }
        let (epoch, policy, cpus) = (layout.epoch, layout.policy, &layout.cpus);
        Err(format!("table {epoch}, by {policy}, has on CPUs {cpus:?}, not {wanted:?}"))
    }

    fn take_in_effect(&mut self, now: Millis, group: &Group, effect: &Effect) -> Checked {
        match effect {
            Effect::MakeHold { slot } => self.give(*slot, Holder::Hold),
            Effect::Start { generation, slot } => {
                if !self.started.insert(*generation) {
                    return Err(format!("{generation:?} was started twice"));
                }
                self.give(*slot, Holder::Generation(*generation))
            }
            Effect::ShutHold { slot } => self.take_down(*slot, Holder::Hold),
            Effect::ShutListener { generation, slot } => {
                self.take_down(*slot, Holder::Generation(*generation))
            }
            Effect::Forget { generation, slot } => {
                self.take_down(*slot, Holder::Generation(*generation))?;
                self.slots.remove(slot);
                Ok(())
            }
            Effect::Publish(layout) => self.publish(group, layout),
            Effect::Receipt { operation, receipt } => self.receipt(now, group, *operation, receipt),
            Effect::Finished { operation, result } => {
                let done = |&(_, &(asked, weight)): &(&u32, &(OperationId, u32))| {
                    asked == *operation && weight == 0 && result.is_ok()
                };
                let idle: Vec<u32> = self.weights.iter().filter(done).map(|(&worker, _)| worker).collect();
                self.idle.extend(idle);
                match self.asked.contains(operation) && self.finished.insert(*operation) {
                    true => Ok(()),
                    false => Err(format!("operation {operation} has finished twice, or was never asked for")),
                }
            }
            Effect::Probe { .. } | Effect::Observe { .. } | Effect::Signal { .. } | Effect::Note(_) => Ok(()),
        }
    }

    fn give(&mut self, slot: Slot, holder: Holder) -> Checked {
        if let Some(named) = self.tables.iter().find(|named| named.names(slot)) {
            return Err(format!("slot {slot} is reused while table {} names it", named.layout.epoch));
        }
        match self.slots.insert(slot, holder) {
            None => Ok(()),
            Some(other) => Err(format!("slot {slot} is given to {holder:?} while {other:?} has it")),
        }
    }

    fn take_down(&self, slot: Slot, holder: Holder) -> Checked {
        if let Some(named) = self.tables.iter().find(|named| named.names(slot)) {
            return Err(format!("{holder:?} goes while table {} names its slot {slot}", named.layout.epoch));
        }
        match self.slots.get(&slot) {
            Some(owner) if *owner == holder => Ok(()),
            other => Err(format!("{holder:?} is to go from slot {slot}, which is of {other:?}")),
        }
    }

    fn publish(&mut self, group: &Group, layout: &Layout) -> Checked {
        if let Some(other) = self.in_flight {
            return Err(format!("table {} is published while table {other} is in flight", layout.epoch));
        }
        let named = Named::new(layout, &self.slots, group)?;
        if group.may_hold() && layout.hold.is_none() {
            return Err(format!("table {} has no last resort", layout.epoch));
        }
        let previous = self.tables.last();
        check_change(previous, &named, group)?;
        self.in_flight = Some(layout.epoch);
        self.tables.push(named);
        self.check_cpus(group)
    }

    fn receipt(
        &mut self,
        now: Millis,
        group: &Group,
        operation: Option<OperationId>,
        receipt: &Receipt,
    ) -> Checked {
        let id = receipt.generation;
        let Some((deadline, first_instant)) = self.drains.remove(&id) else {
            return Err(format!("a receipt for {id:?}, which does not drain"));
        };
        if !self.receipts.insert(id) {
            return Err(format!("a second receipt for {id:?}"));
        }
        let from = deadline.max(first_instant.unwrap_or(Millis::MAX));
        let latest = from.saturating_add(group.rules.limits.stop + KILL_PATIENCE + LATENESS);
        if now > latest {
            return Err(format!("the receipt of {id:?} came at {now}, which is after {latest}"));
        }
        match operation.filter(|operation| self.finished.contains(operation)) {
            Some(operation) if !group.stopping => {
                Err(format!("the receipt of {id:?} came after the end of operation {operation}"))
            }
            _ => Ok(()),
        }
    }

    fn note_drains(&mut self, group: &Group) -> Checked {
        let mut seen = BTreeMap::new();
        for (&worker, state) in &group.workers {
            for (&number, generation) in &state.generations {
                if let Phase::Draining(drain) = &generation.phase {
                    seen.insert(GenerationId { worker, number }, (drain.deadline, drain.first_instant));
                }
            }
        }
        // One that is put back to work in the midst of it goes on, and there is nothing to be said.
        let is_back = |id: &GenerationId| group.rules.adopts && group.generation(*id).is_some();
        if let Some(id) = self.drains.keys().find(|id| !seen.contains_key(id) && !is_back(id)) {
            return Err(format!("the drain of {id:?} has ended without a receipt"));
        }
        self.drains = seen;
        Ok(())
    }

    /// When no new flow could reach a generation any more, where that instant has been.
    pub(super) fn first_instant(&self, id: GenerationId) -> Option<Millis> {
        self.drains.get(&id)?.1
    }

    /// Everything that began has ended.
    pub(super) fn check_end(&self) -> Checked {
        let open: Vec<_> = self.asked.difference(&self.finished).collect();
        if !open.is_empty() || !self.drains.is_empty() {
            return Err(format!("at the end there are operations {open:?} and drains {:?}", self.drains));
        }
        Ok(())
    }
}
