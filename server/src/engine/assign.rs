//! Which worker has which bucket: rendezvous hashing.
//!
//! Each bucket goes to the member with the highest score for it (Thaler and Ravishankar, 1998). A score is a function
//! of bucket and worker alone, so the assignment is the same in every process, whatever order the members came in; and a
//! member that comes or goes moves the buckets that it gets or had, no others: 1/n of them, give or take the deviation of
//! a fair draw (0.4 % of all buckets for 8 workers, at three sigma).

use server_common::limits::BUCKETS;

/// Stands for "no member".
pub const NOBODY: u32 = u32::MAX;

/// The member that has each bucket, [`NOBODY`] where there are none.
pub fn assign(members: &[u32]) -> Vec<u32> {
    (0..BUCKETS as u32).map(|bucket| best(bucket, members.iter().copied())).collect()
}

/// What [`assign`] makes of `members`, from what it made of `before`: the winner of a bucket is compared with those who came, and
/// with all members only where it has left. For one of a thousand workers that is a hundredth of the work.
pub fn reassign(owners: &[u32], before: &[u32], members: &[u32]) -> Vec<u32> {
    let without = |these: &[u32], those: &[u32]| -> Vec<u32> {
        these.iter().copied().filter(|member| !those.contains(member)).collect()
    };
    let (left, came) = (without(before, members), without(members, before));
    let next = |(bucket, &owner): (u32, &u32)| {
        if owner == NOBODY || left.contains(&owner) {
            best(bucket, members.iter().copied())
        } else if came.is_empty() {
            owner
        } else {
            best(bucket, came.iter().copied().chain([owner]))
        }
    };
    (0..).zip(owners).map(next).collect()
}

fn best(bucket: u32, members: impl Iterator<Item = u32>) -> u32 {
    // The index decides between equal scores, so that the order of members never does.
    members.max_by_key(|&member| (score(bucket, member), member)).unwrap_or(NOBODY)
}

/// A bucket's score for a member: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014) over both.
fn score(bucket: u32, member: u32) -> u64 {
    let mut z = (u64::from(member) << 32 | u64::from(bucket)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moved(before: &[u32], after: &[u32]) -> usize {
        before.iter().zip(after).filter(|(a, b)| a != b).count()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn one_member_more_moves_only_what_it_gets(count in 1u32..40) {
            let fewer: Vec<u32> = (0..count).collect();
            let more: Vec<u32> = (0..=count).collect();
            let (before, after) = (assign(&fewer), assign(&more));
            prop_assert!(before.iter().zip(&after).all(|(a, b)| a == b || *b == count));
            let share = moved(&before, &after) as f64 / BUCKETS as f64;
            prop_assert!(share <= 1.0 / f64::from(count + 1) + 0.01, "{share} of {}", count + 1);
        }

        #[test]
        fn the_order_of_members_is_of_no_account(count in 1u32..20, turn in 0usize..20) {
            let members: Vec<u32> = (0..count).collect();
            let mut turned = members.clone();
            turned.rotate_left(turn % members.len());
            prop_assert_eq!(assign(&members), assign(&turned));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn from_what_was_before_comes_the_same_as_from_nothing(
            before in proptest::collection::btree_set(0u32..12, 0..6),
            after in proptest::collection::btree_set(0u32..12, 0..6),
        ) {
            let (before, after) = (Vec::from_iter(before), Vec::from_iter(after));
            prop_assert_eq!(reassign(&assign(&before), &before, &after), assign(&after));
        }
    }

    #[test]
    fn every_bucket_has_a_member_and_shares_are_even() {
        assert!(assign(&[]).iter().all(|&owner| owner == NOBODY));
        let members: Vec<u32> = (0..8).collect();
        let owners = assign(&members);
        for member in members {
            let share = owners.iter().filter(|&&owner| owner == member).count() as f64 / BUCKETS as f64;
            assert!((share - 0.125).abs() < 0.005, "{member} has {share}");
        }
    }
}
