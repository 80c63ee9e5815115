//! Samples what the kernel shows of the workers' queues, for the policy `least-loaded`.

use server_common::{
    counters::Asked,
    load::{Load, Shown},
};

use crate::{
    dataplane::cells::{coarse_nanoseconds, monotonic_nanoseconds},
    engine::event::{GenerationId, Slot},
    policy::Policy,
};

use super::{actor::Actor, stall::Look};

impl Actor {
    /// Whether the policy wants loads.
    pub(super) fn samples_loads(&self) -> bool {
        matches!(self.engine.policy(), Policy::LeastLoaded { .. })
    }

    /// One look at every queue, shown to the program.
    pub(super) fn sample_loads(&mut self) {
        // What cannot be seen is tried again at once; the program takes no old samples.
        let Ok(queues) = self.queues() else { return };
        let at = monotonic_nanoseconds();
        let ids: Vec<GenerationId> =
            self.generations.iter().filter(|(_, running)| running.is_ready).map(|(&id, _)| id).collect();
        for id in ids {
            let Some(slot) = self.generations.get(&id).map(|running| running.slot) else { continue };
            let queue = queues.get(&slot).copied().unwrap_or(0);
            let selected = if queue > 0 { self.selected_so_far(slot) } else { 0 };
            let Some(running) = self.generations.get_mut(&id) else { continue };
            let takes_nothing = running.queue.take_in(Look { at, queue, selected });
            let shown = Shown {
                sampled_at: at,
                queue: u32::try_from(queue).unwrap_or(u32::MAX),
                stalled: u32::from(takes_nothing || running.has_stopped_unseen()),
            };
            for endpoint in &self.endpoints {
                endpoint.show(slot, shown);
            }
            self.note_stall(id, shown, takes_nothing);
        }
    }

    fn selected_so_far(&self, slot: Slot) -> u64 {
        let counted = self.endpoints.iter().filter_map(|endpoint| endpoint.kernel.counters(slot).ok());
        counted.map(|counters| counters.asked[Asked::Connection as usize]).sum()
    }

    /// Says when a worker seems to take nothing, and when it does again.
    fn note_stall(&mut self, id: GenerationId, shown: Shown, takes_nothing: bool) {
        let Some(running) = self.generations.get_mut(&id) else { return };
        let is_bad = Load::of(shown, running.cell_of_programs(), coarse_nanoseconds).is_bad;
        if is_bad == std::mem::replace(&mut running.is_stalled, is_bad) {
            return;
        }
        let (kind, detail) = match (is_bad, takes_nothing) {
            (true, true) => {
                ("stalled", format!("nothing is taken from its queue of {}: no new flows", shown.queue))
            }
            (true, false) => ("stalled", "it has stopped beating: no new flows".to_owned()),
            (false, _) => ("recovered", "it takes new flows again".to_owned()),
        };
        let worker = self.settings.name.worker(id.worker);
        self.journal.add(kind, &self.settings.name, Some(worker), Some(id.number), detail);
    }

    /// A generation's load as the program sees it now, and whether it publishes one itself.
    pub(super) fn load(&self, id: GenerationId) -> Option<(Load, bool)> {
        let running = self.generations.get(&id)?;
        let cell = running.cell_of_programs();
        let shown = self.endpoints.first()?.kernel.shown(running.slot);
        let publishes = cell.is_some_and(|cell| cell.beat != 0);
        Some((Load::of(shown, cell, coarse_nanoseconds), publishes))
    }
}
