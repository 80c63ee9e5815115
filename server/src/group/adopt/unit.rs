//! A unit of systemd whose server is adopted: where its processes are, whether it comes back, and that it drains before it is stopped.

use std::{path::PathBuf, time::Duration};

use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    daemon::describe::describe,
    group::message::{Inbox, Message},
    names::GroupName,
    units::{DropIn, Manager, UNIT_STOPPED, UnitError, UnitState, is_template},
};

/// How long until systemd is tried again that could not be reached.
const RETRY: Duration = Duration::from_secs(2);

/// How long a stop of the unit waits for its open connections to end by themselves.
const DRAINS_WITHIN: &str = "5s";

/// What a unit is followed with.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    pub(crate) unit: String,
    pub(crate) group: GroupName,
    /// The control socket by which the unit's stop drains.
    pub(crate) socket: PathBuf,
}

/// The task that has a group be told of what becomes of its unit. It ends with this value.
#[derive(Debug)]
pub(crate) struct Follower(JoinHandle<()>);

impl Follower {
    pub(crate) fn begin(outside: &Handle, followed: Followed, inbox: Inbox) -> Self {
        Self(outside.spawn(async move {
            let mut was_told = false;
            loop {
                if let Err(error) = follow(&followed, &inbox).await {
                    // As long as it is away nothing is known of the unit; what is adopted serves on.
                    if !std::mem::replace(&mut was_told, true) {
                        tracing::warn!(
                            "{}: cannot follow {}: {}",
                            followed.group,
                            followed.unit,
                            describe(&error)
                        );
                    }
                    tokio::time::sleep(RETRY).await;
                } else {
                    return;
                }
            }
        }))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns where the group has ended, or nothing more is to be told of the unit.
async fn follow(followed: &Followed, inbox: &Inbox) -> Result<(), UnitError> {
    let manager = Manager::connect().await?;
    if let Err(error) = install(followed, &manager).await {
        tracing::warn!(
            "{}: a stop of {} does not drain it: {}",
            followed.group,
            followed.unit,
            describe(&error)
        );
    }
    if is_template(&followed.unit) {
        // Its instances come and go; while one works nobody waits, and else the hold ends by its own time.
        return Ok(());
    }
    let mut states = manager.watch(&followed.unit).await?;
    loop {
        let state: UnitState = states.borrow_and_update().clone();
        if !inbox.send(Message::UnitChanged(state)).await || states.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Has the unit's stop drain the group before its processes are told to end: many die at SIGTERM with a request in hand.
async fn install(Followed { unit, group, socket }: &Followed, manager: &Manager) -> Result<bool, UnitError> {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/steer"));
    let (own, socket, all) = (own.to_string_lossy(), socket.to_string_lossy(), format!("{group}/*"));
    let mut command =
        vec![&*own, "--socket", &socket, "drain", &all, "--until-replaced", "--timeout", DRAINS_WITHIN];
    if is_template(unit) {
        command.extend(["--unit", UNIT_STOPPED]);
    }
    DropIn::of(unit).install(manager, &command).await
}

/// Takes away what a unit's stop drains by: it is not adopted any more.
pub(crate) async fn uninstall(unit: &str) {
    let removed = async { DropIn::of(unit).remove(&Manager::connect().await?).await };
    if let Err(error) = removed.await {
        tracing::warn!("the drop-in of {unit} stays: {}", describe(&error));
    }
}
