//! One group's part in a reload: it says whether it can be as the new configuration wants it, waits for all others to have said
//! so too, and takes it over or stays as it is.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::{
    control::api::{Fault, Response},
    daemon::{actor::Actor, convert, settings::GroupSettings, waiter::Waiter},
    engine::{
        event::{Command, Event},
        reconfigure::Reconfiguration,
    },
    workers::user::ResolvedUser,
};

/// What a group is to become, if all can.
#[derive(Debug)]
pub(in crate::daemon) struct Proposal {
    pub(super) settings: GroupSettings,
    pub(super) user: Option<ResolvedUser>,
    pub(super) change: Reconfiguration,
    /// Whether it can.
    pub(super) answer: oneshot::Sender<Result<(), Fault>>,
    /// Whether all can; dropped where one cannot.
    pub(super) verdict: oneshot::Receiver<Approval>,
}

/// It is to be.
#[derive(Debug)]
pub(in crate::daemon) struct Approval {
    pub(super) answers: mpsc::Sender<Response>,
    pub(super) done: oneshot::Sender<Result<Response, Fault>>,
}

impl Actor {
    /// Answers a proposal and does nothing else until the verdict has come: what was said of this instant stays so. It comes
    /// once every other group has answered, which takes each as long as one event.
    pub(in crate::daemon) async fn consider(&mut self, proposal: Proposal) {
        let Proposal { settings, user, change, answer, verdict } = proposal;
        let name = &self.settings.name;
        let can = self.engine.check_reconfiguration(&change).map_err(|failure| convert::fault(name, failure));
        let is_possible = can.is_ok();
        if answer.send(can).is_err() || !is_possible {
            return;
        }
        let Ok(Approval { answers, done }) = verdict.await else { return };
        self.settings = Arc::new(settings);
        self.user = user;
        self.last_operation += 1;
        let operation = self.last_operation;
        self.waiters.insert(operation, Waiter::new(answers, done));
        self.feed(Event::Command { operation, command: Command::Reconfigure(Box::new(change)) });
    }
}
