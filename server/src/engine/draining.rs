//! Drains, from their begin to their receipts: what the group does for each [`Drain`].

use std::collections::BTreeMap;

use super::{
    drain::{Act, Cause, Drain, Limits, Shut},
    effect::{Effect, Outcome, Receipt, Receiver, Signal},
    event::{GenerationId, Millis, Moved, Observation, OperationId},
    group::Group,
    lifecycle::TIMEOUT_MAX,
    publication::drains_mut,
    worker::{Generation, Phase},
};

impl Group {
    /// Takes a generation out of the next table and begins its drain.
    pub(super) fn drain(
        &mut self,
        now: Millis,
        id: GenerationId,
        cause: Cause,
        operation: Option<OperationId>,
        successor: Option<u64>,
        timeout: Option<Millis>,
    ) {
        let timeout = timeout.or_else(|| self.operations.get(&operation?)?.timeout);
        let deadline = self.drain_deadline(now, timeout);
        let Some(worker) = self.workers.get_mut(&id.worker) else { return };
        let Some(generation) = worker.generations.get_mut(&id.number) else { return };
        if !matches!(generation.phase, Phase::Canary(_) | Phase::Ready { .. } | Phase::Working) {
            return;
        }
        let mut drain = Drain::new(now, deadline, cause, operation, successor);
        drain.is_hands_off = self.rules.adopts;
        generation.phase = Phase::Draining(Box::new(drain));
        if worker.working == Some(id.number) {
            worker.working = None;
        }
        self.publication.is_due = true;
        self.note("draining", Some(id), "gets no new flows from the next table on");
    }

    /// When a drain that begins now is to end.
    pub(super) fn drain_deadline(&self, now: Millis, timeout: Option<Millis>) -> Millis {
        now + timeout.unwrap_or(self.rules.drain).min(TIMEOUT_MAX)
    }

    /// Carries every drain as far as it can go now.
    pub(super) fn step_drains(&mut self, now: Millis) {
        let ids: Vec<GenerationId> = drains_mut(&mut self.workers).map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.step_drain(now, id));
    }

    fn step_drain(&mut self, now: Millis, id: GenerationId) {
        let limits = self.rules.limits;
        while let Some(act) = self.next_act(now, id, limits) {
            let Some(slot) = self.generation(id).map(|generation| generation.slot) else { break };
            match act {
                Act::Observe => {
                    let first_instant = self.drain_mut(id).and_then(|drain| drain.first_instant);
                    self.effects.push(Effect::Observe { generation: id, first_instant });
                }
                Act::Stop => self.effects.push(Effect::Signal { generation: id, signal: Signal::Stop }),
                Act::Kill => self.effects.push(Effect::Signal { generation: id, signal: Signal::Kill }),
                Act::Shut => self.effects.push(Effect::ShutListener { generation: id, slot }),
                Act::End => {
                    self.end_drain(id);
                    break;
                }
            }
        }
    }

    /// Takes in what was found of a drain and carries it on. Whether that is all that there is to do: of all events these are the
    /// most by far, as many at a time as there are drains, so none has to be a look at the whole group. Nothing else depends
    /// on a drain before its end.
    pub(super) fn observed(
        &mut self,
        now: Millis,
        id: GenerationId,
        first_instant: Option<Millis>,
        observation: Observation,
    ) -> bool {
        let is_due = self.alarm.is_due(now);
        let Some(drain) = self.drain_mut(id) else { return !is_due };
        drain.observed(now, first_instant, observation);
        if is_due {
            return false;
        }
        self.step_drain(now, id);
        let limits = self.rules.limits;
        let Some(drain) = self.drain_mut(id) else { return false };
        let wakes_at = drain.wakes_at(now, limits);
        self.alarm.bring_forward(wakes_at);
        true
    }

    fn next_act(&mut self, now: Millis, id: GenerationId, limits: Limits) -> Option<Act> {
        let generation = self.generation_mut(id)?;
        let alive = generation.exit.is_none();
        match &mut generation.phase {
            Phase::Draining(drain) => drain.next(now, alive, limits),
            _ => None,
        }
    }

    fn end_drain(&mut self, id: GenerationId) {
        let Some(generation) = self.generation(id) else { return };
        let Phase::Draining(drain) = &generation.phase else { return };
        let ended = ended(drain);
        let outcome = match (drain.late, &drain.cause) {
            (true, _) => Outcome::Deadline,
            (false, Cause::Lost(_)) => Outcome::Lost,
            (false, Cause::Asked) if drain.deserted => Outcome::Lost,
            // Its server has closed the socket under flows, which end with it.
            (false, Cause::Left(_)) if ended.flows > 0 => Outcome::Lost,
            (false, Cause::Asked | Cause::Left(_)) => Outcome::Drained,
        };
        let receipt = Receipt {
            generation: id,
            successor: drain.successor,
            outcome,
            began: drain.began.unwrap_or_else(|| unseen(drain)),
            ended,
            migrated: drain.moved.clone(),
            exit: generation.exit.clone(),
            steps: drain.steps.iter().map(|(step, took)| (step.name(), *took)).collect(),
            message: drain_message(drain, generation),
        };
        let operation = drain.operation;
        let kind = match outcome {
            Outcome::Drained => "drained",
            Outcome::Deadline => "deadline",
            Outcome::Lost => "lost",
        };
        self.note(kind, Some(id), receipt.message.clone().unwrap_or_else(|| "nothing is left".into()));
        self.effects.push(Effect::Receipt { operation, receipt });
        self.forget(id);
    }

    pub(super) fn listener_shut(&mut self, id: GenerationId, moved: &Moved) {
        // Asked now: by the end of the drain the receivers' slots may be others'.
        let receivers = self.receivers(moved);
        let migrates = self.rules.migrates;
        let Some(drain) = self.drain_mut(id).filter(|drain| drain.shut == Shut::Asked) else { return };
        drain.listener_shut(receivers, migrates);
        self.hold_received(moved);
    }

    /// Who the slots of a migration's receivers belong to.
    fn receivers(&self, moved: &Moved) -> BTreeMap<Receiver, u64> {
        let mut receivers = BTreeMap::new();
        if moved.is_empty() {
            return receivers;
        }
        let holders = self.holders();
        for (slot, count) in moved {
            let receiver = holders.get(slot).map_or(Receiver::Hold, |id| Receiver::Worker(id.worker));
            *receivers.entry(receiver).or_default() += count;
        }
        receivers
    }

    pub(super) fn drain_mut(&mut self, id: GenerationId) -> Option<&mut Drain> {
        match &mut self.generation_mut(id)?.phase {
            Phase::Draining(drain) => Some(drain),
            _ => None,
        }
    }
}

