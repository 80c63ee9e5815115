//! What must hold of a table, and of the change from one to the next.

use std::collections::{BTreeMap, BTreeSet};

use server_common::limits::{BUCKETS, NO_SLOT};

use super::{
    super::{
        event::{GenerationId, Slot},
        group::Group,
        layout::Layout,
    },
    kernel::Holder,
    ledger::Checked,
};

/// How many buckets may move beyond a member's change in share, in parts of all buckets: what the assignment promises.
const INEXACT: f64 = 0.01;

/// How many buckets a member may have more or less than its part: what the assignment says of its quotas.
fn leeway(part: f64) -> f64 {
    (part / 128.0).max((part.sqrt() * 3.0 / 4.0).min(8.0)) + 2.0
}

/// A table, and whose its slots were when it was given out.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) layout: Layout,
    holders: BTreeMap<Slot, Holder>,
    /// The weights of those who take part, by index.
    members: BTreeMap<u32, u32>,
    /// The slot of each worker's canary.
    canaries: BTreeMap<u32, Slot>,
}

impl Named {
    /// Every slot that it names must be somebody's, and a bucket's must be a working generation's with a weight, its canary's, or
    /// the hold's.
    pub(super) fn new(layout: &Layout, slots: &BTreeMap<Slot, Holder>, group: &Group) -> Checked<Self> {
        let mut named = Self {
            layout: layout.clone(),
            holders: BTreeMap::new(),
            members: BTreeMap::new(),
            canaries: BTreeMap::new(),
        };
        for slot in layout.working.iter().chain(&layout.hold) {
            let holder =
                slots.get(slot).ok_or(format!("table {} names the empty slot {slot}", layout.epoch))?;
            let fits = (*holder == Holder::Hold) == (layout.hold == Some(*slot));
            if !fits || named.holders.insert(*slot, *holder).is_some() {
                return Err(format!("table {} names slot {slot} of {holder:?} wrongly", layout.epoch));
            }
            if let Holder::Generation(id) = holder {
                let worker = &group.workers[&id.worker];
                let weight = worker.effective_weight();
                if worker.working != Some(id.number) || weight == 0 {
                    return Err(format!("table {} has {id:?} work, of weight {weight}", layout.epoch));
                }
                named.members.insert(id.worker, weight);
            }
        }
        for (&index, worker) in group.workers.iter().filter(|(index, _)| named.members.contains_key(index)) {
            if let Some((number, _)) = worker.canary() {
                let slot = worker.generations[&number].slot;
                let id = GenerationId { worker: index, number };
                if named.holders.insert(slot, Holder::Generation(id)).is_some() {
                    return Err(format!("table {} has the canary {id:?} work", layout.epoch));
                }
                named.canaries.insert(index, slot);
            }
        }
        Ok(named)
    }

    pub(super) fn names(&self, slot: Slot) -> bool {
        self.holders.contains_key(&slot)
    }

    fn worker(&self, slot: Slot) -> Option<u32> {
        match self.holders.get(&slot)? {
            Holder::Generation(id) => Some(id.worker),
            Holder::Hold => None,
        }
    }

    /// Shares follow the weights, and a canary has its part of its worker's buckets.
    pub(super) fn check_shares(&self, group: &Group, counts: &BTreeMap<Slot, usize>) -> Checked {
        let epoch = self.layout.epoch;
        let count = |slot: &Slot| counts.get(slot).copied().unwrap_or(0);
        for slot in &self.layout.working {
            let Some(worker) = self.worker(*slot) else { continue };
            let canary = self.canaries.get(&worker);
            let has = count(slot) + canary.map_or(0, count);
            let part = part(&self.members, worker);
            if (has as f64 - part).abs() > leeway(part) {
                return Err(format!("in table {epoch} worker {worker} has {has} buckets, not {part}"));
            }
            let Some(canary) = canary else { continue };
            let Some((_, trial)) = group.workers[&worker].canary() else { continue };
            let wanted = (has as f64 * f64::from(trial.canary.permille) / 1_000.0).round() as usize;
            let wanted = if has < 2 { has } else { wanted.clamp(1, has - 1) };
            if count(canary) != wanted {
                let has_part = count(canary);
                return Err(format!(
                    "in table {epoch} a canary has {has_part} of {has} buckets, not {wanted}"
                ));
            }
        }
        Ok(())
    }
}

