//! What a change of policy or weights would move: worked out beforehand, by what the change itself does.

use std::{collections::BTreeMap, sync::Arc};

use server_common::{flow_hash::Seed, limits::BUCKETS};

use crate::policy::Policy;

use super::{assign::Member, effect::Failure, group::Group, worker::THOUSANDTHS};

/// A change that could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Decide by another policy.
    Policy(Policy),
    /// Give a worker another weight; step by step or at once, the end is the same.
    Weight {
        /// The worker.
        worker: u32,
        /// The weight.
        weight: u32,
    },
}

/// Where new flows go at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What decides.
    pub policy: Policy,
    /// Who has which bucket, by index, [`NOBODY`](super::assign::NOBODY) where nobody has.
    pub owners: Arc<[u32]>,
    /// The weight of each worker, as it was given.
    pub weights: BTreeMap<u32, u32>,
}

/// What a change makes of the group, everything else being equal: weights of others that change step by step stay where they
/// are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// As it is without the change.
    pub before: Snapshot,
    /// As it is once the change is over.
    pub after: Snapshot,
}

impl Plan {
    /// How many buckets another worker has afterwards.
    pub fn moved_buckets(&self) -> u32 {
        let pairs = self.before.owners.iter().zip(self.after.owners.iter());
        pairs.filter(|(before, after)| before != after).count() as u32
    }

    /// Whether flows find their buckets by another key: then each is placed anew.
    pub fn is_rekeyed(&self) -> bool {
        // Under one seed, whichever: the policies alone are compared.
        let seed = Seed::default();
        self.before.policy.keying(seed) != self.after.policy.keying(seed)
    }

    /// The part of all possible flows, 0 to 1, whose first choice is another worker afterwards.
    pub fn moved_share(&self) -> f64 {
        if !self.is_rekeyed() {
            return f64::from(self.moved_buckets()) / BUCKETS as f64;
        }
        // The two keys are independent: a flow stays by chance, where its new bucket is of the same worker as its old one.
        let (before, after) = (shares(&self.before.owners), shares(&self.after.owners));
        let stays = |(owner, share): (&u32, &f64)| share * after.get(owner).unwrap_or(&0.0);
        1.0 - before.iter().map(stays).sum::<f64>()
    }
}

impl Group {
    /// What a change would move; refused where the change would be.
    pub fn plan(&self, change: &Change) -> Result<Plan, Failure> {
        self.check_change(change)?;
        let weights: BTreeMap<u32, u32> =
            self.workers.iter().map(|(&index, worker)| (index, worker.weight)).collect();
        // Not what the last table says: who takes part may have changed since it was given out.
        let owners = self.owners_among(&self.members());
        let before = Snapshot { policy: self.policy, owners, weights };
        let mut after = before.clone();
        match *change {
            Change::Policy(policy) => after.policy = policy,
            Change::Weight { worker, weight } => {
                after.weights.insert(worker, weight);
                after.owners = self.owners_among(&self.members_with(worker, weight));
            }
        }
        Ok(Plan { before, after })
    }

    /// Who takes part once a worker has this weight.
    fn members_with(&self, changed: u32, weight: u32) -> Vec<Member> {
        let working = self.workers.iter().filter(|(_, worker)| worker.working.is_some());
        let member = |(&index, worker): (&u32, &super::worker::Worker)| Member {
            index,
            weight: if index == changed { weight * THOUSANDTHS } else { worker.effective_weight() },
        };
        working.map(member).filter(|member| member.weight > 0).collect()
    }
}

/// Each owner's part of the buckets; nobody counts as one.
fn shares(owners: &[u32]) -> BTreeMap<u32, f64> {
    let mut shares = BTreeMap::new();
    for owner in owners {
        *shares.entry(*owner).or_default() += 1.0 / BUCKETS as f64;
    }
    shares
}
