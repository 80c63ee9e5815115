//! Puts right what somebody else has undone in the kernel, and says so.

use std::collections::BTreeSet;

use crate::{
    engine::{event::Slot, view::Stage},
    sockets::address::ListenAddress,
};

use super::{host::GroupHost, members::Upkeep, message::Purpose, task::GroupTask};

impl GroupTask {
    /// One look at everything of the group that others can take away: its pins, its program, and half of its slots, of which the
    /// next look has the others.
    pub(super) fn look_after(&mut self) {
        let (engine, host) = self.runtime.parts();
        let hold = engine.hold_slot();
        let ending: BTreeSet<Slot> = engine
            .stages()
            .into_iter()
            .filter(|(_, _, stage)| *stage == Stage::Ending)
            .map(|(_, slot, _)| slot)
            .collect();
        let holders = engine.holders();
        for (address, Upkeep { repaired, out_of_hand }) in host.members.look_after(hold, &ending) {
            repaired.into_iter().for_each(|what| host.repaired(address, what));
            for slot in out_of_hand {
                if let Some(&id) = holders.get(&slot) {
                    host.take_from(id, slot, Purpose::Refill);
                }
            }
        }
        if let Some(sharing) = &mut host.sharing {
            let at_once = sharing.look_after(&host.shared.threads.publishing, &host.shared.inbox);
            host.later.extend(at_once);
        }
        let mut is_failing = false;
        if let Some(record) = &mut host.record {
            if let Err(error) = record.lock_again() {
                tracing::warn!("cannot lock the pins: {error:#}");
            }
            is_failing = record.is_failing();
        }
        if is_failing {
            self.runtime.changed();
        }
    }
}

impl GroupHost {
    /// Says what was put right at an address.
    pub(super) fn repaired(&self, address: ListenAddress, what: &str) {
        self.journal("mended", None, format!("at {address}: {what}"));
    }
}
