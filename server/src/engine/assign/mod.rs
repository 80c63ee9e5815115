//! Which worker has which bucket: rendezvous hashing with quotas.
//!
//! Each worker looks at the buckets in a pseudo-random order of its own, at times that its weight sets the pace of, and takes
//! what is still free while it has not got its part. What comes out is the stable matching (Gale and Shapley, 1962) of
//! buckets, which prefer who looks first, with workers, which prefer what they look at first and have room for their part.
//! Without the quotas it would be weighted rendezvous hashing (Thaler and Ravishankar, 1998): the k-th look of a worker comes
//! when the k-th smallest of as many exponential variables as there are buckets is expected, and the first of
//! several such clocks to strike is each with a probability in proportion to its pace. So quotas have little left to
//! correct, and a change disturbs little: who comes takes what it looks at early, the others lose what they looked
//! at late.
//!
//! All of it is a function of indices and of the weights' ratios, in whole numbers, without a history: the same on every
//! host, in every process, in whatever order the members come.
//!
//! What was wanted: parts of 1,000 buckets or more within 1 %, and a change that moves no more than the part that changes
//! and 1 % of all buckets, for 2 to 1,024 workers and weights of 1 to 100. A little leeway makes both possible.
//! The worst (w) and the median (m) of 256 changes, as `cargo xtask bench table` prints them:
//!
//! | | off a part (w) | moved beyond the change (m) | (w) | 1,024 workers (m) |
//! | --- | --- | --- | --- | --- |
//! | this | 0.89 % | 0.12 % | 0.85 % | 6 ms |
//! | quotas without leeway | 0.07 % | 0.24 % | 2.45 % | 46 ms, by a heap |
//! | Maglev | 1.10 % | 0.39 % | 3.91 % | 6 ms |
//! | weighted rendezvous | 12.4 % | 0.00 % | 0.41 % | 599 ms |
//!
//! Maglev (Eisenbud et al., NSDI 2016) has each worker, at its turn, skip to the next free bucket of its order, so what one
//! takes depends on what all others have taken. Quotas without leeway are the most exact, but where one of hundreds of workers
//! becomes a hundred times heavier, what it takes from each of the others is left to chance, some 6 of 64 buckets, and every
//! deviation from the mean has to be moved between them. Weighted rendezvous has parts as chance gives them.

mod permutation;
mod shared;
#[cfg(test)]
mod tests;

use server_common::limits::BUCKETS;

pub use self::permutation::Permutation;
pub(super) use self::shared::assigned;

/// Stands for "no member".
pub const NOBODY: u32 = u32::MAX;

/// The unit of [`look_times`]: the time in which a member of weight 1 looks at about 63 % of the buckets (all but 1/e).
const TIME_UNIT: u64 = 1 << 59;

/// A worker that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The worker's, which no other member has.
    pub index: u32,
    /// Relative to the others', above 0; in any unit (thousandths of a weight here).
    pub weight: u32,
}

/// The index of the member that has each bucket, [`NOBODY`] where there are none.
///
/// A member whose part is a bucket or more has at least one; one of weight 0 has none.
pub fn assign(members: &[Member]) -> Vec<u32> {
    let mut owners = vec![NOBODY; BUCKETS];
    let mut takers = takers(members);
    let total: u64 = takers.iter().map(|taker| taker.weight).sum();
    if total == 0 {
        return owners;
    }
    let times = look_times();
    // Buckets that may be taken beyond somebody's least.
    let mut spare = BUCKETS as u32 - takers.iter().map(|taker| taker.part.least).sum::<u32>();
    let mut free = BUCKETS;
    // Looks are put in order slice by slice of time, without those that come too late anyhow. The first has about as many as
    // there are buckets.
    let mut until = TIME_UNIT / total;
    let mut looks = Vec::new();
    while free > 0 {
        // Who has had enough will not want any later.
        takers.retain(|taker| taker.wants_more(spare));
        for (position, taker) in (0..).zip(&mut takers) {
            taker.look(position, until, &times, &owners, &mut looks);
        }
        // Each member's are in order already, which this sort makes use of; what comes at once stays in the order of indices.
        looks.sort_by_key(|look: &Look| look.time);
        for look in looks.drain(..) {
            let (owner, taker) = (&mut owners[usize::from(look.bucket)], &mut takers[look.taker as usize]);
            if *owner == NOBODY && taker.wants_more(spare) {
                spare -= u32::from(taker.has >= taker.part.least);
                taker.has += 1;
                *owner = taker.index;
                free -= 1;
            }
        }
        until += until / 2 + 1;
    }
    owners
}

