//! Who waits for an operation's answers.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::control::api::{Done, Fault, Receipt, Response};

use super::clock::millis;

/// A client that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    answers: mpsc::Sender<Response>,
    done: Option<oneshot::Sender<Result<Response, Fault>>>,
    began: Instant,
    sent: u64,
}

impl Waiter {
    pub(super) fn new(
        answers: mpsc::Sender<Response>,
        done: oneshot::Sender<Result<Response, Fault>>,
    ) -> Self {
        Self { answers, done: Some(done), began: Instant::now(), sent: 0 }
    }

    /// Sends a receipt on its way. A client that is gone or does not read loses it; the journal has it.
    pub(super) fn send(&mut self, receipt: Receipt) {
        self.sent += 1;
        let _ = self.answers.try_send(Response::Receipt(receipt));
    }

    /// Sends the last answer.
    pub(super) fn finish(mut self, result: Result<(), Fault>) {
        let done = Done { answers: self.sent, milliseconds: millis(self.began.elapsed()) };
        if let Some(sender) = self.done.take() {
            let _ = sender.send(result.map(|()| Response::Done(done)));
        }
    }
}
