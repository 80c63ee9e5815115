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
mod reload;
mod rules;
mod running;
pub mod settings;
pub mod setup;
mod shared;
mod stall;
mod start;
mod status;
mod supervise;
mod totals;
mod tune;
mod waiter;

use std::process::ExitCode;

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    config::Config,
    control::{
        Access, AccessInForce, ControlSocket,
        api::{Fault, Response},
        serve,
    },
    workers::{
        limits::{Limit, Resource},
        output::OutputSink,
        user::ResolvedUser,
    },
};

use self::{
    clock::Clock,
    controller::Daemon,
    journal::Journal,
    reload::Reloader,
    settings::GroupSettings,
    setup::{Purpose, Setup},
    shared::Shared,
};

/// Runs groups in the foreground until they are stopped: by `steer stop`, SIGTERM or SIGINT, all of which drain.
///
/// Needs CAP_BPF for the programs, and CAP_SYS_PTRACE to see other users' sockets. Errors are
/// found before any worker is started: an address in use, a missing capability, a daemon that runs already.
pub fn run(groups: Vec<GroupSettings>, setup: Setup) -> anyhow::Result<ExitCode> {
    let access = resolve_access(&setup.access)?;
    let limits = raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve_groups(groups, setup, limits, access))
}

/// Who may make changes: fails for a user that there is not.
fn resolve_access(users: &[String]) -> anyhow::Result<Access> {
    let mut uids = Vec::new();
    for user in users {
        let resolved = ResolvedUser::resolve(user);
        uids.push(resolved.with_context(|| format!("cannot let {user} make changes"))?.uid);
    }
    Ok(Access::new(uids)?)
}

async fn serve_groups(
    groups: Vec<GroupSettings>,
    setup: Setup,
    limits: Vec<(Resource, Limit)>,
    access: Access,
) -> anyhow::Result<ExitCode> {
    let control = ControlSocket::bind(&setup.socket)?;
    let (output, _) = OutputSink::to_stderr();
    let shared =
        Shared { clock: Clock::new(), journal: Journal::new(), output, socket: setup.socket, limits };
    let access = AccessInForce::from(access);
    // From the first instant on: a SIGHUP that nobody waits for ends the process.
    let (reloader, hangup) = match setup.purpose {
        Purpose::Foreground => (None, None),
        Purpose::Service { config, loaded } => {
            let loaded = Config { daemon: loaded, groups: groups.clone(), files: Vec::new() };
            let reloader = Reloader::new(config, loaded, shared.clone(), access.clone());
            (Some(reloader), Some(signal(SignalKind::hangup())?))
        }
    };
    let mut opened = Vec::new();
    let mut program = "none";
    for settings in groups {
        let name = settings.name.clone();
        let (actor, sender, kind) = open::open(settings, &shared)?;
        tracing::info!("{name} serves {} with the program {kind}", actor.addresses());
        program = kind;
        opened.push((actor, sender));
    }
    let (stopped, mut is_stopped) = watch::channel(false);
    let daemon = Daemon::new(&shared, program, reloader, stopped);
    // Only a daemon that is being stopped gives them back.
    let _ = daemon.run(opened);
    if let Some(hangup) = hangup {
        tokio::spawn(reload_on_signal(daemon.clone(), hangup));
    }
    tokio::spawn(stop_on_signal(daemon.clone())?);
    let shutdown = async move {
        // The sender lives as long as the daemon: an error cannot come first.
        let _ = is_stopped.wait_for(|stopped| *stopped).await;
    };
    serve(control, daemon.clone(), access, shutdown).await?;
    daemon.ended().await;
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

/// Reads the configuration again at each SIGHUP, and has the log say what came of it.
async fn reload_on_signal(daemon: Daemon, mut hangup: Signal) {
    // Those that come while one is carried out are one.
    while hangup.recv().await.is_some() {
        match daemon.reload(None).await {
            Ok(Response::Reload(reload)) => reload::log(&reload),
            Ok(_) => {}
            Err(Fault { message, hint, .. }) => {
                let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
                tracing::error!("SIGHUP: the configuration stays as it was\n{message}{hint}");
            }
        }
    }
}

/// The daemon holds a descriptor for each listener: the soft limit, 1024 by tradition, is for `select`. What it was goes to the
/// workers, which may be programs that `select`.
fn raise_descriptor_limit() -> Vec<(Resource, Limit)> {
    let raise = || {
        let before = Resource::NOFILE.own()?;
        Resource::NOFILE.set_own(Limit { soft: before.hard, ..before })?;
        Ok::<_, std::io::Error>(before)
    };
    match raise() {
        Ok(before) => vec![(Resource::NOFILE, before)],
        Err(error) => {
            tracing::warn!("cannot raise the limit of open files: {error}");
            Vec::new()
        }
    }
}
