//! Generations whose processes somebody else has started.

use crate::{
    engine::event::{GenerationId, Slot},
    workers::process::Process,
};

use super::{Processes, generation::Launch};

impl Processes {
    /// A generation has its listeners, which are taken from: its process, as far as that is known.
    pub(crate) fn adopted(&mut self, id: GenerationId) -> Option<u32> {
        let generation = self.generations.get_mut(&id)?;
        generation.launch = Launch::Runs;
        generation.is_ready = true;
        Some(generation.process.as_ref()?.pid())
    }

    /// Notes which process takes from a generation's listeners, or leads those that do.
    pub(crate) fn is_led_by(&mut self, id: GenerationId, process: Process) {
        if let Some(generation) = self.generations.get_mut(&id) {
            generation.process = Some(process);
            generation.has_exited = false;
        }
    }

    /// A worker's newest generation, with its slot.
    pub(crate) fn newest(&self, worker: u32) -> Option<(GenerationId, Slot)> {
        let all = GenerationId { worker, number: 0 }..=GenerationId { worker, number: u64::MAX };
        let (&id, generation) = self.generations.range(all).next_back()?;
        Some((id, generation.slot))
    }

    /// The generations whose process has ended.
    pub(crate) fn deserted(&self) -> impl Iterator<Item = GenerationId> {
        let has_ended = |process: &Process| process.has_ended();
        let generations =
            self.generations.iter().filter(move |(_, it)| it.process.as_ref().is_none_or(has_ended));
        generations.map(|(&id, _)| id)
    }
}
