//! Carries requests of the control socket to the groups they are for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    control::{
        Controller,
        api::{Done, Fault, FaultKind, Info, Metrics, Request, Response, SCHEMA, Status},
    },
    engine::{event::Command, plan::Change},
    metrics::Source,
    names::GroupName,
};

use super::{
    actor::{Actor, Message},
    clock::{Clock, millis, unix_millis},
    ended::{Ended, attend},
    flow_list::FlowQuestion,
    journal::Journal,
    reload::Reloader,
    scrape::Scrapes,
    shared::Shared,
    tune::Tune,
};

/// A group that can run, and who reaches it.
pub(super) type OpenedGroup = (Actor, mpsc::UnboundedSender<Message>);

/// The daemon, as its clients reach it; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    groups: Mutex<Groups>,
    journal: Journal,
    clock: Clock,
    pub(super) program: &'static str,
    /// None where there is no configuration to read again.
    reloader: Option<Reloader>,
    /// Since the epoch of Unix.
    pub(super) started: Duration,
    pub(super) scrapes: Scrapes,
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
#[derive(Debug)]
struct Member {
    sender: mpsc::UnboundedSender<Message>,
    /// How its task has ended, once it has.
    ended: watch::Receiver<Option<Ended>>,
}

impl Daemon {
    /// A daemon without groups.
    pub(super) fn new(
        shared: &Shared,
        program: &'static str,
        reloader: Option<Reloader>,
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
            stopped,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Has groups run, from now on and until they are stopped; gives them back where the daemon is being stopped.
    pub(super) fn run(&self, groups: Vec<OpenedGroup>) -> Result<(), Vec<OpenedGroup>> {
        let mut running = self.groups();
        if running.is_stopping {
            return Err(groups);
        }
        for (actor, sender) in groups {
            let (ending, ended) = watch::channel(None);
            running.members.insert(actor.settings.name.clone(), Member { sender, ended });
            running.tasks.spawn(attend(actor, ending));
        }
        // Of those that were removed nobody asks any more.
        while running.tasks.try_join_next().is_some() {}
        Ok(())
    }

    /// Waits for a group's end and forgets it.
    pub(super) async fn forget(&self, name: &GroupName) {
        if let Ok(sender) = self.group(name) {
            sender.closed().await;
        }
        self.groups().members.remove(name);
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

    pub(super) fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    pub(super) fn reloader(&self) -> Option<&Reloader> {
        self.inner.reloader.as_ref()
    }

    pub(super) fn group(&self, name: &GroupName) -> Result<mpsc::UnboundedSender<Message>, Fault> {
        let groups = self.groups();
        groups.members.get(name).map(|member| member.sender.clone()).ok_or_else(|| {
            let known: Vec<&str> = groups.members.keys().map(GroupName::as_str).collect();
            Fault {
                kind: FaultKind::NoSuch,
                message: format!("there is no group {name}; this daemon has: {}", known.join(", ")),
                hint: Some("`steer status` lists the groups and their workers".to_owned()),
            }
        })
    }

    pub(super) async fn command(
        &self,
        group: &GroupName,
        command: Command,
        answers: mpsc::Sender<Response>,
    ) -> Result<Response, Fault> {
        let (done, result) = oneshot::channel();
        // What cannot be sent comes back, with the answer's sender in it: it is dropped, or nothing would end the wait.
        drop(self.group(group)?.send(Message::Command { command, answers, done }));
        match result.await {
            Ok(result) => result,
            Err(_) => Err(self.why_ended(group).await),
        }
    }

    pub(super) async fn ask<T>(
        &self,
        group: &GroupName,
        message: impl FnOnce(oneshot::Sender<Result<T, Fault>>) -> Message,
    ) -> Result<T, Fault> {
        let (sender, answer) = oneshot::channel();
        // As above.
        drop(self.group(group)?.send(message(sender)));
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(self.why_ended(group).await),
        }
    }

    /// Why a group does not answer that has let go of what it was sent: its task has ended, or is about to.
    pub(super) async fn why_ended(&self, group: &GroupName) -> Fault {
        let ended = self.groups().members.get(group).map(|member| member.ended.clone());
        let Some(mut ended) = ended else { return Ended::InOrder.fault(group) };
        let known = ended.wait_for(Option::is_some).await;
        // Its sender goes without a word where the runtime does.
        known.ok().and_then(|known| known.clone()).unwrap_or(Ended::InOrder).fault(group)
    }

    /// Whether a group's task has panicked.
    fn has_panicked(&self, group: &GroupName) -> bool {
        let groups = self.groups();
        groups
            .members
            .get(group)
            .is_some_and(|member| matches!(*member.ended.borrow(), Some(Ended::Panicked(_))))
    }

    async fn status(&self, group: Option<GroupName>) -> Result<Response, Fault> {
        let is_one = group.is_some();
        let names = group.map_or_else(|| self.names(), |name| vec![name]);
        let processes = Self::processes().await;
        let (mut groups, mut unattended) = (Vec::new(), Vec::new());
        for name in &names {
            let processes = Arc::clone(&processes);
            match self.ask(name, |answer| Message::Status { processes, answer }).await {
                Ok(status) => groups.push(status),
                Err(fault) if !is_one && self.has_panicked(name) => unattended.push(fault.message),
                // One that a reload has removed meanwhile.
                Err(_) if !is_one && self.group(name).is_err() => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(Response::Status(Status { schema: SCHEMA, groups, unattended }))
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

    /// Gives groups back to the kernel, one after another; nothing of what follows one that is refused.
    async fn release(&self, group: Option<GroupName>) -> Result<Response, Fault> {
        let began = std::time::Instant::now();
        let names = group.map_or_else(|| self.names(), |name| vec![name]);
        for name in &names {
            let (done, result) = oneshot::channel();
            // As above.
            drop(self.group(name)?.send(Message::Release(done)));
            match result.await {
                Ok(result) => result?,
                Err(_) => return Err(self.why_ended(name).await),
            };
            self.forget(name).await;
        }
        Ok(Response::Done(Done { answers: 0, milliseconds: millis(began.elapsed()) }))
    }

    /// Drains and ends every group at once, then the daemon. One that nobody looks after any more is left as it is, and told of.
    pub(super) async fn stop(
        &self,
        timeout: Option<u64>,
        answers: mpsc::Sender<Response>,
    ) -> Result<Response, Fault> {
        let began = std::time::Instant::now();
        let names: Vec<GroupName> = {
            let mut groups = self.groups();
            groups.is_stopping = true;
            groups.members.keys().cloned().collect()
        };
        let stops = names.into_iter().map(|name| {
            let (daemon, answers) = (self.clone(), answers.clone());
            tokio::spawn(async move {
                let stopped = daemon.command(&name, Command::Stop { timeout }, answers).await;
                // One that has ended in order, meanwhile or before, is as it was wanted.
                stopped.map_err(|fault| daemon.has_panicked(&name).then_some(fault))
            })
        });
        let stops: Vec<_> = stops.collect();
        let mut total = Done { answers: 0, milliseconds: 0 };
        let mut left = None;
        for stop in stops {
            match stop.await {
                Ok(Ok(Response::Done(done))) => total.answers += done.answers,
                Ok(Err(Some(fault))) => left = Some(fault),
                _ => {}
            }
        }
        total.milliseconds = millis(began.elapsed());
        self.inner.stopped.send_replace(true);
        left.map_or(Ok(Response::Done(total)), Err)
    }
}

impl Controller for Daemon {
    async fn call(&self, request: Request, answers: mpsc::Sender<Response>) -> Result<Response, Fault> {
        match request {
            Request::Info {} => Ok(Response::Info(Info {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_ms: self.inner.clock.age(),
                program: self.inner.program.to_owned(),
            })),
            Request::Status { group } => self.status(group).await,
            Request::Metrics {} => {
                let exposition = self.exposition().await.map_err(|why| Fault::new(FaultKind::Failed, why))?;
                Ok(Response::Metrics(Metrics { schema: SCHEMA, exposition: exposition.to_string() }))
            }
            Request::Table { group, clients, to } => {
                let table = self.ask(&group, |answer| Message::Table { clients, to, answer });
                Ok(Response::Table(table.await?))
            }
            Request::Flows { group, worker, client, limit } => {
                let question = |answer| Message::Flows(FlowQuestion { worker, client, limit, answer });
                Ok(Response::Flows(self.ask(&group, question).await?))
            }
            Request::Policy { group } => Ok(Response::Policy(self.ask(&group, Message::Policy).await?)),
            Request::SetPolicy { group, policy, dry_run, clients } => {
                let change = Change::Policy(policy);
                self.ask(&group, |done| Message::Tune(Tune { change, over: None, dry_run, clients, done }))
                    .await
            }
            Request::SetWeight { worker, weight, over_ms: over, dry_run, clients } => {
                let change = Change::Weight { worker: worker.index, weight };
                let tune = |done| Message::Tune(Tune { change, over, dry_run, clients, done });
                self.ask(&worker.group, tune).await
            }
            Request::Decide { group, decision } => {
                self.command(&group, Command::Decide(decision.into()), answers).await
            }
            Request::Events { group, since, follow } => self.events(group, since, follow, answers).await,
            Request::Restart { group, worker, timeout_ms: timeout, canary } => {
                let canary = canary.map(Into::into);
                self.command(&group, Command::Restart { worker, timeout, canary }, answers).await
            }
            Request::Drain { worker, timeout_ms: timeout } => {
                self.command(&worker.group, Command::Drain { worker: worker.index, timeout }, answers).await
            }
            Request::Undrain { worker } => {
                self.command(&worker.group, Command::Undrain { worker: worker.index }, answers).await
            }
            Request::Scale { group, workers, timeout_ms: timeout } => {
                self.command(&group, Command::Scale { workers, timeout }, answers).await
            }
            Request::Release { group } => self.release(group).await,
            Request::Reload { timeout_ms } => self.reload(timeout_ms).await,
            Request::Stop { timeout_ms } => self.stop(timeout_ms, answers).await,
        }
    }
}
