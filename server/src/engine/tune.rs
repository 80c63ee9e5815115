//! Policy, weights and CPUs: where new flows go, changed in one swap.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::{Policy, WEIGHT_MAX};

use super::{
    effect::Failure,
    event::{GenerationId, Millis, OperationId, Slot},
    group::Group,
    lifecycle::TIMEOUT_MAX,
    operation::{Task, refused},
    plan::Change,
    weights::too_small,
    worker::{Goal, THOUSANDTHS, Worker},
};

impl Group {
    pub(super) fn set_policy(&mut self, id: OperationId, policy: Policy) -> Result<(), Failure> {
        self.check_change(&Change::Policy(policy))?;
        self.begin(id, "change the policy", BTreeSet::new(), None, Task::Published(None))?;
        self.note("policy", None, format!("{} to {policy}", self.policy));
        self.policy = policy;
        self.publication.is_due = true;
        Ok(())
    }

    pub(super) fn set_weight(
        &mut self,
        now: Millis,
        id: OperationId,
        index: u32,
        weight: u32,
        over: Option<Millis>,
    ) -> Result<(), Failure> {
        self.check_change(&Change::Weight { worker: index, weight })?;
        self.begin(id, "change the weight", BTreeSet::new(), None, Task::Published(None))?;
        let Some(worker) = self.workers.get_mut(&index) else { return Ok(()) };
        let from = worker.effective_weight();
        let mut detail = format!("worker {index}: {} to {weight}", worker.weight);
        worker.weight = weight;
        self.end_ramp(index, "overruled by a later weight");
        match over.filter(|over| *over > 0 && from != weight * THOUSANDTHS) {
            Some(over) => {
                let over = over.min(TIMEOUT_MAX);
                detail = format!("{detail} over {over} ms");
                self.begin_ramp(now, id, index, from, over);
            }
            None => self.publication.is_due = true,
        }
        self.note("weight", None, detail);
        Ok(())
    }

    /// Refuses what cannot be: the same for a change and for the plan of one.
    pub(super) fn check_change(&self, change: &Change) -> Result<(), Failure> {
        match *change {
            Change::Policy(_) => self.goes_on("change the policy"),
            Change::Weight { worker, weight } => {
                self.known(worker)?;
                self.goes_on("change the weight")?;
                self.stays(worker, "change the weight of")?;
                self.check_weight(worker, weight)
            }
        }
    }

    fn check_weight(&self, index: u32, weight: u32) -> Result<(), Failure> {
        let refuse = |why: String, hint: Option<String>| {
            Err(refused(format!("cannot give worker {index} the weight {weight}: {why}"), hint))
        };
        if weight > WEIGHT_MAX {
            return refuse(
                format!("a weight is 0 to {WEIGHT_MAX}"),
                Some(
                    "weights are relative: where one is twice another, the share is twice the other's".into(),
                ),
            );
        }
        let with = |weight: u32| -> Vec<(u32, u32)> {
            let others = self.staying().filter(|(other, _)| *other != index);
            others.map(|(other, worker)| (other, worker.weight)).chain([(index, weight)]).collect()
        };
        let Some(why) = too_small(&with(weight)) else { return Ok(()) };
        let fits = |weight: &u32| too_small(&with(*weight)).is_none();
        let hint = match ((1..weight).rev().find(fits), (weight..=WEIGHT_MAX).find(fits)) {
            (Some(largest), _) => format!("the largest weight that fits here is {largest}"),
            (None, Some(smallest)) => format!("the smallest weight that fits here is {smallest}"),
            (None, None) => "none above 0 fits here beside the others' weights: lower the largest".into(),
        };
        refuse(why, Some(hint))
    }

    /// Refuses a number of workers for whose weights the table is too small.
    pub(super) fn check_scale(&self, wanted: u32) -> Result<(), Failure> {
        let weight = |index: u32| {
            let worker = self.workers.get(&index).filter(|worker| worker.goal != Goal::Leave);
            (index, worker.map_or_else(|| self.rules.weight(index), |worker| worker.weight))
        };
        let weights: Vec<(u32, u32)> = (0..wanted).map(weight).collect();
        let Some(why) = too_small(&weights) else { return Ok(()) };
        let most = (1..wanted).rev().find(|&count| too_small(&weights[..count as usize]).is_none());
        let most = most.unwrap_or_default();
        let hint =
            format!("the most workers that fit with these weights is {most}; `steer weight` changes them");
        Err(refused(format!("cannot scale to {wanted} workers: {why}"), Some(hint)))
    }

    /// The workers that do not leave the group.
    fn staying(&self) -> impl Iterator<Item = (u32, &Worker)> {
        let workers = self.workers.iter().map(|(&index, worker)| (index, worker));
        workers.filter(|(_, worker)| worker.goal != Goal::Leave)
    }

    /// Takes in where a generation's process may run.
    pub(super) fn pinned(&mut self, id: GenerationId, cpus: Vec<usize>) {
        let before = self.pinned_slots();
        let Some(generation) = self.generation_mut(id) else { return };
        generation.cpus = cpus;
        if self.pinned_slots() != before {
            self.publication.is_due = true;
        }
    }

    /// By CPU, the slots of the generations that the next table sends its packets to.
    pub(super) fn pinned_slots(&self) -> BTreeMap<usize, Vec<Slot>> {
        let mut slots = BTreeMap::<usize, Vec<Slot>>::new();
        if self.policy != Policy::Cpu {
            return slots;
        }
        for worker in self.workers.values().filter(|worker| worker.takes_part()) {
            let working = worker.working.and_then(|number| worker.generations.get(&number));
            for (cpu, slot) in working.iter().flat_map(|it| it.cpus.iter().map(|&cpu| (cpu, it.slot))) {
                slots.entry(cpu).or_default().push(slot);
            }
        }
        slots
    }
}
