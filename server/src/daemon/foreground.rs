//! What a group in the foreground can ask of its daemon: to end, because nothing comes of it as it is.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::sync::Notify;

use crate::{names::GroupName, sockets::address::ListenAddress};

/// A listen address, and where its group listens if that is what the program binds.
pub type Alternative = (ListenAddress, ListenAddress);

/// Where a group may listen instead of where it begins, if the program does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leeway {
    /// Addresses that a program may bind in place of one of the group's.
    pub alternatives: Vec<Alternative>,
    /// The addresses that one name stands for, name by name: the program has to bind one of them.
    pub any_of: Vec<Vec<ListenAddress>>,
}

/// Why a daemon in the foreground ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The program listens at an alternative to an address: the group is to be begun again there.
    Follow(Alternative),
    /// The program does not listen at these addresses, and need not: the group is to be begun again without them.
    Without(Vec<ListenAddress>),
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
    leeway: Arc<Leeway>,
    ending: Arc<Mutex<Option<Ending>>>,
    asked: Arc<Notify>,
}

impl Foreground {
    pub(crate) fn new(leeway: Leeway) -> Self {
        Self { leeway: leeway.into(), ..Self::default() }
    }

    /// The alternative that a program has bound, where it is one.
    pub(crate) fn alternative(&self, bound: ListenAddress) -> Option<Alternative> {
        self.leeway.alternatives.iter().find(|(_, to)| *to == bound).copied()
    }

    /// Whether a program that listens at some addresses need not listen at the others.
    pub(crate) fn is_enough(&self, bound: &[ListenAddress], missing: &[ListenAddress]) -> bool {
        let is_bound = |address: &ListenAddress| {
            let mut alternatives = self.leeway.alternatives.iter();
            bound.contains(address) || alternatives.any(|(from, to)| from == address && bound.contains(to))
        };
        let is_made_good = |missing: &ListenAddress| {
            let mut sets = self.leeway.any_of.iter().filter(|set| set.contains(missing));
            sets.any(|set| set.iter().any(is_bound))
        };
        missing.iter().all(is_made_good)
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
