//! The daemon: carries the engine's effects out and brings it events.
//!
//! One task per group ([`actor`]) owns everything of that group; groups share the journal and the control socket only.

mod actor;
mod carry;
mod cells;
pub mod checks;
pub mod clock;
mod controller;
mod convert;
mod crash;
mod describe;
mod endpoint;
pub mod flows;
mod journal;
mod lasting;
mod loads;
mod mend;
mod observe;
pub mod open;
pub mod persistence;
mod pinning;
mod place;
mod probe;
mod reach;
mod release;
mod running;
pub mod settings;
pub mod setup;
mod stall;
mod start;
pub mod state;
mod status;
mod supervise;
mod takeover;
mod totals;
mod tune;
mod waiter;

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    control::{Access, ControlSocket, serve},
    names::GroupName,
    workers::{output::OutputSink, user::ResolvedUser},
};

use self::{
    clock::Clock, controller::Daemon, journal::Journal, lasting::Lasting, open::Surroundings,
    settings::GroupSettings, setup::Setup,
};

/// Where a service's pins are, unless said otherwise.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/steer";

/// Runs groups until they are stopped by `steer stop`, which drains them. SIGTERM and SIGINT do the same to groups in the foreground;
/// those of a service go on serving, and the next daemon goes on with them.
///
/// Needs CAP_BPF for the programs, and CAP_SYS_PTRACE to see other users' sockets. Errors are
/// found before any worker is started: an address in use, a missing capability, a daemon that runs already.
pub fn run(groups: Vec<GroupSettings>, setup: Setup) -> anyhow::Result<ExitCode> {
    let mut uids = Vec::new();
    for user in &setup.access {
        let resolved = ResolvedUser::resolve(user);
        uids.push(resolved.with_context(|| format!("cannot let {user} make changes"))?.uid);
    }
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve_groups(groups, setup, Access::new(uids)?))
}

async fn serve_groups(groups: Vec<GroupSettings>, setup: Setup, access: Access) -> anyhow::Result<ExitCode> {
    let control = ControlSocket::bind(&setup.socket)?;
    let (clock, journal) = (Clock::new(), Journal::new());
    let (output, _) = OutputSink::to_stderr();
    let lasting = Lasting::new(&setup)?;
    let mut actors = Vec::new();
    let mut senders = BTreeMap::new();
    let mut program = "none";
    let left = lasting.as_ref().map(|lasting| lasting.left(&groups)).transpose()?.unwrap_or_default();
    let gone: Vec<GroupName> = left.iter().map(|settings| settings.name.clone()).collect();
    for settings in groups.into_iter().chain(left) {
        let name = settings.name.clone();
        let surroundings = Surroundings {
            clock,
            journal: journal.clone(),
            output: output.clone(),
            socket: &setup.socket,
            persistence: lasting.as_ref().map(|lasting| lasting.group(&name)).transpose()?,
        };
        let (actor, sender, kind) = open::open(settings, surroundings)?;
        tracing::info!("{name} serves {} with the program {kind}", actor.addresses());
        program = kind;
        senders.insert(name, sender);
        actors.push(actor);
    }
    let (stopped, mut is_stopped) = watch::channel(false);
    let daemon = Daemon::new(senders, journal, clock, program, stopped);
    let mut tasks = JoinSet::new();
    for actor in actors {
        tasks.spawn(actor.run());
    }
    if let Some(lasting) = &lasting {
        tokio::spawn(lasting.clone().look_after());
    }
    for name in gone {
        tracing::warn!("{name} is not configured any more, and is stopped");
        tokio::spawn(daemon.clone().stop_group(name));
    }
    let ends = stop_on_signal(daemon.clone(), lasting.is_some())?;
    let left = tokio::spawn(ends);
    let shutdown = async move {
        // The sender lives as long as the daemon: an error cannot come first.
        let _ = is_stopped.wait_for(|stopped| *stopped).await;
    };
    serve(control, daemon, access, shutdown).await?;
    if left.is_finished() && lasting.is_some() {
        tracing::info!("ends, and leaves its groups to serve on");
        tasks.shutdown().await;
        return Ok(ExitCode::SUCCESS);
    }
    while tasks.join_next().await.is_some() {}
    if let Some(lasting) = lasting {
        lasting.end();
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the daemon at the first SIGTERM or SIGINT: its groups with it, or not, where they are to last.
fn stop_on_signal(daemon: Daemon, groups_last: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if groups_last {
            return daemon.leave();
        }
        let (answers, _) = mpsc::channel(1);
        if let Err(fault) = daemon.stop(None, answers).await {
            tracing::error!("{}", fault.message);
        }
    })
}

/// The daemon holds a descriptor for each listener: the soft limit, 1024 by tradition, is for `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}
