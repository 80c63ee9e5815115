//! Which worker has which bucket: greedy matching of the workers' permutations of the buckets, up to exact quotas.
//!
//! Each worker looks at the buckets in an order of its own, as often as its weight says, and takes those that are free until it
//! has its part. The assignment is a function of indices and weights alone.

use server_common::limits::BUCKETS;

/// A worker that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its index.
    pub index: u32,
    /// Its part, relative to the others': above 0, in any unit.
    pub weight: u32,
}

/// Stands for "no member".
pub const NOBODY: u32 = u32::MAX;

/// The index that has each bucket, [`NOBODY`] where there are no members.
pub fn assign(members: &[Member]) -> Vec<u32> {
    let mut owners = vec![NOBODY; BUCKETS];
    let mut members = members.to_vec();
    members.sort_by_key(|member| member.index);
    let mut room = quotas(&members);
    let mut looked = vec![0_u64; members.len()];
    while room.iter().any(|&room| room > 0) {
        // Who looks next: the k-th look of a member is at the time k / weight.
        let sooner = |&a: &usize, &b: &usize| {
            let time = |at: usize, other: usize| (looked[at] + 1) * u64::from(members[other].weight);
            time(a, b).cmp(&time(b, a)).then(a.cmp(&b))
        };
        let Some(at) = (0..members.len()).filter(|&at| room[at] > 0).min_by(sooner) else { break };
        let bucket = permuted(members[at].index, looked[at]);
        looked[at] += 1;
        if owners[bucket] == NOBODY {
            owners[bucket] = members[at].index;
            room[at] -= 1;
        }
    }
    owners
}

/// How many buckets each member has: by largest remainder.
fn quotas(members: &[Member]) -> Vec<usize> {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let exact = |member: &Member| BUCKETS as u64 * u64::from(member.weight);
    let mut quotas: Vec<usize> = members.iter().map(|member| (exact(member) / total) as usize).collect();
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|&at| (std::cmp::Reverse(exact(&members[at]) % total), members[at].index));
    let missing = if members.is_empty() { 0 } else { BUCKETS - quotas.iter().sum::<usize>() };
    order[..missing].iter().for_each(|&at| quotas[at] += 1);
    quotas
}

/// The bucket that a member looks at after so many others: a bijection of 16 bits for each member.
fn permuted(member: u32, place: u64) -> usize {
    let mut key = u64::from(member);
    let mut z = place as u16;
    for _ in 0..4 {
        key = (key ^ (key >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (key >> 48) as u16).wrapping_mul((key >> 32) as u16 | 1);
        z ^= z >> 7;
    }
    usize::from(z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_has_a_member_and_shares_follow_the_weights() {
        assert!(assign(&[]).iter().all(|&owner| owner == NOBODY));
        let owners = assign(&[1, 2, 5].map(|weight| Member { index: weight, weight }));
        for weight in [1, 2, 5] {
            let has = owners.iter().filter(|&&owner| owner == weight).count();
            assert_eq!(has, BUCKETS / 8 * weight as usize);
        }
    }
}
