//! What the groups of a service share so as to outlive their daemon.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    group::record::{Record, SharedKeeper, StateFile, directory_beside},
    keeper::{self, Keeper},
    names::GroupName,
    threads::Threads,
};

use super::{
    describe::describe,
    settings::GroupSettings,
    setup::{Purpose, Setup},
};

/// How often the keeper is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// The daemon's own; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Lasting {
    keeper: SharedKeeper,
    states: PathBuf,
    pins: PathBuf,
    threads: Threads,
}

impl Lasting {
    /// For a daemon whose groups are to last; nothing for one in the foreground.
    pub(crate) fn new(setup: &Setup, threads: &Threads) -> anyhow::Result<Option<Self>> {
        let Purpose::Service { pins, .. } = &setup.purpose else { return Ok(None) };
        let keeper = Keeper::reach(&keeper::socket_beside(&setup.socket))?;
        Ok(Some(Self {
            keeper: Arc::new(Mutex::new(keeper)),
            states: directory_beside(&setup.socket),
            pins: pins.clone(),
            threads: threads.clone(),
        }))
    }

    /// One group's.
    pub(crate) fn group(&self, name: &GroupName) -> anyhow::Result<Record> {
        Record::new(name, &self.states, &self.pins, self.keeper.clone(), self.threads.clone())
    }

    /// The groups that an earlier daemon has left and that are not among these, as they were configured.
    pub(crate) fn left(&self, configured: &[GroupSettings]) -> anyhow::Result<Vec<GroupSettings>> {
        let mut left = Vec::new();
        for name in StateFile::groups(&self.states) {
            if configured.iter().all(|settings| settings.name != name)
                && let Some(saved) = self.group(&name)?.saved()?
            {
                left.push((*saved.settings).clone());
            }
        }
        Ok(left)
    }

    /// Sees to it that there is a keeper.
    pub(crate) async fn look_after(self) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let keeper = self.keeper.clone();
            let looked = self.threads.keeping.run(move || {
                let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
                keeper.look().map_err(|error| describe(&error))
            });
            match looked.await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    tracing::warn!("the keeper of sockets was gone; another has taken its place")
                }
                Ok(Err(why)) => tracing::warn!("{why}"),
                Err(error) => tracing::warn!("the keeper is not looked after: {error}"),
            }
        }
    }

    /// Ends the keeper: every group has ended.
    pub(crate) fn end(&self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = keeper.end() {
            tracing::warn!("{}", describe(&error));
        }
        // It has nothing in it any more; what somebody else has put there stays.
        let _ = std::fs::remove_dir(&self.states);
    }
}