/// How many buckets a member may have.
///
/// Its exact part, give or take 1/128 of it or, where that is more, 3/4 of its square root and 8 buckets at most; and what
/// rounding adds. For a part of 8 that is 3 buckets, for one of 64 it is 7, from 114 to 1,024 it is 9, then 0.8 %.
///
/// Where a member comes, what each of the others loses to it deviates from the mean by the mean's square root. With less leeway
/// they would have to make that up among themselves, and move what has nothing to do with the change.
#[derive(Debug, Clone, Copy)]
struct Part {
    least: u32,
    most: u32,
}

impl Part {
    fn new(weight: u64, total: u64) -> Self {
        // In 256ths of a bucket, of which the square root is in sixteenths.
        let exact = u128::from(weight) * (BUCKETS as u128 * 256) / u128::from(total);
        let exact = exact as u64;
        let leeway = (exact.isqrt() * 16 * 3 / 4).min(8 * 256).max(exact / 128);
        let least = exact.saturating_sub(leeway) / 256;
        // Above the exact part, whatever the divisions left off: all parts at their most are more than there is.
        let most = (exact + leeway) / 256 + 1;
        Self { least: (least as u32).max(u32::from(exact >= 256)), most: most as u32 }
    }
}

/// A member and what it has got so far.
#[derive(Debug)]
struct Taker {
    index: u32,
    weight: u64,
    permutation: Permutation,
    part: Part,
    has: u32,
    /// How many buckets it has looked at.
    looked: usize,
}

/// A look at a bucket that was free when the slice of time began.
#[derive(Debug)]
struct Look {
    time: u64,
    taker: u32,
    bucket: u16,
}

impl Taker {
    fn wants_more(&self, spare: u32) -> bool {
        self.has < self.part.least || (spare > 0 && self.has < self.part.most)
    }

    /// Looks on, up to and with the time `until`.
    fn look(&mut self, taker: u32, until: u64, times: &[u64], owners: &[u32], looks: &mut Vec<Look>) {
        // As many times later as the weight is higher, so that there is one division for each bucket found free, not for
        // each look.
        let limit = until.saturating_add(1).saturating_mul(self.weight);
        while self.looked < BUCKETS && times[self.looked] < limit {
            let bucket = self.permutation.bucket(self.looked as u16);
            if owners[usize::from(bucket)] == NOBODY {
                looks.push(Look { time: times[self.looked] / self.weight, taker, bucket });
            }
            self.looked += 1;
        }
    }
}

/// The members in order of their indices, weights reduced to lowest terms: only their ratios count.
fn takers(members: &[Member]) -> Vec<Taker> {
    let mut members: Vec<Member> = members.iter().copied().filter(|member| member.weight > 0).collect();
    members.sort_unstable_by_key(|member| member.index);
    let divisor = members.iter().fold(0, |divisor, member| greatest_common_divisor(divisor, member.weight));
    let total = members.iter().map(|member| u64::from(member.weight / divisor)).sum();
    let taker = |member: &Member| {
        let weight = u64::from(member.weight / divisor);
        let (permutation, part) = (Permutation::of(member.index), Part::new(weight, total));
        Taker { index: member.index, weight, permutation, part, has: 0, looked: 0 }
    };
    members.iter().map(taker).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// When a member of weight 1 has each of its looks: the expected order statistics of as many exponential variables as there
/// are buckets, 1/n + 1/(n-1) + ... (Rényi, 1953). The last is 12 units.
fn look_times() -> Vec<u64> {
    let steps = (1..=BUCKETS as u64).rev().map(|left| TIME_UNIT / left);
    let running_sum = |time: &mut u64, step| {
        *time += step;
        Some(*time)
    };
    steps.scan(0, running_sum).collect()
}
