//! Carries requests of the control socket out: what is read, from what the groups last published; changes, by the groups they are for.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::{
    control::{
        Controller,
        api::{
            Change as ChangeReport, Done, Fault, FaultKind, GroupStatus, Info, Metrics, Request, Response,
            SCHEMA, Status,
        },
    },
    engine::{
        event::{Command, Millis},
        plan::{Change, Plan},
    },
    group::{Ask, ChangeQuestion, FlowQuestion, Message, Tune, View},
    metrics::Source,
    names::GroupName,
    threads::JobError,
};

use super::{adopt::Adopting, clock::millis, registry::Daemon};

impl Daemon {
    /// Asks a group for a change; receipts come by `answers`.
    pub(super) async fn command(
        &self,
        group: &GroupName,
        command: Command,
        answers: mpsc::Sender<Response>,
    ) -> Result<Response, Fault> {
        let (done, result) = oneshot::channel();
        self.ask(group, Message::Command(Ask { command, answers, done }), result).await
    }

    /// Reads something of a group that takes a while, on a thread.
    async fn read<T: Send + 'static>(
        &self,
        view: Arc<View>,
        read: impl FnOnce(&View) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let failed = |error: JobError| Fault::new(FaultKind::Failed, error.to_string());
        self.inner.threads.reading.run(move || read(&view)).await.map_err(failed)?
    }

    async fn status(&self, group: Option<GroupName>) -> Result<Response, Fault> {
        if let Some(name) = group {
            let groups = vec![self.group_status(self.view(&name).await?).await?];
            return Ok(Response::Status(Status { schema: SCHEMA, groups, unattended: Vec::new() }));
        }
        let (mut views, mut unattended) = (Vec::new(), Vec::new());
        for name in self.names() {
            match self.view(&name).await {
                Ok(view) => views.push(view),
                Err(fault) if self.has_panicked(&name) => unattended.push(fault.message),
                // One that a reload has removed meanwhile.
                Err(_) => {}
            }
        }
        let groups = self.statuses(&views).await?;
        Ok(Response::Status(Status { schema: SCHEMA, groups, unattended }))
    }

    async fn group_status(&self, view: Arc<View>) -> Result<GroupStatus, Fault> {
        let mut statuses = self.statuses(std::slice::from_ref(&view)).await?;
        statuses.pop().ok_or_else(|| Fault::new(FaultKind::Failed, "the group has no status"))
    }

    /// The state of groups, now.
    pub(super) async fn statuses(&self, views: &[Arc<View>]) -> Result<Vec<GroupStatus>, Fault> {
        let connections = self.inner.readings.connections(views).await?;
        let (clock, looks) = (self.inner.clock, self.inner.readings.looks());
        let status = |(view, connections): (&Arc<View>, Arc<_>)| view.status(clock, looks, &connections);
        views.iter().zip(connections).map(status).collect()
    }

    /// Changes a group's policy or a weight, or only says what that would move.
    async fn change(
        &self,
        group: GroupName,
        question: ChangeQuestion,
        over: Option<Millis>,
        dry_run: bool,
    ) -> Result<Response, Fault> {
        let began = std::time::Instant::now();
        let view = self.view(&group).await?;
        view.check_change(&question.change)?;
        if dry_run {
            let report = move |view: &View| {
                let plan = view.plan(&question.change)?;
                view.report_change(&plan, &question.clients, &view.list_connections()?)
            };
            return Ok(Response::Change(self.read(view, report).await?));
        }
        // What cannot be said of these clients is found before anything is changed.
        view.placed(&question.clients, None)?;
        let (planned, plan) = oneshot::channel::<Plan>();
        let (done, ended) = oneshot::channel();
        let ChangeQuestion { change, clients } = question;
        let tune = Message::Tune(Tune { change, over, planned, done });
        let asked = self.ask(&group, tune, ended);
        let reported = async {
            // It comes before anything is begun; where the change is refused, none does.
            let plan = plan.await.ok()?;
            let report = move |view: &View| view.report_change(&plan, &clients, &view.list_connections()?);
            Some(self.read(view, report).await)
        };
        let (asked, reported) = tokio::join!(asked, reported);
        asked?;
        let report =
            reported.ok_or_else(|| Fault::new(FaultKind::Failed, "the change was not planned"))??;
        let milliseconds = millis(began.elapsed());
        Ok(Response::Change(ChangeReport { applied: true, milliseconds, ..report }))
    }

    /// Gives groups back to the kernel: none of them where one cannot be.
    async fn release(&self, group: Option<GroupName>) -> Result<Response, Fault> {
        let began = std::time::Instant::now();
        let names = group.map_or_else(|| self.names(), |name| vec![name]);
        for name in &names {
            self.view(name).await?.check_release()?;
        }
        for name in &names {
            self.give_back(name, false).await?;
        }
        Ok(Response::Done(Done { answers: 0, milliseconds: millis(began.elapsed()) }))
    }

    /// Gives a group back to the kernel; at once where it `is_last`, as the daemon is being stopped.
    pub(super) async fn give_back(&self, name: &GroupName, is_last: bool) -> Result<(), Fault> {
        let (done, result) = oneshot::channel();
        self.ask::<Response>(name, Message::Release { done, is_last }, result).await?;
        self.forget(name).await;
        Ok(())
    }

    /// Drains and ends every group at once, then the daemon. One that nobody looks after any more is left as it is, and told of.
    pub(super) async fn stop(
        &self,
        timeout: Option<u64>,
        answers: mpsc::Sender<Response>,
    ) -> Result<Response, Fault> {
        let began = std::time::Instant::now();
        let names = self.stop_taking_groups();
        let (adopted, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| self.is_adopted(name));
        for name in adopted {
            // Its server is not the group's to stop.
            if let Err(fault) = self.give_back(&name, true).await {
                tracing::warn!("{}", fault.message);
            }
        }
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
                Ok(Response::Table(self.view(&group).await?.table(&clients, to)?))
            }
            Request::Flows { group, worker, client, limit } => {
                let question = FlowQuestion { worker, client, limit };
                let view = self.view(&group).await?;
                Ok(Response::Flows(self.read(view, move |view| view.list_flows(&question)).await?))
            }
            Request::Policy { group } => {
                Ok(Response::Policy(self.view(&group).await?.policy_report(self.inner.clock)))
            }
            Request::SetPolicy { group, policy, dry_run, clients } => {
                let question = ChangeQuestion { change: Change::Policy(policy), clients };
                self.change(group, question, None, dry_run).await
            }
            Request::SetWeight { worker, weight, over_ms: over, dry_run, clients } => {
                let change = Change::Weight { worker: worker.index, weight };
                self.change(worker.group, ChangeQuestion { change, clients }, over, dry_run).await
            }
            Request::Decide { group, decision } => {
                self.command(&group, Command::Decide(decision.into()), answers).await
            }
            Request::Events { group, since, follow } => self.events(group, since, follow, answers).await,
            Request::Restart { group, worker, timeout_ms: timeout, canary } => {
                if let Some(adopted) = self.view(&group).await?.settings.adopt.clone() {
                    return self.restart_adopted(&group, adopted, worker, timeout).await;
                }
                let canary = canary.map(Into::into);
                self.command(&group, Command::Restart { worker, timeout, canary }, answers).await
            }
            Request::Drain { worker, timeout_ms: timeout, until_replaced } => {
                self.command(
                    &worker.group,
                    Command::Drain { worker: worker.index, timeout, until_replaced },
                    answers,
                )
                .await
            }
            Request::DrainAll { group, unit, timeout_ms: timeout } => {
                let workers = match unit {
                    Some(unit) => Some(self.workers_of(&group, unit).await?),
                    None => None,
                };
                self.command(&group, Command::DrainAll { workers, timeout }, answers).await
            }
            Request::Undrain { worker } => {
                self.command(&worker.group, Command::Undrain { worker: worker.index }, answers).await
            }
            Request::Scale { group, workers, timeout_ms: timeout } => {
                self.command(&group, Command::Scale { workers, timeout }, answers).await
            }
            Request::Adopt { target, name, dry_run, keep } => {
                self.adopt(Adopting { target, name, dry_run, keep }).await
            }
            Request::Release { group } => self.release(group).await,
            Request::Reload { timeout_ms } => self.reload(timeout_ms).await,
            Request::Stop { timeout_ms } => self.stop(timeout_ms, answers).await,
        }
    }
}
