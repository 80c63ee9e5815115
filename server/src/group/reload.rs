//! One group's part in a reload: it says whether it can be as the new configuration wants it, waits for all others to have said
//! so too, and takes it over or stays as it is.

use tokio::sync::{mpsc, oneshot};

use crate::{
    control::api::{Fault, Response},
    daemon::settings::GroupSettings,
    engine::reconfigure::Reconfiguration,
    workers::user::ResolvedUser,
};

/// What a group is to become, if all can.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) settings: GroupSettings,
    pub(crate) user: Option<ResolvedUser>,
    pub(crate) change: Reconfiguration,
    /// Whether it can.
    pub(crate) answer: oneshot::Sender<Result<(), Fault>>,
    /// Whether all can; dropped where one cannot.
    pub(crate) verdict: oneshot::Receiver<Approval>,
}

/// It is to be.
#[derive(Debug)]
pub(crate) struct Approval {
    pub(crate) answers: mpsc::Sender<Response>,
    pub(crate) done: oneshot::Sender<Result<Response, Fault>>,
}
