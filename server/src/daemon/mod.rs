//! The daemon: carries the engine's effects out and brings it events.
//!
//! One task per group ([`actor`]) owns everything of that group; groups share the journal and the control socket only.

mod actor;
mod anchor;
mod by_id;
mod carry;
mod cells;
pub mod checks;
pub mod clock;
mod controller;
mod convert;
mod crash;
mod describe;
mod ended;
mod endpoint;
mod endpoint_error;
mod flow_list;
pub mod flows;
mod following;
mod journal;
mod lasting;
mod loads;
mod member;
mod memory;
mod mend;
mod neighbours;
mod observe;
pub mod open;
pub mod persistence;
mod pinning;
mod place;
mod probe;
mod reach;
mod release;
mod reload;
mod rules;
mod running;
mod scrape;
pub mod settings;
pub mod setup;
mod shared;
mod stall;
mod start;
pub mod state;
mod status;
mod supervise;
pub mod systemd;
mod takeover;
mod totals;
mod tune;
mod waiter;

use std::{cell::LazyCell, process::ExitCode};

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
    metrics::MetricsListener,
    sockets::procfs::Processes,
    workers::{
        limits::{Limit, Resource},
        output::OutputSink,
        user::ResolvedUser,
    },
};

use self::{
    actor::Actor,
    clock::Clock,
    controller::Daemon,
    journal::Journal,
    lasting::Lasting,
    neighbours::Neighbours,
    reload::Reloader,
    settings::GroupSettings,
    setup::{Purpose, Setup},
    shared::Shared,
};

/// Where a service's pins are, unless said otherwise.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/steer";

/// Runs groups until they are stopped by `steer stop`, which drains them. SIGTERM and SIGINT do the same to groups in the foreground;
/// those of a service go on serving, and the next daemon goes on with them.
///
/// Needs CAP_BPF for the programs, and CAP_SYS_PTRACE to see other users' sockets. Errors are
/// found before any worker is started: an address in use, a missing capability, a daemon that runs already.
pub fn run(groups: Vec<GroupSettings>, setup: Setup) -> anyhow::Result<ExitCode> {
    let access = resolve_access(&setup.access)?;
    let limits = raise_descriptor_limit();
    memory::return_large();
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
    let metrics = setup.metrics.as_ref().map(MetricsListener::bind).transpose()?;
    let output = OutputSink::to_stderr(setup.log_format);
    let lasting = Lasting::new(&setup)?;
    let shared = Shared {
        clock: Clock::new(),
        journal: Journal::new(),
        output: output.clone(),
        socket: setup.socket,
        limits,
        neighbours: Neighbours::default(),
        lasting: lasting.clone(),
    };
    let left = lasting.as_ref().map(|lasting| lasting.left(&groups)).transpose()?.unwrap_or_default();
    let processes: LazyCell<Processes> = LazyCell::new(Processes::now);
    let mut opened = Vec::new();
    let mut program = "none";
    for settings in groups.iter().cloned().chain(left) {
        let name = settings.name.clone();
        let (actor, sender, kind) = match open::open(settings, &shared, &processes) {
            Ok(group) => group,
            Err(error) => {
                for (actor, _) in opened {
                    Actor::abandon(actor).await;
                }
                return Err(error);
            }
        };
        tracing::info!("{name} serves {} with the program {kind}", actor.addresses());
        program = kind;
        opened.push((actor, sender));
    }
    memory::give_back();
    // Those of a daemon before are as they were configured then.
    let in_force: Vec<GroupSettings> = opened.iter().map(|(actor, _)| (*actor.settings).clone()).collect();
    let has_changed = in_force != groups;
    let access = AccessInForce::from(access);
    // From the first instant on: a SIGHUP that nobody waits for ends the process.
    let (reloader, hangup) = match setup.purpose {
        Purpose::Foreground => (None, None),
        Purpose::Service { config, loaded, .. } => {
            let loaded = Config { daemon: loaded, groups: in_force, files: Vec::new() };
            let reloader = Reloader::new(config, loaded, shared.clone(), access.clone());
            (Some(reloader), Some(signal(SignalKind::hangup())?))
        }
    };
    let (stopped, mut is_stopped) = watch::channel(false);
    let daemon = Daemon::new(&shared, program, reloader, stopped);
    // Only a daemon that is being stopped gives them back.
    let _ = daemon.run(opened);
    if let Some(hangup) = hangup {
        tokio::spawn(reload_on_signal(daemon.clone(), hangup, has_changed));
    }
    if let Some(lasting) = &lasting {
        tokio::spawn(lasting.clone().look_after());
    }
    tokio::spawn(stop_on_signal(daemon.clone(), lasting.is_some())?);
    tokio::spawn(systemd::report(daemon.clone()));
    let _scrapes = metrics.map(|listener| scrape::start(listener, daemon.clone()));
    let shutdown = async move {
        // The sender lives as long as the daemon: an error cannot come first.
        let _ = is_stopped.wait_for(|stopped| *stopped).await;
        systemd::stopping();
    };
    serve(control, daemon.clone(), access, shutdown).await?;
    if daemon.leaves() {
        tracing::info!("ends, and leaves its groups to serve on");
        return Ok(ExitCode::SUCCESS);
    }
    daemon.ended().await;
    output.ended().await;
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

/// Reads the configuration again at each SIGHUP, and has the log say what came of it.
///
/// `at_once`: what was taken over from a daemon before is not as it is configured by now.
async fn reload_on_signal(daemon: Daemon, mut hangup: Signal, at_once: bool) {
    // Those that come while one is carried out are one.
    let mut is_due = at_once;
    while std::mem::take(&mut is_due) || hangup.recv().await.is_some() {
        systemd::reloading();
        let result = daemon.reload(None).await;
        systemd::reloaded();
        match result {
            Ok(Response::Reload(reload)) => reload::log(&reload),
            Ok(_) => {}
            Err(Fault { message, hint, .. }) => {
                let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
                tracing::error!("the configuration stays as it was\n{message}{hint}");
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
