//! What the script has people, and chance, do.

use super::{
    super::{
        event::{Canary, Command, Event, GenerationId, Millis},
        reconfigure::Reconfiguration,
    },
    happen::CPUS,
    kernel::Holder,
    ledger::Checked,
    script::Action,
    world::{Happening, World},
};

impl World {
    pub(super) fn act(&mut self, action: Action) -> Checked {
        let timeout = self.entropy.goes_wrong(64).then_some(90);
        let command = match action {
            Action::Restart(worker) => Command::Restart { worker: Some(worker), timeout, canary: None },
            Action::RestartAll => Command::Restart { worker: None, timeout, canary: None },
            Action::Drain(worker) => Command::Drain { worker, timeout, until_replaced: false },
            Action::DrainForever(worker) => {
                Command::Drain { worker, timeout: Some(Millis::MAX), until_replaced: false }
            }
            Action::DrainUntilReplaced(worker) => Command::Drain { worker, timeout, until_replaced: true },
            Action::DrainAllUntilReplaced => Command::DrainAll { workers: None, timeout },
            Action::Come(worker) => return self.come(worker),
            Action::ComeAll => {
                return (0..self.group().rules.workers).try_for_each(|worker| self.come(worker));
            }
            Action::Go(worker) => return self.go(worker),
            Action::GoAll => return (0..self.group().rules.workers).try_for_each(|worker| self.go(worker)),
            Action::Expect(is_coming) => return self.tell(Event::Expected { is_coming }),
            Action::Undrain(worker) => {
                if self.group().rules.adopts {
                    // A listener that is in no slot is found by the next look.
                    self.plan_soon(Happening::Act(Action::Come(worker)));
                }
                Command::Undrain { worker }
            }
            Action::Scale(workers) => Command::Scale { workers, timeout },
            Action::Stop => Command::Stop { timeout },
            Action::Canary(worker, permille, hold) => {
                Command::Restart { worker, timeout, canary: Some(Canary { permille, hold }) }
            }
            // Whoever looks for what waits for a decision, in the end, finds none.
            Action::Decide(_) if self.entropy.is_calm && self.group().canaries().next().is_none() => {
                return Ok(());
            }
            Action::Decide(decision) => Command::Decide(decision),
            Action::Reconfigure(change) => {
                Command::Reconfigure(Box::new(Reconfiguration { timeout, ..change }))
            }
            Action::SetPolicy(policy) => Command::SetPolicy(policy),
            Action::SetWeight(worker, weight) => Command::SetWeight { worker, weight, over: None },
            Action::Ramp(worker, weight, over) => Command::SetWeight { worker, weight, over: Some(over) },
            Action::Pin(worker, cpus) => return self.pin(worker, cpus),
            Action::Crash(worker) => return self.crash(|id| id.worker == worker),
            Action::CrashAll => return self.crash(|_| true),
            Action::Succeed => {
                self.kill_daemon_soon();
                return Ok(());
            }
            Action::Burst => {
                for _ in 0..20 {
                    self.plan_soon(Happening::Arrive { again: false });
                }
                return Ok(());
            }
            Action::Stale => return self.repeat_the_past(),
        };
        self.tally.executed += 1;
        self.operations += 1;
        self.tell(Event::Command { operation: self.operations, command })
    }

    fn pin(&mut self, worker: u32, bits: u8) -> Checked {
        let running = self.processes.iter().filter(|(_, process)| process.is_running && !process.has_ended);
        let ids: Vec<GenerationId> = running.map(|(&id, _)| id).filter(|id| id.worker == worker).collect();
        for generation in ids {
            self.tally.pins += 1;
            let cpus = (0..CPUS).filter(|cpu| bits >> cpu & 1 == 1).collect();
            self.tell(Event::Pinned { generation, cpus })?;
        }
        Ok(())
    }

    fn crash(&mut self, which: impl Fn(GenerationId) -> bool) -> Checked {
        let running = self.processes.iter().filter(|(_, process)| process.is_running && !process.has_ended);
        let ids: Vec<GenerationId> = running.map(|(&id, _)| id).filter(|&id| which(id)).collect();
        if ids.is_empty() {
            self.tally.skipped += 1;
            return Ok(());
        }
        self.tally.executed += 1;
        ids.into_iter().try_for_each(|id| self.end(id, "signal 9".into()))
    }

    fn repeat_the_past(&mut self) -> Checked {
        let index = self.entropy.below(self.log.len());
        let Some((_, event)) = self.log.get(index).cloned().filter(|(_, event)| self.is_stale(event)) else {
            self.tally.skipped += 1;
            return Ok(());
        };
        self.tally.executed += 1;
        self.tally.stale += 1;
        self.tell_stale(event)
    }

    /// Whether an event of the past means nothing any more. An observation of a drain that goes on is as good as the one
    /// that was asked for, and a slot may be a holding listener's once more.
    fn is_stale(&self, event: &Event) -> bool {
        match event {
            Event::HoldMade { slot } | Event::HoldFailed { slot, .. } => {
                self.group().hold.making != Some(*slot)
            }
            Event::HoldLost { slot } => self.group().hold.slot != Some(*slot),
            Event::HoldShut { slot, .. } => self.ledger.slots.get(slot) != Some(&Holder::Hold),
            Event::ProbeWanted { generation, .. } | Event::ProbeEnded { generation } => {
                self.group().generation(*generation).is_none()
            }
            Event::Observed { generation, .. } | Event::Pinned { generation, .. } => {
                self.group().generation(*generation).is_none()
            }
            Event::HoldOccupied | Event::Tick => false,
            Event::Command { .. }
            | Event::Started { .. }
            | Event::StartFailed { .. }
            | Event::Came { .. }
            | Event::Left { .. }
            | Event::Expected { .. }
            | Event::Ready { .. }
            | Event::Exited { .. }
            | Event::Published { .. }
            | Event::PublishFailed { .. }
            | Event::ListenerLost { .. }
            | Event::ListenerShut { .. } => true,
        }
    }
}
