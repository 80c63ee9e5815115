//! Another configuration for a group that runs: rules, policy, weights and the number of workers, all of it or nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::{Policy, WEIGHT_MAX};

use super::{
    drain::Limits,
    effect::Failure,
    event::{Millis, OperationId},
    group::Group,
    operation::{Task, refused},
    weights::too_small,
    worker::Goal,
};

/// What a group is to be from now on; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconfiguration {
    /// The policy, where it is to be another.
    pub policy: Option<Policy>,
    /// The workers that are to have another weight. One that there is not has it when it comes.
    pub weights: BTreeMap<u32, u32>,
    /// How many workers there are to be, where that is another number.
    pub workers: Option<u32>,
    /// How long the drains of those that leave may take.
    pub timeout: Option<Millis>,
    /// The rules from now on.
    pub conduct: Conduct,
}

/// The rules that can change while a group runs: what each means, [`Rules`](super::group::Rules) says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conduct {
    /// The weights of workers that come.
    pub weights: BTreeMap<u32, u32>,
    /// Whether a restart stops the old generation first.
    pub replace: bool,
    /// Whether connections are held while no worker works.
    pub hold: bool,
    /// How long connections are held at most.
    pub hold_max: Option<Millis>,
    /// From start to ready; a generation that starts already has what it had.
    pub start: Millis,
    /// From a drain's begin to its deadline; a drain under way has what it had.
    pub drain: Millis,
    /// The parts of a drain.
    pub limits: Limits,
}

impl Group {
    /// Takes a configuration over: what is to be published is in one table.
    pub(super) fn reconfigure(
        &mut self,
        now: Millis,
        id: OperationId,
        change: Reconfiguration,
    ) -> Result<(), Failure> {
        self.check_reconfiguration(&change)?;
        let Reconfiguration { policy, weights, workers, timeout, conduct } = change;
        let is_published = policy.is_some()
            || !weights.is_empty()
            || (conduct.hold && self.rules.migrates) != self.rules.hold;
        self.take_over_rules(conduct);
        self.note("reconfigured", None, "as the configuration says now");
        if let Some(policy) = policy {
            self.note("policy", None, format!("{} to {policy}", self.policy));
            self.policy = policy;
        }
        for (index, weight) in weights {
            let Some(worker) = self.workers.get_mut(&index).filter(|worker| worker.goal != Goal::Leave)
            else {
                continue;
            };
            let detail = format!("worker {index}: {} to {weight}", worker.weight);
            worker.weight = weight;
            self.note("weight", None, detail);
            self.end_ramp(index, "overruled by a later weight");
        }
        self.publication.is_due |= is_published;
        // Where no table is to come of it, none is waited for: the one before the first is over.
        let epoch = if is_published { None } else { Some(0) };
        let Some(wanted) = workers else {
            return self.begin(id, "reconfigure", BTreeSet::new(), timeout, Task::Reconfigured(epoch));
        };
        let hands = self.hands(wanted);
        self.join(&hands);
        self.begin(id, "reconfigure", hands.all(), timeout, Task::Reconfigured(epoch))?;
        self.come_and_go(now, id, hands, timeout);
        Ok(())
    }

    fn take_over_rules(&mut self, conduct: Conduct) {
        let Conduct { weights, replace, hold, hold_max, start, drain, limits } = conduct;
        let rules = &mut self.rules;
        (rules.weights, rules.replace, rules.hold) = (weights, replace, hold && rules.migrates);
        rules.hold_max = hold_max;
        (rules.start, rules.drain, rules.limits) = (start, drain, limits);
    }

    /// Whether the group could be so configured now; changes nothing.
    pub fn check_reconfiguration(&self, change: &Reconfiguration) -> Result<(), Failure> {
        self.goes_on("reconfigure")?;
        if let Some((index, weight)) = change.weights.iter().find(|(_, weight)| **weight > WEIGHT_MAX) {
            let message =
                format!("cannot give worker {index} the weight {weight}: a weight is 0 to {WEIGHT_MAX}");
            return Err(refused(message, None));
        }
        if let Some(wanted) = change.workers {
            self.check_count(wanted)?;
            let busy = |index: &u32| self.workers.get(index).is_some_and(|worker| worker.operation.is_some());
            if let Some(busy) = self.hands(wanted).all().into_iter().find(busy) {
                return Err(refused(
                    format!("cannot scale to {wanted} workers: another change to worker {busy} is under way"),
                    Some("wait for it; `steer events --follow` shows its end".into()),
                ));
            }
        }
        if change.workers.is_none() && change.weights.is_empty() {
            return Ok(());
        }
        match too_small(&self.weights_with(change)) {
            None => Ok(()),
            Some(why) => {
                let hint = "weights that were given by `steer weight` count too: `steer status` shows them";
                Err(refused(format!("cannot give out these weights: {why}"), Some(hint.into())))
            }
        }
    }

    /// The weights of all workers that are to stay or come.
    fn weights_with(&self, change: &Reconfiguration) -> Vec<(u32, u32)> {
        let stays = |index: u32| self.workers.get(&index).filter(|worker| worker.goal != Goal::Leave);
        let indices: Vec<u32> = match change.workers {
            Some(wanted) => (0..wanted).collect(),
            None => self.workers.keys().copied().filter(|&index| stays(index).is_some()).collect(),
        };
        let weight = |index: u32| match stays(index) {
            Some(worker) => change.weights.get(&index).copied().unwrap_or(worker.weight),
            None => change.conduct.weight(index),
        };
        indices.into_iter().map(|index| (index, weight(index))).collect()
    }
}

impl Conduct {
    /// The weight of a worker that comes.
    fn weight(&self, index: u32) -> u32 {
        self.weights.get(&index).copied().unwrap_or(crate::policy::WEIGHT_DEFAULT)
    }
}