/// What was left at the end. Where a server has closed a listener, its process goes on with what it had accepted, as it was seen last.
fn ended(drain: &Drain) -> Observation {
    let seen = match (drain.last, drain.began) {
        (None, Some(began)) if drain.has_left() => Observation { handshakes: 0, unaccepted: 0, ..began },
        (last, _) => last.unwrap_or_default(),
    };
    Observation { unaccepted: seen.unaccepted + drain.reset, ..seen }
}

/// What a drain began with that has ended before anybody looked, as on a busy machine: what was moved or reset was there.
fn unseen(drain: &Drain) -> Observation {
    let unaccepted = drain.moved.values().sum::<u64>() + drain.reset;
    Observation { unaccepted, ..Observation::default() }
}

fn drain_message(drain: &Drain, generation: &Generation) -> Option<String> {
    let lost = match &drain.cause {
        Cause::Left(why) => Some(match ended(drain).connections {
            0 => why.clone(),
            open => format!("{why}, and goes on with {open} open connections"),
        }),
        Cause::Lost(why) => Some(why.clone()),
        Cause::Asked if drain.deserted => Some("its process ended before it was told to".to_owned()),
        Cause::Asked => None,
    };
    let late = drain.late.then(|| {
        let left = drain.at_deadline.unwrap_or_else(|| unseen(drain));
        let flows =
            if left.flows > 0 { format!(", and {} flows of datagrams", left.flows) } else { String::new() };
        format!(
            "at its deadline it had {} half-open, {} unaccepted and {} open connections{flows}",
            left.handshakes, left.unaccepted, left.connections
        )
    });
    let reset = (drain.reset > 0).then(|| {
        format!("{} unaccepted connections were reset: this kernel cannot migrate them", drain.reset)
    });
    let killed = drain.kill_sent.map(|_| match generation.exit {
        Some(_) => "it did not end when told to, and was killed".to_owned(),
        None => "its process has not ended although it was killed".to_owned(),
    });
    let parts: Vec<String> = [lost, late, reset, killed].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
