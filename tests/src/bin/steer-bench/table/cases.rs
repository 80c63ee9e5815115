//! Groups, what changes in them, and what is measured of that.

use std::collections::BTreeMap;

use server_common::limits::{BUCKETS, WORKERS_MAX};
use steer::engine::assign::Member;

/// The smallest part of which the relative deviation is measured: a bucket more or less is a thousandth of it.
const LARGE_PART: f64 = 1_000.0;

/// A group before and after one change.
pub(super) struct Case {
    pub(super) before: Vec<Member>,
    pub(super) after: Vec<Member>,
    changed: u32,
}

/// How far parts are off.
pub(super) struct Off {
    /// The most, in buckets.
    pub(super) buckets: f64,
    /// The most of a large part, in %.
    pub(super) percent: Option<f64>,
}

impl Case {
    /// In % of all buckets.
    pub(super) fn moved_beyond_the_change(&self, before: &[u32], after: &[u32]) -> f64 {
        let moved = before.iter().zip(after).filter(|(one, other)| one != other).count();
        let change = (part(&self.after, self.changed) - part(&self.before, self.changed)).abs();
        100.0 * (moved as f64 - change) / BUCKETS as f64
    }
}

/// A member's exact part in buckets, 0 if it is none.
fn part(members: &[Member], index: u32) -> f64 {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let own = members.iter().find(|member| member.index == index).map_or(0, |member| member.weight);
    BUCKETS as f64 * f64::from(own) / total as f64
}

/// The most that `owners` are off the members' parts.
pub(super) fn parts_off(members: &[Member], owners: &[u32]) -> Off {
    let mut counts = BTreeMap::<u32, f64>::new();
    for owner in owners {
        *counts.entry(*owner).or_default() += 1.0;
    }
    let mut off = Off { buckets: 0.0, percent: None };
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    for member in members {
        let part = BUCKETS as f64 * f64::from(member.weight) / total as f64;
        let buckets = (counts.get(&member.index).unwrap_or(&0.0) - part).abs();
        off.buckets = off.buckets.max(buckets);
        if part >= LARGE_PART {
            off.percent = Some(off.percent.unwrap_or(0.0).max(100.0 * buckets / part));
        }
    }
    off
}

/// For groups of each size, of equal and of random weights, `each` times each kind of change.
pub(super) fn all(each: usize, quick: bool) -> Vec<Case> {
    let sizes: &[usize] = if quick { &[2, 32] } else { &[2, 3, 8, 32, 100, 300, 600, WORKERS_MAX] };
    let mut entropy = Entropy(0);
    let mut cases = Vec::new();
    for &size in sizes {
        for _ in 0..each {
            for is_equal in [true, false] {
                changes(&members(size, is_equal, &mut entropy), &mut entropy, &mut cases);
            }
        }
    }
    cases
}

/// As many workers as there can be, of random weights.
pub(super) fn largest() -> Vec<Member> {
    members(WORKERS_MAX, false, &mut Entropy(1))
}

fn members(size: usize, is_equal: bool, entropy: &mut Entropy) -> Vec<Member> {
    // Indices of groups do not start at 0 alone, and each group has others.
    let first = entropy.below(1 << 20);
    let member = |index| Member { index, weight: if is_equal { 1 } else { 1 + entropy.below(100) } };
    (first..first + size as u32).map(member).collect()
}

/// One comes, one goes, one gets another weight, and one weighs a hundred times the least, which is the most that weights of
/// 1 to 100 can change.
fn changes(members: &[Member], entropy: &mut Entropy, cases: &mut Vec<Case>) {
    let which = entropy.below(members.len() as u32) as usize;
    let weight = 1 + entropy.below(100);
    let mut changed = |before: &[Member], index, change: &dyn Fn(&mut Vec<Member>)| {
        let mut after = before.to_vec();
        change(&mut after);
        cases.push(Case { before: before.to_vec(), after, changed: index });
    };
    let index = members[which].index;
    let new = Member { index: members[members.len() - 1].index + 1, weight };
    // One comes to a group that still has room.
    let fewer = &members[..members.len().min(WORKERS_MAX - 1)];
    changed(fewer, new.index, &|after| after.push(new));
    changed(members, index, &|after| after.retain(|member| member.index != index));
    changed(members, index, &|after| after[which].weight = weight);
    changed(members, index, &|after| after[which].weight = 100);
}

/// SplitMix64 (Steele, Lea and Flood, 2014): the same cases in every run.
struct Entropy(u64);

impl Entropy {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(bound)) as u32
    }
}
