//! What must be true of a receipt, and of the world at its end.

use super::{
    super::{
        effect::{Outcome, Receipt},
        view::State,
        worker::Goal,
    },
    kernel::Stage,
    ledger::Checked,
    world::World,
};

impl World {
    /// What a receipt says must be true.
    pub(super) fn check_receipt(&mut self, receipt: &Receipt) -> Checked {
        let id = receipt.generation;
        match receipt.outcome {
            Outcome::Drained => self.tally.drained += 1,
            Outcome::Deadline => self.tally.deadlines += 1,
            Outcome::Lost => self.tally.lost += 1,
        }
        self.tally.handovers += u64::from(receipt.successor.is_some());
        self.tally.flows_cut += u64::from(receipt.outcome == Outcome::Deadline && receipt.ended.flows > 0);
        if receipt.outcome != Outcome::Drained {
            return Ok(());
        }
        self.tally.flows_waited_for += u64::from(receipt.began.flows > 0);
        // A socket that an adopted server closes takes its flows along before anybody can look.
        let is_the_servers = self.group().rules.adopts;
        let flows = if is_the_servers { 0 } else { self.flows_of(id) };
        if flows > 0 || receipt.ended.flows > 0 {
            return Err(format!("{id:?} is drained, and has {flows} flows left: {receipt:?}"));
        }
        let listener = self.processes[&id].listener;
        // An adopted server goes on with what it has accepted, and the half-open of a listener that it has closed migrate at their ACK.
        let left = self.kernel.count(|connection| match connection.stage {
            Stage::HalfOpen(parent) => Some(parent) == listener && !is_the_servers,
            Stage::Unaccepted(parent) => Some(parent) == listener,
            Stage::Open(owner) => owner == id && !is_the_servers,
            Stage::Done | Stage::Killed | Stage::Dropped => false,
        });
        if left > 0 || (!receipt.migrated.is_empty() && !is_the_servers) {
            return Err(format!("{id:?} is drained, and has {left} connections left: {receipt:?}"));
        }
        Ok(())
    }

    /// In a calm world everything comes to its end, and everybody who should work does.
    pub(super) fn check_end(&mut self) -> Checked {
        self.ledger.check_end()?;
        self.tally.cases = 1;
        if self.group().stopping {
            self.tally.stopped = 1;
            let stopped = self.group().is_stopped();
            return if stopped { Ok(()) } else { Err("a stop has not come to its end".into()) };
        }
        for view in self.group().workers() {
            let wanted = match self.group().workers[&view.index].goal {
                Goal::Work if view.weight == 0 => State::Draining,
                Goal::Work => State::Working,
                Goal::Drained | Goal::Leave => State::Drained,
            };
            let state = view.state.as_str();
            if view.state != wanted || view.ramp.is_some() || view.canary.is_some() {
                return Err(format!("at the end worker {} is {state}: {view:?}", view.index));
            }
        }
        self.ledger.check_cpus(self.group())?;
        if self.group().workers().iter().all(|view| view.buckets == 0) {
            return Ok(());
        }
        let waiting = self.kernel.count(|connection| {
            matches!(connection.stage, Stage::HalfOpen(_) | Stage::Unaccepted(_) | Stage::Open(_))
        });
        let slots = self.ledger.slots.len();
        let wanted = self.group().serving().len() + 1;
        match (waiting, slots == wanted) {
            (0, true) => Ok(()),
            (0, false) => Err(format!("at the end {slots} slots are taken, not {wanted}")),
            _ => Err(format!("at the end {waiting} connections wait")),
        }
    }
}
