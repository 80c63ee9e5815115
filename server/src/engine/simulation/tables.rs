//! What must hold of a table, and of the change from one to the next.

use std::collections::{BTreeMap, BTreeSet};

use server_common::limits::{BUCKETS, NO_SLOT};

use super::{
    super::{event::Slot, layout::Layout},
    kernel::Holder,
    ledger::Checked,
};

/// A table, and whose its slots were when it was given out.
pub(super) struct Named {
    pub(super) layout: Layout,
    holders: BTreeMap<Slot, Holder>,
}

impl Named {
    /// Every slot that it names must be somebody's, and a bucket's must be a working generation's or the hold's.
    pub(super) fn new(layout: &Layout, slots: &BTreeMap<Slot, Holder>) -> Checked<Self> {
        let mut holders = BTreeMap::new();
        for slot in layout.working.iter().chain(&layout.hold) {
            let holder =
                slots.get(slot).ok_or(format!("table {} names the empty slot {slot}", layout.epoch))?;
            let fits = (*holder == Holder::Hold) == (layout.hold == Some(*slot));
            if !fits || holders.insert(*slot, *holder).is_some() {
                return Err(format!("table {} names slot {slot} of {holder:?} wrongly", layout.epoch));
            }
        }
        Ok(Self { layout: layout.clone(), holders })
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

    fn members(&self) -> BTreeSet<u32> {
        self.layout.working.iter().filter_map(|&slot| self.worker(slot)).collect()
    }
}

/// Of all buckets, the part that may move between members that stay, for each that comes or goes.
const BETWEEN_OTHERS: f64 = 0.01;

/// Hardly a bucket moves but from a member that leaves or to one that comes, none where the members are the same, and to nobody
/// only where there are no members.
pub(super) fn check_change(before: Option<&Named>, after: &Named, slots: u32) -> Checked {
    let empty: Vec<Slot> = vec![NO_SLOT; BUCKETS];
    let old = before.map_or(&empty[..], |named| &named.layout.buckets);
    let (left, stays) = match before {
        Some(before) => (before.members(), after.members()),
        None => (BTreeSet::new(), after.members()),
    };
    let (mut moved, mut between_others) = (0, 0);
    for ((from, to), count) in pairs(old, &after.layout.buckets, slots) {
        let epoch = after.layout.epoch;
        let nobody = if stays.is_empty() { after.layout.hold.unwrap_or(NO_SLOT) } else { NO_SLOT };
        let from = before.and_then(|before| before.worker(from));
        match after.worker(to) {
            Some(worker) => {
                let may_move = from.is_none_or(|from| !stays.contains(&from)) || !left.contains(&worker);
                if from != Some(worker) {
                    moved += count;
                    between_others += if may_move { 0 } else { count };
                }
            }
            None if stays.is_empty() && to == nobody => moved += count,
            None => return Err(format!("{count} buckets of table {epoch} name slot {to}")),
        }
    }
    let changes = left.symmetric_difference(&stays).count();
    let part = |count: usize| count as f64 / BUCKETS as f64;
    if part(between_others) > BETWEEN_OTHERS * changes as f64 {
        let epoch = after.layout.epoch;
        return Err(format!(
            "table {epoch} moves {between_others} buckets between members that stay, for {changes} changes"
        ));
    }
    let most = left.len().max(stays.len());
    if changes == 1 && most > 1 {
        let share = part(moved);
        if share > 1.0 / most as f64 + BETWEEN_OTHERS {
            return Err(format!("{share} of the buckets move where one of {most} workers comes or goes"));
        }
    }
    Ok(())
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
