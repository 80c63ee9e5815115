//! How the simulated daemon carries effects out, and what it sees by itself.

use super::{
    super::{
        effect::{Effect, Signal},
        event::{Event, GenerationId, Millis, Observation, Slot},
    },
    kernel::{Holder, Stage},
    ledger::Checked,
    world::{Happening, World},
};

impl World {
    pub(super) fn carry_out(&mut self, effect: Effect) -> Checked {
        match effect {
            Effect::MakeHold { slot } => self.plan_soon(Happening::MakeHold(slot)),
            Effect::ShutHold { slot } => self.plan_soon(Happening::ShutHold(slot)),
            Effect::Start { generation, slot } => return self.start(generation, slot),
            Effect::Probe { generation } => return self.probe(generation),
            Effect::Publish(layout) => {
                self.tally.holds += u64::from(layout.working.is_empty() && layout.hold.is_some());
                if self.entropy.goes_wrong(12) {
                    self.tally.failed_tables += 1;
                    let failed = Event::PublishFailed { epoch: layout.epoch, why: "no memory".into() };
                    self.plan_soon(Happening::Tell(failed));
                } else {
                    self.plan_soon(Happening::Swap(layout));
                }
            }
            Effect::Observe { generation, first_instant } => {
                // Now and then a look is slow.
                let slow = if self.entropy.goes_wrong(12) { 400 } else { 0 };
                let delay = self.entropy.delay() + slow;
                self.plan(delay, Happening::Observe(generation, first_instant));
            }
            Effect::Signal { .. } if self.group().rules.adopts => {
                return Err(format!("an adopted server is signalled: {effect:?}"));
            }
            Effect::ShutListener { generation, .. }
                if self.group().rules.adopts && self.listens(generation) =>
            {
                return Err(format!("a listener that its server has is shut: {effect:?}"));
            }
            Effect::Signal { generation, signal } => {
                if signal == Signal::Stop {
                    self.check_stop(generation)?;
                }
                self.signal(generation, signal);
            }
            Effect::ShutListener { generation, .. } => self.plan_soon(Happening::ShutListener(generation)),
            Effect::Forget { generation, slot } => return self.forget(generation, slot),
            Effect::Receipt { receipt, .. } => return self.check_receipt(&receipt),
            Effect::Finished { result, .. } => match result {
                Ok(()) => self.tally.operations_done += 1,
                Err(failure) => {
                    self.tally.operations_failed += 1;
                    self.tally.overruled += u64::from(failure.message.contains("overruled"));
                }
            },
            Effect::Note(note) => self.tally.take_note(&note),
        }
        Ok(())
    }

    pub(super) fn make_hold(&mut self, slot: Slot) -> Checked {
        if self.entropy.goes_wrong(20) {
            return self.tell(Event::HoldFailed { slot, why: "address in use".into() });
        }
        // One that a daemon before has made is kept.
        let is_made = self.kernel.sockarray.get(&slot).is_some_and(|&listener| {
            let listener = &self.kernel.listeners[listener];
            listener.holder == Holder::Hold && listener.is_listening
        });
        if !is_made {
            self.kernel.listen(Holder::Hold, slot);
        }
        self.plan_soon(Happening::Tell(Event::HoldMade { slot }));
        Ok(())
    }

    /// As the daemon does: it tells of a holding listener that holds while it should not have to, until it does not.
    pub(super) fn look_at_hold(&mut self) -> Checked {
        let listener = self.group().hold_slot().and_then(|slot| self.kernel.sockarray.get(&slot));
        if listener.is_none_or(|&listener| self.kernel.listeners[listener].queue.is_empty()) {
            self.looks_at_hold = false;
            return Ok(());
        }
        self.plan(100, Happening::LookAtHold);
        if self.group().is_holding() || self.group().stopping {
            return Ok(());
        }
        self.tally.occupied += 1;
        self.tell(Event::HoldOccupied)
    }

    pub(super) fn observe(&mut self, id: GenerationId, first_instant: Option<Millis>) {
        let process = &self.processes[&id];
        let Some(listener) = process.listener else { return };
        let handshakes = self.kernel.count(|connection| {
            connection.stage == Stage::HalfOpen(listener)
                && first_instant.is_none_or(|instant| connection.began <= instant)
        });
        let observation = Observation {
            handshakes,
            unaccepted: self.kernel.listeners[listener].queue.len() as u64,
            flows: self.flows_of(id),
            by_id: 0,
            unread: 0,
            connections: process.open.len() as u64,
            is_estimate: false,
        };
        self.plan_soon(Happening::Tell(Event::Observed { generation: id, first_instant, observation }));
    }

    pub(super) fn forget(&mut self, id: GenerationId, slot: Slot) -> Checked {
        // Of a listener that its server goes on to have, only the slot is given back.
        let is_the_servers = self.group().rules.adopts;
        let listener = self.processes.get_mut(&id).and_then(|process| {
            process.is_forgotten = true;
            process.accepts &= is_the_servers;
            process.listener
        });
        if let Some(listener) = listener.filter(|_| !is_the_servers) {
            if !self.kernel.listeners[listener].queue.is_empty() {
                return Err(format!("{id:?} is forgotten with connections in its queue"));
            }
            self.take_down(listener)?;
        }
        self.kernel.sockarray.remove(&slot);
        Ok(())
    }
}
