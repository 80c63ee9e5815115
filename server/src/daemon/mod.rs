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
mod describe;
mod endpoint;
pub mod flows;
mod journal;
mod loads;
mod observe;
pub mod open;
mod pinning;
mod place;
mod probe;
mod reach;
mod running;
pub mod settings;
pub mod setup;
mod stall;
mod start;
mod status;
mod supervise;
pub mod systemd;
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
    workers::{limits::raise_open_files, output::OutputSink, user::ResolvedUser},
};

use self::{clock::Clock, controller::Daemon, journal::Journal, settings::GroupSettings, setup::Setup};

/// Runs groups in the foreground until they are stopped: by `steer stop`, SIGTERM or SIGINT, all of which drain.
///
/// Needs CAP_BPF for the programs, and CAP_SYS_PTRACE to see other users' sockets. Errors are
/// found before any worker is started: an address in use, a missing capability, a daemon that runs already.
pub fn run(groups: Vec<GroupSettings>, setup: Setup) -> anyhow::Result<ExitCode> {
    let mut uids = Vec::new();
    for user in &setup.access {
        let resolved = ResolvedUser::resolve(user);
        uids.push(resolved.with_context(|| format!("cannot let {user} make changes"))?.uid);
    }
    raise_open_files();
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
    let mut actors = Vec::new();
    let mut senders = BTreeMap::new();
    let mut program = "none";
    for settings in groups {
        let name = settings.name.clone();
        let (actor, sender, kind) =
            open::open(settings, clock, journal.clone(), output.clone(), &setup.socket)?;
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
    tokio::spawn(stop_on_signal(daemon.clone())?);
    tokio::spawn(systemd::report(daemon.clone()));
    let shutdown = async move {
        // The sender lives as long as the daemon: an error cannot come first.
        let _ = is_stopped.wait_for(|stopped| *stopped).await;
        systemd::stopping();
    };
    serve(control, daemon, access, shutdown).await?;
    while tasks.join_next().await.is_some() {}
    Ok(ExitCode::SUCCESS)
}

/// Stops the daemon at the first SIGTERM or SIGINT.
fn stop_on_signal(daemon: Daemon) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let (answers, _) = mpsc::channel(1);
        if let Err(fault) = daemon.stop(None, answers).await {
            tracing::error!("{}", fault.message);
        }
    })
}
