//! What the next table says, and when it is published.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use server_common::limits::{BUCKETS, NO_SLOT};

use super::{
    assign::{Member, assigned},
    canary::choose_part,
    drain::Drain,
    effect::Effect,
    event::{GenerationId, Millis, Slot},
    group::Group,
    layout::Layout,
    operation::Task,
    worker::{Phase, Worker},
};

/// How long to wait before a table is published again that could not be.
const RETRY: Millis = 1_000;

/// The state of publishing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Publication {
    /// Whether what the table should say differs from what was last given out.
    pub(super) is_due: bool,
    /// The number given to the last table.
    pub(super) last: u64,
    /// The table whose grace period is awaited.
    pub(super) in_flight: Option<u64>,
    /// The newest table whose grace period is over.
    pub(super) published: u64,
    /// When to try again.
    pub(super) retry_at: Option<Millis>,
    /// Who has which bucket, and for which members that was worked out.
    #[serde(skip, default = "nobody")]
    pub(super) owners: Arc<[u32]>,
    #[serde(skip)]
    members: Vec<Member>,
}

impl Publication {
    pub(super) fn new() -> Self {
        Self {
            is_due: false,
            last: 0,
            in_flight: None,
            published: 0,
            retry_at: None,
            owners: nobody(),
            members: Vec::new(),
        }
    }
}

fn nobody() -> Arc<[u32]> {
    assigned(&[])
}

impl Group {
    /// Works out anew who has which bucket, and gives the table out once more, under a new number: whether one that was in flight
    /// is published cannot be told.
    pub(super) fn resume_publication(&mut self) {
        if self.publication.last > 0 {
            let members = self.members();
            self.publication.owners = assigned(&members);
            self.publication.members = members;
            self.publication.is_due = true;
        }
        self.publication.in_flight = None;
        self.publication.retry_at = None;
    }

    /// Gives out a table, unless one is in flight (one swap at a time, each with all changes up to it) or there is no
    /// holding listener yet to be its last resort.
    pub(super) fn publish_if_due(&mut self, now: Millis) {
        let waits = self.publication.in_flight.is_some()
            || self.hold.making.is_some()
            || self.hold.slot.is_none()
            || self.publication.retry_at.is_some_and(|at| now < at);
        if !self.publication.is_due || waits {
            return;
        }
        self.publication.is_due = false;
        self.publication.retry_at = None;
        let epoch = self.publication.last + 1;
        self.publication.last = epoch;
        self.publication.in_flight = Some(epoch);
        for (_, drain) in drains_mut(&mut self.workers) {
            drain.epoch.get_or_insert(epoch);
        }
        for retiring in &mut self.hold.retiring {
            retiring.first_without.get_or_insert(epoch);
        }
        for generation in self.workers.values_mut().flat_map(|worker| worker.generations.values_mut()) {
            match &mut generation.phase {
                Phase::Ready { epoch: first } => drop(first.get_or_insert(epoch)),
                Phase::Canary(trial) => drop(trial.epoch.get_or_insert(epoch)),
                Phase::Starting { .. } | Phase::Abandoned { .. } | Phase::Working | Phase::Draining(_) => {}
            }
        }
        for operation in self.operations.values_mut() {
            if let Task::Published(first) | Task::Reconfigured(first) = &mut operation.task {
                first.get_or_insert(epoch);
            }
        }
        self.probing.given_out(epoch);
        let layout = self.layout(epoch);
        if layout.working.is_empty() && layout.hold.is_some() {
            self.hold.is_used = true;
        }
        self.effects.push(Effect::Publish(layout));
    }

    /// When a table that could not be published is tried again; while a holding listener is being made, its answer
    /// comes first.
    pub(super) fn publication_wakes_at(&self) -> Option<Millis> {
        self.publication.retry_at.filter(|_| self.hold.making.is_none())
    }

    /// Who takes part in the next table, with weights in thousandths.
    pub(super) fn members(&self) -> Vec<Member> {
        let taking_part = self.workers.iter().filter(|(_, worker)| worker.takes_part());
        taking_part.map(|(&index, worker)| Member { index, weight: worker.effective_weight() }).collect()
    }

    /// Who has which bucket among these: what was worked out last, where it was for the same.
    pub(super) fn owners_among(&self, members: &[Member]) -> Arc<[u32]> {
        if members == self.publication.members {
            return self.publication.owners.clone();
        }
        assigned(members)
    }

