//! The groups that run, as clients reach them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    control::api::{Fault, FaultKind},
    group::{Board, Counts, Ended, Inbox, Message, Opened, View, attend},
    names::GroupName,
    threads::Threads,
};

use super::{
    clock::{Clock, unix_millis},
    journal::Journal,
    readings::Readings,
    reload::Reloader,
    scrape::Scrapes,
    shared::Shared,
};

/// The daemon, as its clients reach it; cheap to clone. What it does runs where clients are served; the groups' tasks run in a runtime of
/// their own.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    groups: Mutex<Groups>,
    journal: Journal,
    pub(super) clock: Clock,
    pub(super) program: &'static str,
    /// None where there is no configuration to read again.
    reloader: Option<Reloader>,
    /// Since the epoch of Unix.
    pub(super) started: Duration,
    pub(super) scrapes: Scrapes,
    pub(super) readings: Readings,
    /// What a group is opened with that comes while the daemon runs.
    pub(super) shared: Shared,
    pub(super) threads: Threads,
    /// Where the groups' tasks run.
    runtime: Handle,
    pub(super) stopped: watch::Sender<bool>,
}

/// The groups that run.
#[derive(Debug, Default)]
struct Groups {
    members: BTreeMap<GroupName, Member>,
    tasks: JoinSet<()>,
    /// Whether the daemon is on its way to its end: no group comes any more.
    is_stopping: bool,
    /// Whether the groups are to go on without it.
    is_leaving: bool,
}

/// A group, as it is reached.
#[derive(Debug, Clone)]
struct Member {
    inbox: Inbox,
    board: Board,
    /// How its task has ended, once it has.
    ended: watch::Receiver<Option<Ended>>,
}

