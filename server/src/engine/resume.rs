//! Going on where a daemon that is gone has stopped.
//!
//! The state is saved after each event, before its effects are carried out. So what a saved state waits for may have been
//! carried out, in part, or not at all: it is asked for again, and each such effect can be carried out twice. What else has
//! happened meanwhile comes as events.

use std::collections::BTreeSet;

use super::{
    effect::{Effect, Signal},
    event::{GenerationId, Millis, Slot},
    group::Group,
    publication::drains_mut,
    worker::Phase,
};

impl Group {
    /// Goes on in another daemon, at a time of the same clock. Returns what was asked for before and not answered.
    ///
    /// To be followed by the events of what the daemon finds: the processes that have ended ([`Exited`]), those that were
    /// never started ([`StartFailed`]), lost holding listeners ([`HoldLost`]), and a [`Tick`]. A signal to stop is not sent
    /// again: to many programs the second one means to drop what they have. Where it was not sent at all, the worker is killed
    /// when its time to stop is over.
    ///
    /// [`Exited`]: super::event::Event::Exited
    /// [`StartFailed`]: super::event::Event::StartFailed
    /// [`HoldLost`]: super::event::Event::HoldLost
    /// [`Tick`]: super::event::Event::Tick
    pub fn resume(&mut self, now: Millis) -> Vec<Effect> {
        self.slots = super::slots::Slots::without(self.rules.slots, &self.taken_slots());
        self.resume_hold();
        self.resume_publication();
        for (_, drain) in drains_mut(&mut self.workers) {
            drain.resume(now);
        }
        let killed = self.generations_where(|phase| match phase {
            Phase::Abandoned { .. } => true,
            Phase::Draining(drain) => drain.kill_sent.is_some(),
            _ => false,
        });
        for generation in killed {
            self.effects.push(Effect::Signal { generation, signal: Signal::Kill });
        }
        self.set_alarm(now);
        std::mem::take(&mut self.effects)
    }

    /// The slots that somebody has: every other one can be cleared.
    pub fn taken_slots(&self) -> BTreeSet<Slot> {
        let generations = self.each_generation();
        generations.map(|(_, generation)| generation.slot).chain(self.hold_slots()).collect()
    }

    /// The generations that are not forgotten, with their slots, and whether their processes run as far as is known.
    pub fn generations(&self) -> Vec<(GenerationId, Slot, bool)> {
        let generations = self.each_generation();
        generations.map(|(id, generation)| (id, generation.slot, generation.exit.is_none())).collect()
    }

    fn generations_where(&self, wanted: impl Fn(&Phase) -> bool) -> Vec<GenerationId> {
        let wanted = self.each_generation().filter(|(_, generation)| wanted(&generation.phase));
        wanted.map(|(id, _)| id).collect()
    }
}
