//! Probing a generation that says nothing of its readiness: one real connection that only it can get.
//!
//! No bucket may name a worker that is not ready, so the table has a place for one flow by its whole hash. Probes take turns
//! in it; a turn ends when the connection is established, which the kernel does without the worker. Whether the worker then
//! accepts it, and so is ready, needs no table.

use std::collections::VecDeque;

use super::{
    effect::Effect,
    event::{GenerationId, Slot},
    group::Group,
    worker::Phase,
};

/// Whose turn it is, and who waits for one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Probing {
    current: Option<Probe>,
    waiting: VecDeque<(GenerationId, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Probe {
    generation: GenerationId,
    hash: u64,
    /// The first table that has it, once that has a number.
    epoch: Option<u64>,
    /// Whether the connection was asked for.
    is_asked: bool,
}

impl Probing {
    /// A table with the probe whose turn it is, is on its way out.
    pub(super) fn given_out(&mut self, epoch: u64) {
        if let Some(probe) = &mut self.current {
            probe.epoch.get_or_insert(epoch);
        }
    }
}

impl Group {
    pub(super) fn probe_wanted(&mut self, generation: GenerationId, hash: u64) {
        let is_known = self.probing.current.as_ref().is_some_and(|probe| probe.generation == generation)
            || self.probing.waiting.iter().any(|(waiting, _)| *waiting == generation);
        if self.is_starting(generation) && !is_known {
            self.probing.waiting.push_back((generation, hash));
        }
    }

    pub(super) fn probe_ended(&mut self, generation: GenerationId) {
        self.probing.current.take_if(|probe| probe.generation == generation);
    }

    /// Gives the turn to the next that still starts.
    pub(super) fn step_probing(&mut self) {
        let ended = self.probing.current.as_ref().is_some_and(|probe| !self.is_starting(probe.generation));
        if ended {
            self.probing.current = None;
        }
        while self.probing.current.is_none() {
            let Some((generation, hash)) = self.probing.waiting.pop_front() else { return };
            if self.is_starting(generation) {
                self.probing.current = Some(Probe { generation, hash, epoch: None, is_asked: false });
                self.publication.is_due = true;
            }
        }
    }

    /// The flow to probe with, and the slot that it must reach.
    pub(super) fn probe(&self) -> Option<(u64, Slot)> {
        let probe = self.probing.current.as_ref()?;
        Some((probe.hash, self.generation(probe.generation)?.slot))
    }

    pub(super) fn probe_published(&mut self, epoch: u64) {
        if let Some(probe) = &mut self.probing.current
            && probe.epoch.is_some_and(|first| first <= epoch)
            && !probe.is_asked
        {
            probe.is_asked = true;
            self.effects.push(Effect::Probe { generation: probe.generation });
        }
    }

    fn is_starting(&self, id: GenerationId) -> bool {
        self.generation(id).is_some_and(|generation| matches!(generation.phase, Phase::Starting { .. }))
    }
}
