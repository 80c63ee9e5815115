//! Weighted rendezvous hashing (Thaler and Ravishankar, 1998; with weights as in Schindelhauer and Schomaker, 2005): each bucket
//! goes to the member with the least -ln(u) / weight, where u is a hash of both in (0, 1).

use server_common::limits::BUCKETS;
use steer::engine::assign::{Member, NOBODY};

pub(super) fn assign(members: &[Member]) -> Vec<u32> {
    let winner = |bucket| {
        let distances = members.iter().map(|member| (distance(bucket, member), member.index));
        distances.min_by(|one, other| one.0.total_cmp(&other.0)).map_or(NOBODY, |(_, index)| index)
    };
    (0..BUCKETS as u64).map(winner).collect()
}

fn distance(bucket: u64, member: &Member) -> f64 {
    let mut z = (u64::from(member.index) << 32 | bucket).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // 53 bits are as many as the fraction has; never 0.
    let unit = (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -unit.ln() / f64::from(member.weight)
}
