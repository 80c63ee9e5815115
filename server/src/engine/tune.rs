//! Policy and weights: where new flows go, changed in one swap.

use std::collections::BTreeSet;

use crate::policy::{Policy, WEIGHT_MAX};

use super::{
    effect::Failure,
    event::OperationId,
    group::Group,
    operation::{Task, refused},
};

impl Group {
    pub(super) fn set_policy(&mut self, id: OperationId, policy: Policy) -> Result<(), Failure> {
        self.begin(id, "change the policy", BTreeSet::new(), None, Task::Published(None))?;
        self.policy = policy;
        self.publication.is_due = true;
        Ok(())
    }

    pub(super) fn set_weight(&mut self, id: OperationId, index: u32, weight: u32) -> Result<(), Failure> {
        self.known(index)?;
        if weight > WEIGHT_MAX {
            return Err(refused(
                format!("cannot give worker {index} the weight {weight}: a weight is 0 to {WEIGHT_MAX}"),
                None,
            ));
        }
        self.begin(id, "change the weight", BTreeSet::new(), None, Task::Published(None))?;
        if let Some(worker) = self.workers.get_mut(&index) {
            worker.weight = weight;
        }
        self.publication.is_due = true;
        Ok(())
    }
}