impl Daemon {
    /// A daemon without groups, whose tasks will run in `runtime`.
    pub(super) fn new(
        shared: &Shared,
        program: &'static str,
        reloader: Option<Reloader>,
        runtime: Handle,
        stopped: watch::Sender<bool>,
    ) -> Self {
        let inner = Inner {
            groups: Mutex::default(),
            journal: shared.journal.clone(),
            clock: shared.clock,
            program,
            reloader,
            started: Duration::from_millis(unix_millis()),
            scrapes: Scrapes::default(),
            readings: Readings::new(shared.looks.clone(), shared.threads.reading.clone()),
            shared: shared.clone(),
            threads: shared.threads.clone(),
            runtime,
            stopped,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Has groups run, from now on and until they are stopped; gives them back where the daemon is being stopped.
    pub(super) fn run(&self, groups: Vec<Opened>) -> Result<(), Vec<Opened>> {
        let mut running = self.groups();
        if running.is_stopping {
            return Err(groups);
        }
        for Opened { task, inbox, board, .. } in groups {
            let (ending, ended) = watch::channel(None);
            running.members.insert(task.settings().name.clone(), Member { inbox, board, ended });
            running.tasks.spawn_on(attend(task, ending), &self.inner.runtime);
        }
        // Of those that were removed nobody asks any more.
        while running.tasks.try_join_next().is_some() {}
        Ok(())
    }

    /// Waits for a group's end and forgets it.
    pub(super) async fn forget(&self, name: &GroupName) {
        if let Ok(member) = self.member(name) {
            member.inbox.closed().await;
        }
        self.groups().members.remove(name);
        self.inner.readings.forget(name).await;
    }

    /// Waits for the end of all groups.
    pub(super) async fn ended(&self) {
        let mut tasks = std::mem::take(&mut self.groups().tasks);
        while tasks.join_next().await.is_some() {}
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        // Nothing that happens under the lock leaves the books half done.
        self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups that run.
    pub(super) fn names(&self) -> Vec<GroupName> {
        self.groups().members.keys().cloned().collect()
    }

    /// The groups that run, from now on without any more of them.
    pub(super) fn stop_taking_groups(&self) -> Vec<GroupName> {
        self.groups().is_stopping = true;
        self.names()
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    pub(super) fn reloader(&self) -> Option<&Reloader> {
        self.inner.reloader.as_ref()
    }

    fn member(&self, name: &GroupName) -> Result<Member, Fault> {
        let groups = self.groups();
        groups.members.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = groups.members.keys().map(GroupName::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Fault {
                kind: FaultKind::NoSuch,
                message: format!("there is no group {name}; this daemon has: {known}"),
                hint: Some("`steer status` lists the groups and their workers".to_owned()),
            }
        })
    }

    /// Fails where there is no such group.
    pub(super) fn require(&self, name: &GroupName) -> Result<(), Fault> {
        self.member(name).map(drop)
    }

    /// A group as it was last published, once it was. Fails where nobody looks after it any more.
    pub(super) async fn view(&self, name: &GroupName) -> Result<Arc<View>, Fault> {
        let member = self.member(name)?;
        if let Some(ended) = &*member.ended.borrow() {
            return Err(ended.fault(name));
        }
        member.board.first_view().await.ok_or_else(|| Ended::InOrder.fault(name))
    }

    /// The first view of a group that is as wanted.
    pub(super) async fn view_that(
        &self,
        name: &GroupName,
        is_wanted: impl Fn(&View) -> bool,
    ) -> Result<Arc<View>, Fault> {
        let member = self.member(name)?;
        match member.board.view_that(is_wanted).await {
            Some(view) => Ok(view),
            None => Err(self.why_ended(name).await),
        }
    }

    /// The groups as they were last published, those that were.
    pub(super) fn views(&self) -> Vec<Arc<View>> {
        self.groups().members.values().filter_map(|member| member.board.view()).collect()
    }

    /// How many workers of each group work; none of one that has not published anything yet.
    pub(super) fn counts(&self) -> Vec<Counts> {
        let counts = |member: &Member| member.board.view().map(|view| view.counts()).unwrap_or_default();
        self.groups().members.values().map(counts).collect()
    }

    /// Tells a group's task something.
    pub(super) async fn tell(&self, group: &GroupName, message: Message) -> Result<(), Fault> {
        match self.member(group)?.inbox.send(message).await {
            true => Ok(()),
            false => Err(self.why_ended(group).await),
        }
    }

    /// Tells a group's task something that it answers. An answer that is dropped says that the task has ended.
    pub(super) async fn ask<T>(
        &self,
        group: &GroupName,
        message: Message,
        answer: oneshot::Receiver<Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let inbox = self.member(group)?.inbox;
        // A message that cannot be sent is dropped, and the answer's sender with it.
        inbox.send(message).await;
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(self.why_ended(group).await),
        }
    }

    /// Explains a dropped reply: the group's task has ended, or is about to.
    pub(super) async fn why_ended(&self, group: &GroupName) -> Fault {
        let Ok(mut member) = self.member(group) else { return Ended::InOrder.fault(group) };
        let known = member.ended.wait_for(Option::is_some).await;
        // Its sender goes without a word where the runtime does.
        known.ok().and_then(|known| known.clone()).unwrap_or(Ended::InOrder).fault(group)
    }

    /// Whether a group's server was started by somebody else.
    pub(super) fn is_adopted(&self, group: &GroupName) -> bool {
        let view = self.member(group).ok().and_then(|member| member.board.view());
        view.is_some_and(|view| view.settings.adopt.is_some())
    }

    /// How a group's task has ended, where it has.
    pub(super) fn how_ended(&self, group: &GroupName) -> Option<Ended> {
        let member = self.member(group).ok()?;
        let ended = member.ended.borrow();
        ended.clone()
    }

    /// Whether a group's task has panicked.
    pub(super) fn has_panicked(&self, group: &GroupName) -> bool {
        matches!(self.how_ended(group), Some(Ended::Panicked(_)))
    }

    /// Whether the groups' loop takes its turns: false where it does not within this time.
    pub(super) async fn is_alive(&self, patience: Duration) -> bool {
        let turn = self.inner.runtime.spawn(async {});
        tokio::time::timeout(patience, turn).await.is_ok()
    }

    /// Ends the daemon without its groups.
    pub(super) fn leave(&self) {
        self.groups().is_leaving = true;
        self.inner.stopped.send_replace(true);
    }

    /// Whether it ends without its groups.
    pub(super) fn leaves(&self) -> bool {
        self.groups().is_leaving
    }
}
