//! Puts right what somebody else has undone in the kernel, and says so.

use std::collections::BTreeSet;

use crate::engine::{event::Slot, view::Stage};

use super::{actor::Actor, describe::describe, persistence::Persistence};

impl Actor {
    /// One look at everything of the group that others can take away: its pins, its program, and half of its slots, of which the
    /// next look has the others.
    pub(super) fn mend(&mut self) {
        self.mended_odd = !self.mended_odd;
        let hold = self.engine.hold_slot();
        let ending: BTreeSet<Slot> = self
            .engine
            .generations()
            .into_iter()
            .filter(|(generation, ..)| self.engine.stage(*generation) == Some(Stage::Ending))
            .map(|(_, slot, _)| slot)
            .collect();
        for endpoint in &mut self.endpoints {
            let mended = match endpoint.mend(u16::from(self.mended_odd), hold, &ending) {
                Ok(mended) => mended,
                Err(error) => {
                    tracing::warn!("cannot look after {}: {}", endpoint.address, describe(&error));
                    continue;
                }
            };
            for what in mended {
                let detail = format!("at {}: {what}", endpoint.address);
                self.journal.add("mended", &self.settings.name, None, None, detail);
            }
        }
        if let Some(Err(error)) = self.persistence.as_ref().map(Persistence::lock_again) {
            tracing::warn!("cannot lock the pins: {error:#}");
        }
        if self.persistence.as_ref().is_some_and(Persistence::is_failing) {
            self.save(None);
        }
    }
}
