//! What the groups of a service share so as to outlive their daemon.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    keeper::{self, Keeper},
    names::GroupName,
};

use super::{
    describe::describe,
    persistence::{Persistence, SharedKeeper},
    settings::GroupSettings,
    setup::{Purpose, Setup},
    state,
};

/// How often the keeper is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// The daemon's own; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Lasting {
    keeper: SharedKeeper,
    states: PathBuf,
    pins: PathBuf,
}

impl Lasting {
    /// For a daemon whose groups are to last; nothing for one in the foreground.
    pub(super) fn new(setup: &Setup) -> anyhow::Result<Option<Self>> {
        let Purpose::Service { pins, .. } = &setup.purpose else { return Ok(None) };
        let keeper = Keeper::reach(&keeper::socket_beside(&setup.socket))?;
        Ok(Some(Self {
            keeper: Arc::new(Mutex::new(keeper)),
            states: state::directory_beside(&setup.socket),
            pins: pins.clone(),
        }))
    }

    /// One group's.
    pub(super) fn group(&self, name: &GroupName) -> anyhow::Result<Persistence> {
        Persistence::new(name, &self.states, &self.pins, self.keeper.clone())
    }

    /// The groups that an earlier daemon has left and that are not among these, as they were configured.
    pub(super) fn left(&self, configured: &[GroupSettings]) -> anyhow::Result<Vec<GroupSettings>> {
        let mut left = Vec::new();
        for name in state::StateFile::groups(&self.states) {
            if configured.iter().all(|settings| settings.name != name)
                && let Some(saved) = self.group(&name)?.saved()?
            {
                left.push(saved.settings);
            }
        }
        Ok(left)
    }

    /// Sees to it that there is a keeper.
    pub(super) async fn look_after(self) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
            match keeper.look() {
                Ok(true) => {}
                Ok(false) => tracing::warn!("the keeper of sockets was gone; another has taken its place"),
                Err(error) => tracing::warn!("{}", describe(&error)),
            }
        }
    }

    /// Ends the keeper: every group has ended.
    pub(super) fn end(&self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = keeper.end() {
            tracing::warn!("{}", describe(&error));
        }
        // It has nothing in it any more; what somebody else has put there stays.
        let _ = std::fs::remove_dir(&self.states);
    }
}
