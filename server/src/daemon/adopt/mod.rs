//! Takes a server that somebody else starts under management, at the word of a client.

mod find;
mod keep;
mod listeners;
mod unfit;
mod unit;

use std::{cell::LazyCell, time::Instant};

use anyhow::Context as _;

use crate::{
    cli::exit::{Exit, classify},
    control::api::{AdoptTarget, Adopted, AdoptedAddress, Fault, FaultKind, Response, SCHEMA},
    group::{Opened, open},
    names::GroupName,
    policy::Policy,
    sockets::{address::ListenAddress, processes::Processes},
    threads::JobError,
};

use self::find::{Found, FoundUnit, find};
use super::{
    clock::millis,
    memory::give_back,
    registry::Daemon,
    settings::{
        AdoptSettings, Deadlines, FlowSettings, GroupSettings, Mode, Readiness, RestartKind, WhenEmpty,
    },
    shared::Shared,
};

/// How long an adopted server's first table may take.
const SERVES_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// What is asked of an adoption.
#[derive(Debug)]
pub(super) struct Adopting {
    pub(super) target: AdoptTarget,
    pub(super) name: Option<GroupName>,
    pub(super) dry_run: bool,
    pub(super) keep: bool,
}

impl Daemon {
    /// Adopts a server, or says what that would do. It answers once the group's table is published.
    pub(super) async fn adopt(&self, adopting: Adopting) -> Result<Response, Fault> {
        let began = Instant::now();
        let Adopting { target, name, dry_run, keep } = adopting;
        let unit = self.unit_of(&target).await?;
        let reading = &self.inner.threads.reading;
        let found = reading.run(move || find(&target, unit)).await.map_err(given_up)??;
        let group = name.unwrap_or_else(|| found.name.clone());
        self.require_free(&group, &found)?;
        let found =
            reading.run(move || unfit::refuse_managed(&found).map(|()| found)).await.map_err(given_up)??;
        unfit::require_alone(&found)?;
        let mut adopted = report(&group, &found);
        if !dry_run {
            let settings = settings(group.clone(), &found);
            let opened = self.open_one(settings.clone()).await?;
            if let Err(opened) = self.run(vec![opened]) {
                for opened in opened {
                    opened.task.abandon().await;
                }
                return Err(Fault::new(FaultKind::Refused, "cannot adopt: the daemon is being stopped"));
            }
            self.journal().add("adopted", &group, None, None, format!("the server of {}", found.server));
            self.await_first_table(&group).await?;
            adopted.adopted = true;
            if keep {
                let config = self.reloader().map(super::reload::Reloader::config);
                adopted.kept = Some(keep::keep(config, &settings)?);
            }
        }
        adopted.milliseconds = millis(began.elapsed());
        Ok(Response::Adopted(adopted))
    }

    /// The unit that is asked for by its name.
    async fn unit_of(&self, target: &AdoptTarget) -> Result<Option<FoundUnit>, Fault> {
        let AdoptTarget::Unit(name) = target else { return Ok(None) };
        self.find_unit(name).await.map(Some)
    }

    /// Refuses a name or an address that another group has.
    fn require_free(&self, group: &GroupName, found: &Found) -> Result<(), Fault> {
        if self.names().contains(group) {
            let fault =
                Fault::new(FaultKind::Refused, format!("cannot adopt as {group}: there is such a group"));
            return Err(
                fault.with_hint("choose another with --name, or release that one with `steer release`")
            );
        }
        for view in self.views() {
            let theirs: Vec<ListenAddress> = view.addresses().collect();
            if let Some(it) = found.addresses.iter().find(|it| theirs.contains(&it.address)) {
                let (address, owner) = (it.address, &view.settings.name);
                let fault = Fault::new(
                    FaultKind::Refused,
                    format!("cannot adopt {address}: the group {owner} has it already"),
                );
                return Err(fault.with_hint(format!("`steer status {owner}` shows that group")));
            }
        }
        Ok(())
    }

    /// Opens a group on a thread.
    async fn open_one(&self, settings: GroupSettings) -> Result<Opened, Fault> {
        let shared: Shared = self.inner.shared.clone();
        let name = settings.name.clone();
        let opening = move || {
            let _outside = shared.outside.enter();
            let result = open(settings, &shared, &LazyCell::new(Processes::now));
            give_back();
            result
        };
        let opened = self.inner.threads.reading.run(opening).await.map_err(given_up)?;
        opened.with_context(|| format!("cannot adopt {name}")).map_err(|error| fault(&error))
    }

    async fn await_first_table(&self, group: &GroupName) -> Result<(), Fault> {
        let serves = self.view_that(group, |view| view.counts().is_serving);
        let late = || {
            let message = format!("{group} was adopted, and has no table after {SERVES_WITHIN:?}");
            Fault::new(FaultKind::TimedOut, message)
                .with_hint(format!("`steer events {group}` says what is in the way"))
        };
        tokio::time::timeout(SERVES_WITHIN, serves).await.map_err(|_| late())??;
        // What came to the holding listener before the program was attached moves now. It is served in any case, unless the daemon is
        // killed before.
        let moves = self.view_that(group, |view| view.counts().is_hold_idle);
        match tokio::time::timeout(SERVES_WITHIN, moves).await {
            Ok(moved) => moved.map(drop),
            Err(_) => Ok(()),
        }
    }
}

/// A group of a server that was found.
fn settings(name: GroupName, found: &Found) -> GroupSettings {
    let most = found.addresses.iter().map(|it| it.listeners).max().unwrap_or(1);
    GroupSettings {
        name,
        listen: found.addresses.iter().map(|it| it.address).collect(),
        workers: most.max(1),
        weights: Default::default(),
        policy: Policy::default(),
        mode: Mode::Adopt,
        sockets: None,
        restart: RestartKind::Surge,
        ready: Readiness::Listener,
        when_empty: WhenEmpty::Hold,
        adopt: Some(AdoptSettings::of(found.server.clone())),
        command: None,
        user: None,
        directory: None,
        environment: Vec::new(),
        limits: Vec::new(),
        stop_signal: libc::SIGTERM,
        seed: None,
        flows: FlowSettings::default(),
        deadlines: Deadlines::of_adopted(),
    }
}

fn report(group: &GroupName, found: &Found) -> Adopted {
    let address = |it: &find::FoundAddress| AdoptedAddress {
        address: it.address,
        listeners: it.listeners,
        processes: it.holders.len() as u32,
    };
    Adopted {
        schema: SCHEMA,
        group: group.clone(),
        server: found.server.to_string(),
        listen: found.addresses.iter().map(address).collect(),
        adopted: false,
        kept: None,
        notes: found.notes.clone(),
        milliseconds: 0,
    }
}

fn fault(error: &anyhow::Error) -> Fault {
    let (exit, hint) = classify(error);
    let kind = match exit {
        Exit::Usage => FaultKind::Usage,
        Exit::NoSuch => FaultKind::NoSuch,
        Exit::Refused => FaultKind::Refused,
        _ => FaultKind::Failed,
    };
    Fault { kind, message: format!("{error:#}"), hint }
}

fn given_up(error: JobError) -> Fault {
    Fault::new(FaultKind::Failed, format!("cannot adopt: {error}"))
}
