//! Reads the configuration again, and makes the groups what it says: all of it, or nothing.
//!
//! Everything that can be refused is found before anything is touched: [`gather`] reads and compares, new groups are opened
//! without being started, and each group that is to change is asked and then does nothing else until all have answered.

mod gather;
mod keys;
mod plan;
#[cfg(test)]
mod tests;

use std::{
    cell::LazyCell,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    config::Config,
    control::{
        AccessInForce,
        api::{Applies, Fault, FaultKind, GroupReload, KeyChange, Receipt, Reload, Response, SCHEMA},
    },
    engine::event::{Command, Millis},
    group::{Approval, Message, Opened, Proposal, open},
    names::GroupName,
    sockets::processes::Processes,
    threads::JobError,
};

use super::{
    clock::millis, memory::give_back, registry::Daemon, rules::reconfiguration, settings::GroupSettings,
    shared::Shared,
};
use gather::{Gathered, fault, gather};
use plan::{GroupChange, Plan, taken_over};

/// How many receipts may wait for being taken in: more than a group has workers.
const RECEIPTS: usize = 4096;

/// What reloads need.
#[derive(Debug)]
pub(super) struct Reloader {
    config: PathBuf,
    /// What was read last and is in force. Whoever reloads has it: one after another.
    loaded: Mutex<Config>,
    shared: Shared,
    access: AccessInForce,
}

/// A group that waits for the verdict.
struct Waiting {
    change: GroupChange,
    verdict: oneshot::Sender<Approval>,
}

/// A reload that is under way.
#[derive(Debug)]
pub(super) struct Reloading {
    began: Instant,
    files: Vec<String>,
    daemon: Vec<KeyChange>,
    reloaded: Vec<GroupReload>,
    under_way: Vec<JoinHandle<GroupReload>>,
}

impl Reloading {
    /// Waits until everything that it has set going has ended.
    pub(super) async fn ended(self) -> Result<Response, Fault> {
        let Self { began, files, daemon, mut reloaded, under_way } = self;
        for ending in under_way {
            reloaded.push(ending.await.map_err(panicked)?);
        }
        reloaded.sort_by(|one, other| one.group.cmp(&other.group));
        let milliseconds = millis(began.elapsed());
        Ok(Response::Reload(Reload { schema: SCHEMA, files, daemon, reloaded, milliseconds }))
    }
}

impl Reloader {
    /// For a daemon that was started with the configuration at `config`, which was `loaded`.
    pub(super) fn new(config: PathBuf, loaded: Config, shared: Shared, access: AccessInForce) -> Self {
        Self { config, loaded: Mutex::new(loaded), shared, access }
    }
}

impl Reloader {
    /// Where the configuration is.
    pub(super) fn config(&self) -> &Path {
        &self.config
    }
}

impl Daemon {
    /// Reloads: answers once tables are published and who leaves has gone.
    pub(super) async fn reload(&self, timeout: Option<Millis>) -> Result<Response, Fault> {
        self.begin_reload(timeout).await?.ended().await
    }

    /// Begins a reload. Several are begun one after another; what one of them has set going need not have ended for the next.
    pub(super) async fn begin_reload(&self, timeout: Option<Millis>) -> Result<Reloading, Fault> {
        let Some(reloader) = self.reloader() else {
            let message = "cannot reload: this daemon was started by `steer run`, without a configuration";
            let hint = "write a configuration and start `steer daemon --config FILE`, or change the group with \
                        `steer policy`, `weight` and `scale`";
            return Err(Fault::new(FaultKind::Refused, message).with_hint(hint));
        };
        let began = Instant::now();
        let mut loaded = reloader.loaded.lock().await;
        let (config, old, socket) = (reloader.config.clone(), loaded.clone(), reloader.shared.socket.clone());
        let reading = &self.inner.threads.reading;
        let gathered = reading.run(move || gather(&config, &old, &socket)).await.map_err(given_up)??;
        let Gathered { config, plan: Plan { added, removed, changed, daemon }, access, users } = gathered;
        self.require_ended(&added)?;
        let opened = open_all(added, &reloader.shared).await?;
        let waiting = match self.propose(changed, users, timeout).await {
            Ok(waiting) => waiting,
            Err(fault) => {
                abandon(opened).await;
                return Err(fault);
            }
        };
        let names: Vec<GroupName> = opened.iter().map(|opened| opened.task.settings().name.clone()).collect();
        // Nothing is awaited from here on until all is under way.
        if let Err(opened) = self.run(opened) {
            drop(waiting);
            abandon(opened).await;
            return Err(Fault::new(FaultKind::Refused, "cannot reload: the daemon is being stopped"));
        }
        reloader.access.set(access);
        let files = config.files.iter().map(|path| path.display().to_string()).collect();
        *loaded = taken_over(&loaded, config);
        let changes = waiting.into_iter().map(|waiting| tokio::spawn(self.clone().take_over(waiting)));
        let ends = removed.into_iter().map(|name| tokio::spawn(self.clone().remove(name, timeout)));
        let under_way: Vec<_> = changes.chain(ends).collect();
        let reloaded = names.into_iter().map(|name| self.added(name)).collect();
        Ok(Reloading { began, files, daemon, reloaded, under_way })
    }

    /// Refuses a group while an earlier one of its name is still ending.
    fn require_ended(&self, added: &[GroupSettings]) -> Result<(), Fault> {
        let Some(settings) = added.iter().find(|settings| self.require(&settings.name).is_ok()) else {
            return Ok(());
        };
        let name = &settings.name;
        Err(Fault::new(
            FaultKind::Refused,
            format!("cannot reload: the group {name} that was removed still drains"),
        )
        .with_hint(format!("wait for its end, which `steer status {name}` shows, and reload again")))
    }