/// What changes between two tables: buckets go to other workers where members or weights have changed, as many as it takes, and to
/// nobody only where there are no members; within a worker, only where a generation comes or goes.
pub(super) fn check_change(before: Option<&Named>, after: &Named, group: &Group) -> Checked {
    let empty: Vec<Slot> = vec![NO_SLOT; BUCKETS];
    let old = before.map_or(&empty[..], |named| &named.layout.buckets);
    let epoch = after.layout.epoch;
    let nobody = if after.members.is_empty() { after.layout.hold.unwrap_or(NO_SLOT) } else { NO_SLOT };
    let mut moved = 0;
    let mut counts = BTreeMap::new();
    for ((old, new), count) in pairs(old, &after.layout.buckets, group.rules.slots) {
        *counts.entry(new).or_default() += count;
        let from = before.and_then(|before| before.worker(old));
        let to = after.worker(new);
        if to.is_none() && !(after.members.is_empty() && new == nobody) {
            return Err(format!("{count} buckets of table {epoch} name slot {new}"));
        }
        moved += if from == to { 0 } else { count };
        let both_stay = before.is_some_and(|before| before.names(new)) && after.names(old);
        let same_members = before.is_some_and(|before| before.members == after.members);
        if from == to && old != new && both_stay && same_members {
            return Err(format!("table {epoch} moves {count} buckets between generations of {from:?}"));
        }
    }
    after.check_shares(group, &counts)?;
    let Some(before) = before else { return Ok(()) };
    let most = most_moves(&before.members, &after.members);
    if moved as f64 > most {
        let (before, after) = (&before.members, &after.members);
        return Err(format!("table {epoch} moves {moved} buckets, not {most}: from {before:?} to {after:?}"));
    }
    Ok(())
}

/// The most buckets that may move between members: for each that changes its own change in share, one after another, and a
/// little. Where no member changes, that is none.
fn most_moves(before: &BTreeMap<u32, u32>, after: &BTreeMap<u32, u32>) -> f64 {
    let workers: BTreeSet<u32> = before.keys().chain(after.keys()).copied().collect();
    let mut members = before.clone();
    let mut most = 0.0;
    for worker in workers.into_iter().filter(|worker| before.get(worker) != after.get(worker)) {
        let old = part(&members, worker);
        match after.get(&worker) {
            Some(weight) => drop(members.insert(worker, *weight)),
            None => drop(members.remove(&worker)),
        }
        most += (part(&members, worker) - old).abs() + INEXACT * BUCKETS as f64;
    }
    most
}

/// The buckets that a worker should have.
fn part(members: &BTreeMap<u32, u32>, worker: u32) -> f64 {
    let sum: u32 = members.values().sum();
    let weight = members.get(&worker).copied().unwrap_or(0);
    BUCKETS as f64 * f64::from(weight) / f64::from(sum.max(1))
}

/// How many buckets go from one slot to another. Counted by slots first: there are many buckets and few slots.
fn pairs(from: &[Slot], to: &[Slot], slots: u32) -> Vec<((Slot, Slot), usize)> {
    let width = slots as usize + 1;
    let index = |slot: Slot| (slot as usize).min(width - 1);
    let mut counts = vec![0usize; width * width];
    let mut at = 0;
    // By index: in a debug build an iterator would take longer than everything else in these tests.
    while at < BUCKETS {
        counts[index(from[at]) * width + index(to[at])] += 1;
        at += 1;
    }
    let slot = |index: usize| if index == width - 1 { NO_SLOT } else { index as Slot };
    let pair =
        |(at, &count): (usize, &usize)| (count > 0).then(|| ((slot(at / width), slot(at % width)), count));
    counts.iter().enumerate().filter_map(pair).collect()
}
