//! Maglev hashing (Eisenbud et al., NSDI 2016) with weights: each worker takes turns at a pace that its weight sets, and at
//! each the next free bucket of its order.
//!
//! The orders are the product's, not the paper's affine ones, which want a table of prime size.

use std::{cmp::Reverse, collections::BinaryHeap};

use server_common::limits::BUCKETS;
use steer::engine::assign::{Member, NOBODY, Permutation};

pub(super) fn assign(members: &[Member]) -> Vec<u32> {
    let mut owners = vec![NOBODY; BUCKETS];
    let mut orders: Vec<_> =
        members.iter().map(|member| (0..=u16::MAX).map(bucket_of(Permutation::of(member.index)))).collect();
    let time = |turn: u64, member: &Member| (turn << 40) / u64::from(member.weight);
    let mut turns: BinaryHeap<_> =
        (0..).zip(members).map(|(at, member)| Reverse((time(1, member), member.index, at, 1))).collect();
    for _ in 0..BUCKETS {
        let Some(Reverse((_, index, at, turn))) = turns.pop() else { break };
        if let Some(free) = orders[at].find(|&bucket| owners[bucket] == NOBODY) {
            owners[free] = index;
        }
        turns.push(Reverse((time(turn + 1, &members[at]), index, at, turn + 1)));
    }
    owners
}

fn bucket_of(permutation: Permutation) -> impl Fn(u16) -> usize {
    move |position| usize::from(permutation.bucket(position))
}