    /// Asks every group that is to change whether it can; those that can wait for what comes of it.
    async fn propose(
        &self,
        changed: Vec<GroupChange>,
        users: Vec<Option<crate::workers::user::ResolvedUser>>,
        timeout: Option<Millis>,
    ) -> Result<Vec<Waiting>, Fault> {
        let mut asked = Vec::new();
        for (change, user) in changed.into_iter().zip(users) {
            let (answer, answered) = oneshot::channel();
            let (verdict, awaited) = oneshot::channel();
            let proposal = Proposal {
                settings: change.new.clone(),
                user,
                change: reconfiguration(&change.old, &change.new, timeout),
                answer,
                verdict: awaited,
            };
            self.tell(&change.new.name, Message::Propose(Box::new(proposal))).await?;
            asked.push((Waiting { change, verdict }, answered));
        }
        let mut waiting = Vec::new();
        for (one, answered) in asked {
            let answer = match answered.await {
                Ok(answer) => answer,
                Err(_) => Err(self.why_ended(&one.change.new.name).await),
            };
            answer.map_err(|fault| Fault {
                message: format!("{}; nothing was changed", fault.message),
                ..fault
            })?;
            waiting.push(one);
        }
        Ok(waiting)
    }

    /// Has a group take its configuration over, and waits for its end.
    async fn take_over(self, Waiting { change, verdict }: Waiting) -> GroupReload {
        let name = change.new.name;
        self.journal().add("reloaded", &name, None, None, described(&change.keys));
        let (answers, receipts) = mpsc::channel(RECEIPTS);
        let (done, ended) = oneshot::channel();
        // One that has ended meanwhile does not answer either.
        let _ = verdict.send(Approval { answers, done });
        let result = match ended.await {
            Ok(result) => result,
            Err(_) => Err(self.why_ended(&name).await),
        };
        let waits = change.keys.iter().any(|change| change.applies == Applies::NextGeneration);
        GroupReload {
            outcome: "changed".to_owned(),
            changes: change.keys,
            restart: waits.then(|| format!("steer restart {name}")),
            receipts: collected(receipts),
            fault: result.err().map(|fault| fault.message),
            group: name,
        }
    }

    /// Drains and ends a group, and forgets it.
    async fn remove(self, name: GroupName, timeout: Option<Millis>) -> GroupReload {
        self.journal().add(
            "removed",
            &name,
            None,
            None,
            "the configuration has it no more: it drains".into(),
        );
        let (answers, receipts) = mpsc::channel(RECEIPTS);
        let result = match self.is_adopted(&name) {
            true => self.give_back(&name, false).await,
            false => self.command(&name, Command::Stop { timeout }, answers).await.map(drop),
        };
        self.forget(&name).await;
        GroupReload {
            outcome: "removed".to_owned(),
            changes: Vec::new(),
            restart: None,
            receipts: collected(receipts),
            fault: result.err().map(|fault| fault.message),
            group: name,
        }
    }

    fn added(&self, name: GroupName) -> GroupReload {
        self.journal().add(
            "added",
            &name,
            None,
            None,
            "the configuration has it now: its workers start".into(),
        );
        GroupReload {
            outcome: "added".to_owned(),
            changes: Vec::new(),
            restart: None,
            receipts: Vec::new(),
            fault: None,
            group: name,
        }
    }
}

/// Opens the groups, all or none.
async fn open_all(added: Vec<GroupSettings>, shared: &Shared) -> Result<Vec<Opened>, Fault> {
    let mut opened = Vec::new();
    for settings in added {
        let (name, own) = (settings.name.clone(), shared.clone());
        let opening = move || {
            // The program's log is followed there.
            let _outside = own.outside.enter();
            let result = open(settings, &own, &LazyCell::new(Processes::now));
            give_back();
            result
        };
        let result = shared.threads.reading.run(opening).await.map_err(given_up)?;
        match result.with_context(|| format!("cannot open the group {name}")) {
            Ok(group) => opened.push(group),
            Err(error) => {
                abandon(opened).await;
                return Err(fault(&error));
            }
        }
    }
    Ok(opened)
}

async fn abandon(opened: Vec<Opened>) {
    for opened in opened {
        opened.task.abandon().await;
    }
}

/// What has come by now: all, once the group has given its last answer.
fn collected(mut answers: mpsc::Receiver<Response>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    while let Ok(answer) = answers.try_recv() {
        if let Response::Receipt(receipt) = answer {
            receipts.push(receipt);
        }
    }
    receipts
}

/// The changes in a line.
fn described(changes: &[KeyChange]) -> String {
    let one = |change: &KeyChange| {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".to_owned());
        format!("{} {} -> {}", change.key, value(&change.before), value(&change.after))
    };
    changes.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn given_up(error: JobError) -> Fault {
    Fault::new(FaultKind::Failed, format!("cannot reload: {error}"))
}

fn panicked(error: tokio::task::JoinError) -> Fault {
    Fault::new(FaultKind::Failed, format!("a part of the reload has ended before its time: {error}"))
}

/// Says what has changed, and what went wrong.
pub(super) fn log(reload: &Reload) {
    let Reload { files, daemon, reloaded, .. } = reload;
    if daemon.is_empty() && reloaded.is_empty() {
        tracing::info!("read {} again: nothing has changed", files.join(", "));
    }
    if !daemon.is_empty() {
        tracing::info!("daemon reloaded: {}", described(daemon));
    }
    // What has changed of groups, their events have said.
    for GroupReload { group, restart, fault, .. } in reloaded {
        if let Some(command) = restart {
            tracing::info!(
                "{group} has changes that wait for its workers' next generations: see `{command}`"
            );
        }
        if let Some(fault) = fault {
            tracing::error!("{group} is as the configuration says, but: {fault}");
        }
    }
}
