//! What has happened: the last events, and each new one for those who follow.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

use crate::{
    control::api::Event,
    engine::effect::AboutProcess,
    log::events::{Happened, log},
    names::{GroupName, WorkerName},
};

use super::clock::unix_millis;

/// How many events are remembered.
const REMEMBERED: usize = 4096;

/// Shared by all groups of a daemon; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    last: u64,
    events: VecDeque<Event>,
    followers: broadcast::Sender<Event>,
}

impl Journal {
    /// An empty journal.
    pub(crate) fn new() -> Self {
        let (followers, _) = broadcast::channel(REMEMBERED);
        let inner = Inner { last: 0, events: VecDeque::new(), followers };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Counts on from an event of a daemon before.
    pub(crate) fn count_from(&self, last: u64) {
        let mut inner = self.lock();
        inner.last = inner.last.max(last);
    }

    /// The number of the last event.
    pub(crate) fn last(&self) -> u64 {
        self.lock().last
    }

    /// Adds an event, logs it and tells those who follow.
    pub(crate) fn add(
        &self,
        kind: &str,
        group: &GroupName,
        worker: Option<WorkerName>,
        generation: Option<u64>,
        detail: String,
    ) {
        self.add_of_process(kind, group, worker, generation, &AboutProcess::default(), detail);
    }

    /// Adds an event that names a process.
    pub(crate) fn add_of_process(
        &self,
        kind: &str,
        group: &GroupName,
        worker: Option<WorkerName>,
        generation: Option<u64>,
        process: &AboutProcess,
        detail: String,
    ) {
        let (worker_name, text) = (worker.as_ref(), detail.as_str());
        log(&Happened { kind, group, worker: worker_name, generation, process, detail: text });
        let mut inner = self.lock();
        inner.last += 1;
        let event = Event {
            sequence: inner.last,
            unix_ms: unix_millis(),
            kind: kind.to_owned(),
            group: Some(group.clone()),
            worker,
            generation,
            detail,
        };
        if inner.events.len() == REMEMBERED {
            inner.events.pop_front();
        }
        inner.events.push_back(event.clone());
        // Without followers there is nobody to tell.
        let _ = inner.followers.send(event);
    }

    /// The events remembered from `since` on, and those that come after them: none is missed in between.
    pub(crate) fn read(&self, since: u64) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let inner = self.lock();
        let events = inner.events.iter().filter(|event| event.sequence >= since).cloned().collect();
        (events, inner.followers.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock was held left at most an event out: the journal still serves.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}
