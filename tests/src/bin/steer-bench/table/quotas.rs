//! Rendezvous hashing with quotas that give nothing: what the product does, but for the leeway, and one look after the other.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use server_common::limits::BUCKETS;
use steer::engine::assign::{Member, NOBODY, Permutation};

pub(super) fn assign(members: &[Member]) -> Vec<u32> {
    let mut owners = vec![NOBODY; BUCKETS];
    let mut quotas = quotas(members);
    let orders: Vec<Permutation> = members.iter().map(|member| Permutation::of(member.index)).collect();
    let times: Vec<u64> = (1..=BUCKETS as u64)
        .rev()
        .scan(0, |time, left| {
            *time += (1 << 59) / left;
            Some(*time)
        })
        .collect();
    let time = |looked: usize, member: &Member| times[looked] / u64::from(member.weight);
    let mut looks: BinaryHeap<_> =
        (0..).zip(members).map(|(at, member)| Reverse((time(0, member), member.index, at, 0))).collect();
    while let Some(Reverse((_, index, at, looked))) = looks.pop() {
        let Some(quota) = quotas.get_mut(&index).filter(|quota| **quota > 0) else { continue };
        let owner = &mut owners[usize::from(orders[at].bucket(looked as u16))];
        if *owner == NOBODY {
            *owner = index;
            *quota -= 1;
        }
        if looked + 1 < BUCKETS {
            looks.push(Reverse((time(looked + 1, &members[at]), index, at, looked + 1)));
        }
    }
    owners
}

/// Each member's buckets by the largest remainder.
fn quotas(members: &[Member]) -> BTreeMap<u32, u64> {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let exact = |member: &Member| BUCKETS as u64 * u64::from(member.weight);
    let mut quotas: BTreeMap<u32, u64> =
        members.iter().map(|member| (member.index, exact(member) / total)).collect();
    let left = BUCKETS as u64 - quotas.values().sum::<u64>();
    let mut by_remainder: Vec<&Member> = members.iter().collect();
    by_remainder.sort_by_key(|member| (Reverse(exact(member) % total), member.index));
    for member in by_remainder.into_iter().take(left as usize) {
        *quotas.entry(member.index).or_default() += 1;
    }
    quotas
}
