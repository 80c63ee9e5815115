//! Judges what the kernel shows of the workers' queues, for the policy `least-loaded`.

use server_common::load::{Load, Shown};

use crate::{
    dataplane::cells::coarse_nanoseconds,
    engine::event::{GenerationId, Slot},
};

use super::{Processes, stall::QueueSample};

/// What is made of one look at a generation's queue.
#[derive(Debug)]
pub(crate) struct Judgement {
    /// What the program is to be shown of its slot.
    pub(crate) shown: Shown,
    /// What is to be told of it: the event and its words, where it has stalled or recovered.
    pub(crate) news: Option<(&'static str, String)>,
}

impl Processes {
    /// The generations whose queues count, with their slots.
    pub(crate) fn sampled(&self) -> Vec<(GenerationId, Slot)> {
        let ready = self.generations.iter().filter(|(_, it)| it.is_ready && !it.is_stopping);
        ready.map(|(&id, generation)| (id, generation.slot)).collect()
    }

    /// Judges a generation by a look at its queue.
    pub(crate) fn judge(&mut self, id: GenerationId, sample: QueueSample) -> Option<Judgement> {
        let generation = self.generations.get_mut(&id)?;
        let takes_nothing = generation.queue.take_in(sample);
        let shown = Shown {
            sampled_at: sample.at,
            queue: u32::try_from(sample.queue).unwrap_or(u32::MAX),
            stalled: u32::from(takes_nothing || generation.has_stopped_unseen()),
        };
        let is_bad = Load::of(shown, generation.cell_of_programs(), coarse_nanoseconds).is_bad;
        let was_bad = std::mem::replace(&mut generation.is_stalled, is_bad);
        let news = (is_bad != was_bad).then(|| match (is_bad, takes_nothing) {
            (true, true) => {
                ("stalled", format!("nothing is taken from its queue of {}: no new flows", shown.queue))
            }
            (true, false) => ("stalled", "it has stopped beating: no new flows".to_owned()),
            (false, _) => ("recovered", "it takes new flows again".to_owned()),
        });
        Some(Judgement { shown, news })
    }
}