    fn layout(&mut self, epoch: u64) -> Layout {
        let members = self.members();
        self.publication.owners = self.owners_among(&members);
        self.publication.members = members;
        Layout {
            epoch,
            seed: self.rules.seed,
            policy: self.policy,
            cpus: self.pinned_slots(),
            hold: self.last_resort(),
            probe: self.probe(),
            working: self.working_slots().into_iter().map(|(_, slot)| slot).collect(),
            buckets: self.buckets(),
        }
    }

    /// The slots of the workers that take part, by index.
    fn working_slots(&self) -> Vec<(u32, Slot)> {
        let slot = |worker: &Worker| Some(worker.generations.get(&worker.working?)?.slot);
        let taking_part = self.workers.iter().filter(|(_, worker)| worker.takes_part());
        taking_part.filter_map(|(&index, worker)| Some((index, slot(worker)?))).collect()
    }

    fn last_resort(&self) -> Option<Slot> {
        self.hold.slot.filter(|_| self.may_hold())
    }

    /// The slot of each bucket, by who has which.
    pub(super) fn buckets(&self) -> Arc<[Slot]> {
        let (slots, hold) = (self.working_slots(), self.last_resort());
        let nobody = if slots.is_empty() { hold.unwrap_or(NO_SLOT) } else { NO_SLOT };
        // Found by index: there are 64 times as many buckets as there can be workers.
        let end = slots.last().map_or(0, |&(index, _)| index as usize + 1);
        let mut by_owner = vec![nobody; end];
        slots.iter().for_each(|&(index, slot)| by_owner[index as usize] = slot);
        let slot_of = |owner: &u32| by_owner.get(*owner as usize).copied().unwrap_or(nobody);
        let owners = &self.publication.owners;
        let mut buckets: Arc<[Slot]> = owners.iter().map(slot_of).collect();
        for (canary, trial) in self.canaries() {
            let Some(slot) = self.generation(canary).map(|generation| generation.slot) else { continue };
            let own = (0..BUCKETS).filter(|&bucket| owners[bucket] == canary.worker).collect();
            let all = Arc::make_mut(&mut buckets);
            for bucket in choose_part(own, trial.canary.permille) {
                all[bucket] = slot;
            }
        }
        buckets
    }

    pub(super) fn published(&mut self, now: Millis, epoch: u64) {
        if self.publication.in_flight != Some(epoch) {
            return;
        }
        self.publication.in_flight = None;
        // Until the program was attached, the kernel's hash gave the holding listener its part of what came to a server that ran already.
        self.hold.is_used |= self.rules.adopts && self.publication.published == 0;
        self.publication.published = epoch;
        for (_, drain) in drains_mut(&mut self.workers) {
            if drain.epoch.is_some_and(|first| first <= epoch) {
                drain.published(now);
            }
        }
        self.retire_holds(epoch);
        self.probe_published(epoch);
        self.canaries_published(now);
        self.announce_working();
    }

    /// What was ready when the table that is out was given out, is named by it.
    fn announce_working(&mut self) {
        let mut announced = Vec::new();
        let mut idle = Vec::new();
        for (&index, worker) in &mut self.workers {
            let Some(number) = worker.working else { continue };
            let Some(generation) = worker.generations.get_mut(&number) else { continue };
            if matches!(generation.phase, Phase::Ready { epoch: Some(epoch) } if epoch <= self.publication.published)
            {
                generation.phase = Phase::Working;
                worker.message = None;
                let named = if worker.takes_part() { &mut announced } else { &mut idle };
                named.push(GenerationId { worker: index, number });
            }
        }
        for id in announced {
            self.note("working", Some(id), "gets new flows");
        }
        for id in idle {
            self.note("working", Some(id), "weight 0: gets nothing new");
        }
    }

    pub(super) fn publish_failed(&mut self, now: Millis, epoch: u64, why: String) {
        if self.publication.in_flight != Some(epoch) {
            return;
        }
        self.publication.in_flight = None;
        self.publication.is_due = true;
        self.publication.retry_at = Some(now + RETRY);
        self.note("publish-failed", None, why);
    }
}

/// Every drain under way.
pub(super) fn drains_mut(
    workers: &mut std::collections::BTreeMap<u32, Worker>,
) -> impl Iterator<Item = (GenerationId, &mut Drain)> {
    let unsteady = workers.iter_mut().filter(|(_, worker)| !worker.is_steady());
    unsteady.flat_map(|(&index, worker)| {
        worker.generations.iter_mut().filter_map(move |(&number, generation)| match &mut generation.phase {
            Phase::Draining(drain) => Some((GenerationId { worker: index, number }, &mut **drain)),
            _ => None,
        })
    })
}
