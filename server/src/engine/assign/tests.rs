//! What an assignment promises: parts, small movements, nothing but indices and weights.

use proptest::prelude::*;

use super::*;

fn members(weights: &[u32]) -> Vec<Member> {
    (0..).zip(weights).map(|(index, &weight)| Member { index, weight }).collect()
}

/// The member's exact part, in buckets; nothing if it is not among them.
fn exact(members: &[Member], index: u32) -> f64 {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let own: u32 = members.iter().filter(|member| member.index == index).map(|member| member.weight).sum();
    BUCKETS as f64 * f64::from(own) / total as f64
}

/// Every bucket has a member, and every member its part: within 1 % where that is a thousand buckets or more, within 9
/// buckets or a bucket and its square root where it is less, and not nothing where it is one or more.
#[track_caller]
fn assert_parts(members: &[Member], owners: &[u32]) {
    let count = |index| owners.iter().filter(|&&owner| owner == index).count() as f64;
    let mut sum = 0.0;
    for member in members {
        let (has, part) = (count(member.index), exact(members, member.index));
        let most = if part >= 1_000.0 { part / 100.0 } else { (1.0 + part.sqrt()).min(9.0) };
        assert!((has - part).abs() <= most, "{member:?} has {has} buckets, its part is {part}");
        assert!(part < 1.0 || has > 0.0, "{member:?} has no bucket, its part is {part}");
        sum += has;
    }
    assert_eq!(sum, BUCKETS as f64, "every bucket has one of the members");
}

/// No more moves than the change in the member's part and 1 % of all buckets.
#[track_caller]
fn assert_moves_little(before: &[Member], after: &[Member], changed: u32) {
    let moved = assign(before).iter().zip(assign(after)).filter(|(one, other)| *one != other).count();
    let change = (exact(after, changed) - exact(before, changed)).abs();
    let extra = (moved as f64 - change) / BUCKETS as f64;
    assert!(
        extra <= 0.01,
        "{moved} buckets moved for a change of {change} in the part of {changed} of {}",
        before.len()
    );
}

/// From two members to as many as can be, small groups as often as large ones.
fn weights() -> impl Strategy<Value = Vec<u32>> {
    let count = prop_oneof![2usize..10, 10usize..100, 100usize..=1023];
    count.prop_flat_map(|count| {
        let equal = (1u32..=100).prop_map(move |weight| vec![weight; count]);
        prop_oneof![equal, proptest::collection::vec(1u32..=100, count)]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_member_has_its_part(weights in weights()) {
        let members = members(&weights);
        assert_parts(&members, &assign(&members));
    }

    #[test]
    fn one_that_comes_or_goes_moves_little(weights in weights(), weight in 1u32..=100, at: prop::sample::Index) {
        let fewer = members(&weights);
        let mut more = fewer.clone();
        // Its index may be any, its place too.
        let index = 5_000 + weight;
        more.insert(at.index(more.len()), Member { index, weight });
        assert_moves_little(&fewer, &more, index);
    }

    #[test]
    fn another_weight_moves_little(weights in weights(), weight in 1u32..=100, which: prop::sample::Index) {
        let before = members(&weights);
        let mut after = before.clone();
        let changed = which.index(after.len());
        after[changed].weight = weight;
        assert_moves_little(&before, &after, changed as u32);
    }

    #[test]
    fn order_and_the_unit_of_weights_are_of_no_account(
        weights in weights(), unit in 1u32..40_000_000, turn: prop::sample::Index,
    ) {
        let members = members(&weights);
        let mut turned = members.clone();
        turned.rotate_left(turn.index(members.len()));
        turned.swap(0, members.len() / 2);
        for member in &mut turned {
            member.weight *= unit;
        }
        prop_assert!(assign(&members) == assign(&turned), "with {turned:?}");
    }
}

/// Where chance takes most unevenly from parts that are small: one of many becomes a hundred times heavier, or comes so.
#[test]
fn a_heavy_one_among_many_light_ones_moves_little() {
    for count in [200, 450, 1_023] {
        let light = members(&vec![1; count]);
        for weight in [20, 100] {
            let mut heavier = light.clone();
            heavier[2].weight = weight;
            assert_moves_little(&light, &heavier, 2);
        }
        let mut more = light.clone();
        more.push(Member { index: 5_000, weight: 100 });
        assert_moves_little(&light, &more, 5_000);
    }
}

/// Weights as far apart as their type allows: the heavy one leaves the light ones what is a bucket or more.
#[test]
fn extreme_weights_are_served() {
    let mut extreme = members(&[1; 1_023]);
    extreme.push(Member { index: u32::MAX - 1, weight: u32::MAX });
    assert_parts(&extreme, &assign(&extreme));
    extreme[7].weight = u32::MAX >> 15;
    assert_parts(&extreme, &assign(&extreme));
    let heaviest = members(&[u32::MAX; 1_024]);
    assert_parts(&heaviest, &assign(&heaviest));
}

#[test]
fn nobody_has_what_nobody_can_have() {
    let nothing = |members: &[Member]| assign(members).iter().all(|&owner| owner == NOBODY);
    assert!(nothing(&[]) && nothing(&members(&[0, 0])));
    let alone = [Member { index: 7, weight: 3 }, Member { index: 8, weight: 0 }];
    assert_eq!(assign(&alone), vec![7; BUCKETS]);
}

#[test]
fn an_order_of_buckets_has_each_of_them_once() {
    for index in (0..64).chain([1_023, u32::MAX - 1, u32::MAX]) {
        let permutation = Permutation::of(index);
        let mut seen = vec![false; BUCKETS];
        (0..=u16::MAX).for_each(|position| seen[usize::from(permutation.bucket(position))] = true);
        assert!(seen.iter().all(|&seen| seen), "not all buckets are in the order of {index}");
    }
}

/// Another value here means that hosts of two versions no longer agree: a change to tell of.
#[test]
fn the_assignment_is_the_same_everywhere() {
    let checksum = |members: &[Member]| {
        let step = |sum: u64, owner: &u32| (sum ^ u64::from(*owner)).wrapping_mul(0x0000_0100_0000_01b3);
        assign(members).iter().fold(0xcbf2_9ce4_8422_2325, step)
    };
    let many: Vec<u32> = (0..1_024).map(|index| 1 + index * 37 % 100).collect();
    let checksums = [&[1_000; 8][..], &[1_000, 250, 3_000], &many].map(|weights| checksum(&members(weights)));
    assert_eq!(
        checksums,
        [11_941_276_186_956_830_718, 7_529_978_523_393_330_843, 14_409_792_635_562_801_211]
    );
}

/// What the leeway is for: in groups as most are, flows move to who comes or from who goes, and 2 of 65,536 buckets more in
/// the worst of these cases.
#[test]
fn in_a_small_group_next_to_nothing_moves_between_those_that_stay() {
    let largest = members(&[1_000; 8]);
    for count in 1..largest.len() {
        let (fewer, more) = (assign(&largest[..count]), assign(&largest[..=count]));
        let strays =
            fewer.iter().zip(&more).filter(|&(before, after)| before != after && *after != count as u32);
        let strays = strays.count();
        assert!(strays <= 2, "{strays} buckets, where there are {count} and one more comes");
    }
}
