//! Who waits for the answers to operations.

use std::{collections::BTreeMap, time::Instant};

use tokio::sync::{mpsc, oneshot};

use crate::{
    control::api::{Done, Fault, Receipt, Response},
    daemon::clock::millis,
    engine::event::OperationId,
};

/// The clients that wait for one group's operations.
#[derive(Debug, Default)]
pub(crate) struct PendingReplies {
    replies: BTreeMap<OperationId, PendingReply>,
    last: OperationId,
}

/// A client that waits.
#[derive(Debug)]
struct PendingReply {
    answers: mpsc::Sender<Response>,
    done: oneshot::Sender<Result<Response, Fault>>,
    began: Instant,
    sent: u64,
    /// Receipts that something is still to be found out for: the last answer comes after them.
    owed: usize,
    /// The last answer, once there is one.
    result: Option<Result<(), Fault>>,
}

impl PendingReplies {
    /// Counts on from an operation of an earlier daemon.
    pub(crate) fn count_from(&mut self, last: OperationId) {
        self.last = last;
    }

    /// The name of the newest operation.
    pub(crate) fn last(&self) -> OperationId {
        self.last
    }

    /// A name for a new operation, whose answers go here.
    pub(crate) fn add(
        &mut self,
        answers: mpsc::Sender<Response>,
        done: oneshot::Sender<Result<Response, Fault>>,
    ) -> OperationId {
        self.last += 1;
        let reply = PendingReply { answers, done, began: Instant::now(), sent: 0, owed: 0, result: None };
        self.replies.insert(self.last, reply);
        self.last
    }

    /// A receipt is to come, after more was found out for it.
    pub(crate) fn owe(&mut self, operation: OperationId) {
        if let Some(reply) = self.replies.get_mut(&operation) {
            reply.owed += 1;
        }
    }

    /// Sends a receipt that was owed.
    pub(crate) fn pay(&mut self, operation: OperationId, receipt: Receipt) {
        self.send(operation, receipt);
        if let Some(reply) = self.replies.get_mut(&operation) {
            reply.owed -= 1;
        }
        self.finish_if_over(operation);
    }

    /// Sends a receipt on its way. A client that is gone or does not read loses it; the journal has it.
    pub(crate) fn send(&mut self, operation: OperationId, receipt: Receipt) {
        if let Some(reply) = self.replies.get_mut(&operation) {
            reply.sent += 1;
            let _ = reply.answers.try_send(Response::Receipt(receipt));
        }
    }

    /// The operation has ended: its last answer follows what is owed.
    pub(crate) fn finish(&mut self, operation: OperationId, result: Result<(), Fault>) {
        if let Some(reply) = self.replies.get_mut(&operation) {
            reply.result = Some(result);
        }
        self.finish_if_over(operation);
    }

    /// Whether anybody waits for something that is still to come.
    pub(crate) fn are_owed(&self) -> bool {
        self.replies.values().any(|reply| reply.owed > 0)
    }

    fn finish_if_over(&mut self, operation: OperationId) {
        let is_over = |reply: &PendingReply| reply.owed == 0 && reply.result.is_some();
        if !self.replies.get(&operation).is_some_and(is_over) {
            return;
        }
        if let Some(PendingReply { done, began, sent, result: Some(result), .. }) =
            self.replies.remove(&operation)
        {
            let answer = Done { answers: sent, milliseconds: millis(began.elapsed()) };
            // Whoever asked may be gone.
            let _ = done.send(result.map(|()| Response::Done(answer)));
        }
    }
}
