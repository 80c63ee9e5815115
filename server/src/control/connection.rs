//! One connection: its calls, one after another, each carried out by a task of its own.

use std::{ops::ControlFlow, pin::pin, time::Instant};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    AccessInForce, Controller, Limits,
    api::{Done, Fault, FaultKind, Request, Response},
    dispatch::{self, Asked},
    hangup::Hangup,
    server::Place,
    wire::{self, Call, Link, ReceiveError},
};

/// Answers that a request which reads may have ahead of its client.
const READ_AHEAD: usize = 16;

/// A connection with all it needs.
pub(super) struct Conversation<C> {
    pub(super) link: Link,
    pub(super) controller: C,
    pub(super) access: AccessInForce,
    pub(super) place: Place,
    pub(super) limits: Limits,
}

/// What the task of a call hands to its connection.
enum Outbound {
    Answer(Response),
    Last(Result<Response, Fault>),
}

impl<C: Controller> Conversation<C> {
    /// Answers calls until the client goes, misbehaves or falls silent, or the server closes.
    pub(super) async fn hold(mut self, mut closing: watch::Receiver<bool>) {
        loop {
            let received = tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => return,
                received = self.link.receive() => received,
            };
            let flow = match received {
                Ok(call) => self.answer(call, &mut closing).await,
                Err(error) => {
                    if let Some(fault) = explain(&error, &self.limits) {
                        let _ = self.link.send(dispatch::encode_fault(&fault)).await;
                    }
                    ControlFlow::Break(())
                }
            };
            if flow.is_break() {
                return;
            }
        }
    }

    async fn answer(&mut self, call: Call, closing: &mut watch::Receiver<bool>) -> ControlFlow<()> {
        let Call { incoming, more, oneway, upgrade } = call;
        let refusal = if upgrade {
            let fault = Fault::new(FaultKind::Usage, "no method of this service takes upgrade");
            dispatch::encode_fault(&fault.with_hint("leave upgrade out of the call"))
        } else {
            match dispatch::understand(incoming) {
                Ok(Asked::Known(parameters)) => wire::reply(&parameters, false),
                Ok(Asked::Request(request)) => match self.access.get().decide(self.link.peer(), &request) {
                    Ok(()) => return self.carry_out(request, more, oneway, closing).await,
                    Err(fault) => dispatch::encode_fault(&fault),
                },
                Err(error) => error.encode(),
            }
        };
        if oneway { ControlFlow::Continue(()) } else { self.send(refusal).await }
    }

    async fn carry_out(
        &mut self,
        request: Request,
        more: bool,
        oneway: bool,
        closing: &mut watch::Receiver<bool>,
    ) -> ControlFlow<()> {
        let begun = Instant::now();
        let changes = request.changes();
        let backlog = if changes { self.limits.backlog } else { READ_AHEAD };
        let (outbound, mut answers) = mpsc::channel(backlog);
        let call = run(self.controller.clone(), request, outbound, self.place.clone());
        let task = tokio::spawn(call);
        // A change is not undone by its client's end: its task goes on when this function leaves it.
        let _reading = (!changes).then(|| AbortOnDrop(task));
        let hangup = match Hangup::new(self.link.socket()) {
            Ok(hangup) => hangup,
            Err(error) => {
                tracing::warn!(%error, "cannot watch a control connection for its end");
                return ControlFlow::Break(());
            }
        };
        let mut sent: u64 = 0;
        loop {
            let outbound = tokio::select! {
                outbound = answers.recv() => outbound,
                () = hangup.gone(), if !oneway => return ControlFlow::Break(()),
                _ = closing.wait_for(|closing| *closing), if !changes => {
                    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                    Some(Outbound::Last(Ok(Response::Done(Done { answers: sent, milliseconds }))))
                }
            };
            let (message, last) = match outbound {
                Some(Outbound::Answer(answer)) if more => (wire::reply(&answer, true), false),
                Some(Outbound::Answer(_)) => continue,
                Some(Outbound::Last(Ok(answer))) => (wire::reply(&answer, false), true),
                Some(Outbound::Last(Err(fault))) => (dispatch::encode_fault(&fault), true),
                None => (dispatch::encode_fault(&abandoned()), true),
            };
            if !oneway {
                self.send(message).await?;
            }
            if last {
                return ControlFlow::Continue(());
            }
            sent += 1;
        }
    }

    async fn send(&mut self, message: Vec<u8>) -> ControlFlow<()> {
        match self.link.send(message).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                tracing::debug!(uid = self.link.peer().uid, %error, "a control client did not take its answer");
                ControlFlow::Break(())
            }
        }
    }
}

/// Carries a request out and hands its answers on, in order, the last one last.
async fn run<C: Controller>(controller: C, request: Request, outbound: mpsc::Sender<Outbound>, place: Place) {
    let changes = request.changes();
    let (answers, mut answered) = mpsc::channel(READ_AHEAD);
    let mut outbound = Some(outbound);
    let mut call = pin!(controller.call(request, answers));
    let last = loop {
        tokio::select! {
            biased;
            Some(answer) = answered.recv() => hand_on(&mut outbound, answer, changes).await,
            last = &mut call => break last,
        }
    };
    while let Ok(answer) = answered.try_recv() {
        hand_on(&mut outbound, answer, changes).await;
    }
    if let Some(outbound) = outbound {
        // Waits until the client has read what came before, or has gone.
        let _ = outbound.send(Outbound::Last(last)).await;
    }
    drop(place);
}

async fn hand_on(outbound: &mut Option<mpsc::Sender<Outbound>>, answer: Response, changes: bool) {
    let Some(sender) = outbound else { return };
    let answer = Outbound::Answer(answer);
    // A slow client slows its own reading, but never a change.
    let taken = if changes { sender.try_send(answer).is_ok() } else { sender.send(answer).await.is_ok() };
    if !taken {
        *outbound = None;
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a client whose message could not be received is told, where it is still there.
fn explain(error: &ReceiveError, limits: &Limits) -> Option<Fault> {
    let fault = |message: String| Fault::new(FaultKind::Usage, message);
    match error {
        ReceiveError::Gone => None,
        ReceiveError::Silent => {
            Some(fault(format!("no whole call came within {} s", limits.patience.as_secs_f64())))
        }
        ReceiveError::TooLarge => Some(fault(format!("the message is larger than {} bytes", limits.message))),
        ReceiveError::Malformed(reason) => Some(
            fault(format!("the message is no varlink call: {reason}"))
                .with_hint("send {\"method\": \"...\", \"parameters\": {...}} and a NUL byte"),
        ),
    }
}

/// The call's task ended without a last answer: it panicked, or its answers were more than the backlog.
fn abandoned() -> Fault {
    Fault::new(FaultKind::Failed, "the daemon gave no last answer")
        .with_hint("the daemon's log has the reason; `steer status` tells what has become of it")
}
