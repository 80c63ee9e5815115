//! What a group last published of itself, and what is made of it for those who look: on their threads, without asking the group's.

mod change;
mod flows;
mod lookup;
mod policy;
mod status;

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::{
    control::api::{Fault, FaultKind},
    daemon::{describe::describe, settings::GroupSettings},
    engine::{event::GenerationId, group::Group, view::State},
};

use super::{members::Reader, processes::GenerationView, totals::Totals};

pub(crate) use self::{change::ChangeQuestion, flows::FlowQuestion, status::Connections};

/// A group, as it was when something last changed in it. What the kernel counts and shows is read when somebody asks.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) settings: Arc<GroupSettings>,
    pub(crate) engine: Arc<Group>,
    pub(crate) generations: BTreeMap<GenerationId, GenerationView>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) totals: Totals,
    pub(crate) strangers: u64,
}

/// Where a group publishes its view; clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    sender: watch::Sender<Option<Arc<View>>>,
}

impl Default for Board {
    fn default() -> Self {
        Self { sender: watch::channel(None).0 }
    }
}

/// How many of a group's workers work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Whether its first table is published: its program is attached then.
    pub(crate) is_serving: bool,
    /// Whether nothing waits in a holding listener that a worker could have.
    pub(crate) is_hold_idle: bool,
    pub(crate) working: usize,
    pub(crate) workers: usize,
}

impl Board {
    pub(crate) fn publish(&self, view: View) {
        self.sender.send_replace(Some(Arc::new(view)));
    }

    /// The first view that is as wanted; nothing where the group ends before.
    pub(crate) async fn view_that(&self, is_wanted: impl Fn(&View) -> bool) -> Option<Arc<View>> {
        let mut views = self.sender.subscribe();
        views.wait_for(|view| view.as_deref().is_some_and(&is_wanted)).await.ok()?.clone()
    }

    /// The group as it was last published; nothing before its task has begun.
    pub(crate) fn view(&self) -> Option<Arc<View>> {
        self.sender.borrow().clone()
    }

    /// The same, once there is one.
    pub(crate) async fn first_view(&self) -> Option<Arc<View>> {
        let mut views = self.sender.subscribe();
        views.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl View {
    /// Why the group is not ready: nothing where it has a published table and a worker that works.
    pub(crate) fn unready(&self) -> Option<String> {
        let name = &self.settings.name;
        if self.engine.epoch() == 0 {
            return Some(format!("the group {name} has no published table"));
        }
        let workers = self.engine.workers();
        if workers.iter().any(|worker| worker.state == State::Working) {
            return None;
        }
        let states =
            workers.iter().map(|worker| format!("{name}/{} {}", worker.index, worker.state.as_str()));
        let states: Vec<String> = states.collect();
        Some(format!("the group {name} has no working worker: {}", states.join(", ")))
    }

    /// How many workers work.
    pub(crate) fn counts(&self) -> Counts {
        let working = self.engine.states().filter(|state| *state == State::Working).count();
        // What a group holds that nobody serves waits for its workers.
        let is_hold_idle = self.engine.is_hold_idle() || self.engine.is_holding();
        Counts {
            is_hold_idle,
            is_serving: self.engine.epoch() > 0,
            working,
            workers: self.engine.states().count(),
        }
    }
}

/// What is answered where the kernel cannot be read.
fn unreadable(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault { kind: FaultKind::Failed, message: describe(error), hint: None }
}
