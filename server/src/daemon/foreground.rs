//! What a group in the foreground can ask of its daemon: to end, because nothing comes of it as it is.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::sync::Notify;

use crate::{names::GroupName, sockets::address::ListenAddress};

/// A listen address, and where its group listens if that is what the program binds.
pub type Alternative = (ListenAddress, ListenAddress);

/// Why a daemon in the foreground ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The program listens at an alternative to an address: the group is to be begun again there.
    Follow(Alternative),
    /// No worker was ever ready.
    NeverReady(NeverReady),
}

/// No worker of a group was ever ready.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no worker of {group} was ever ready: {why}")]
pub struct NeverReady {
    /// The group.
    pub group: GroupName,
    /// What has become of the last start.
    pub why: String,
}

impl NeverReady {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        "see what the program has printed above; it has to listen at the group's address, or to take the listener at fd 3"
    }
}

/// What a group asks with; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Foreground {
    alternatives: Arc<[Alternative]>,
    ending: Arc<Mutex<Option<Ending>>>,
    asked: Arc<Notify>,
}

impl Foreground {
    pub(crate) fn new(alternatives: Vec<Alternative>) -> Self {
        Self { alternatives: alternatives.into(), ..Self::default() }
    }

    /// The alternative that a program has bound, where it is one.
    pub(crate) fn alternative(&self, bound: ListenAddress) -> Option<Alternative> {
        self.alternatives.iter().find(|(_, to)| *to == bound).copied()
    }

    /// Asks the daemon to end. The first who asks says why.
    pub(crate) fn end(&self, ending: Ending) {
        self.ending().get_or_insert(ending);
        self.asked.notify_one();
    }

    /// Waits until somebody asks.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Why it was to end, where somebody has asked.
    pub(super) fn why(&self) -> Option<Ending> {
        self.ending().clone()
    }

    fn ending(&self) -> std::sync::MutexGuard<'_, Option<Ending>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
