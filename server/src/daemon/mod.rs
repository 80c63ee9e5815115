//! The daemon: its groups' tasks in one runtime, its clients in another, on a thread of its own.
//!
//! Neither waits for the other, nor for anybody: what can block is a job of the [threads](crate::threads) that are made at the start. What
//! clients read is what the groups last published.

mod adopt;
pub mod checks;
pub mod clock;
pub(crate) mod describe;
pub mod flows;
mod following;
pub mod foreground;
pub(crate) mod journal;
mod lasting;
mod memory;
mod readings;
mod registry;
mod reload;
mod requests;
pub(crate) mod rules;
mod scrape;
pub mod settings;
pub mod setup;
pub(crate) mod shared;
pub mod systemd;

use std::{cell::LazyCell, sync::Arc};

use anyhow::Context as _;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};

use crate::{
    config::Config,
    control::{
        Access, AccessInForce, ControlSocket,
        api::{Fault, Response},
        serve,
    },
    group::{Neighbours, Observer, Opened, QueueLooks, open},
    metrics::MetricsListener,
    sockets::{
        passed::Closer,
        processes::{self, Processes},
    },
    threads::{self, Threads},
    workers::{
        limits::{Limit, Resource},
        output::OutputSink,
        user::ResolvedUser,
    },
};

use self::{
    clock::Clock,
    foreground::{Ending, Foreground},
    journal::Journal,
    lasting::Lasting,
    registry::Daemon,
    reload::{Reloader, Reloading},
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
///
/// Returns why it has ended, where it has by itself: only one in the foreground does.
pub fn run(groups: Vec<GroupSettings>, setup: Setup) -> anyhow::Result<Option<Ending>> {
    let access = resolve_access(&setup.access)?;
    let limits = raise_descriptor_limit();
    memory::return_large();
    let [inside, outside] = [runtime()?, runtime()?];
    let starting = Starting { groups, setup, limits, access };
    let (groups_runtime, clients_runtime) = (inside.handle().clone(), outside.handle().clone());
    let opened = open_groups(starting, &groups_runtime, &clients_runtime, &inside)?;
    let (sender, ended) = oneshot::channel();
    threads::start("clients", move || {
        let result = outside.block_on(serve_clients(opened));
        // Before the process may end: its tasks hold sockets, whose files go with them.
        drop(outside);
        let _ = sender.send(result);
    })?;
    // The groups run here for as long as clients are served.
    inside.block_on(ended).context("the thread that serves clients has ended by a fault of this program")?
}

/// A runtime of one thread, which makes no others.
fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
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

/// What a daemon starts with.
struct Starting {
    groups: Vec<GroupSettings>,
    setup: Setup,
    limits: Vec<(Resource, Limit)>,
    access: Access,
}

/// What clients are served with.
struct Serving {
    control: ControlSocket,
    metrics: Option<MetricsListener>,
    daemon: Daemon,
    access: AccessInForce,
    output: OutputSink,
    lasting: Option<Lasting>,
    closer: Closer,
    /// Whether the configuration is read again, by SIGHUP; and whether at once, as what was taken over is not as it is configured.
    reloads: Option<bool>,
    is_stopped: watch::Receiver<bool>,
    foreground: Option<Foreground>,
}

/// Opens the groups and has their tasks begin: everything that can be refused is.
fn open_groups(
    starting: Starting,
    inside: &Handle,
    outside: &Handle,
    runtime: &Runtime,
) -> anyhow::Result<Serving> {
    let Starting { groups, setup, limits, access } = starting;
    let closer = Closer::start().context("cannot start the threads that close what others pass")?;
    let control = ControlSocket::bind(&setup.socket)?;
    let metrics = {
        let _outside = outside.enter();
        setup.metrics.as_ref().map(|address| MetricsListener::bind(address, &closer)).transpose()?
    };
    let threads = Threads::start()?;
    let output = OutputSink::to_stderr(setup.log_format);
    let lasting = Lasting::new(&setup, &threads)?;
    let looks = QueueLooks::open().inspect_err(estimated).ok();
    list_processes_by(looks.as_ref());
    let foreground = match &setup.purpose {
        Purpose::Foreground { leeway } => Some(Foreground::new(leeway.clone())),
        Purpose::Service { .. } => None,
    };
    let shared = Shared {
        foreground: foreground.clone(),
        clock: Clock::new(),
        journal: Journal::new(),
        output: output.clone(),
        socket: setup.socket,
        limits,
        observer: Observer::start(looks.clone())?,
        looks,
        threads,
        outside: outside.clone(),
        neighbours: Neighbours::default(),
        lasting: lasting.clone(),
        closer: closer.clone(),
    };
    let left = lasting.as_ref().map(|lasting| lasting.left(&groups)).transpose()?.unwrap_or_default();
    let processes: LazyCell<Processes> = LazyCell::new(Processes::now);
    let mut opened: Vec<Opened> = Vec::new();
    for settings in groups.iter().cloned().chain(left) {
        let name = settings.name.clone();
        // The groups' sockets are theirs.
        let _inside = inside.enter();
        match open(settings, &shared, &processes) {
            Ok(group) => {
                tracing::info!("{name} serves {} with the program {}", group.task.addresses(), group.program);
                opened.push(group);
            }
            Err(error) => {
                let abandoned = async {
                    for group in opened {
                        group.task.abandon().await
                    }
                };
                runtime.block_on(abandoned);
                return Err(error);
            }
        }
    }
    memory::give_back();
    // Those of a daemon before are as they were configured then.
    // A server that a client has had adopted is in no configuration, and no reload ends that.
    let is_configured = |group: &GroupSettings| {
        group.adopt.is_none() || groups.iter().any(|configured| configured.name == group.name)
    };
    let in_force = opened.iter().map(|group| (**group.task.settings()).clone()).filter(is_configured);
    let in_force: Vec<GroupSettings> = in_force.collect();
    let has_changed = in_force != groups;
    let access = AccessInForce::from(access);
    let reloader = match setup.purpose {
        Purpose::Foreground { .. } => None,
        Purpose::Service { config, loaded, .. } => {
            let loaded = Config { daemon: loaded, groups: in_force, files: Vec::new() };
            Some(Reloader::new(config, loaded, shared.clone(), access.clone()))
        }
    };
    let (stopped, is_stopped) = watch::channel(false);
    let program = opened.last().map_or("none", |group| group.program);
    let reloads = reloader.is_some().then_some(has_changed);
    let daemon = Daemon::new(&shared, program, reloader, inside.clone(), stopped);
    // Only a daemon that is being stopped gives them back.
    let _ = daemon.run(opened);
    Ok(Serving { control, metrics, daemon, access, output, lasting, closer, reloads, is_stopped, foreground })
}

/// Has processes be listed by a look where that can be.
fn list_processes_by(looks: Option<&Arc<QueueLooks>>) {
    let Some(looks) = looks.cloned() else { return };
    match looks.looks().without_processes() {
        Some(reason) => tracing::debug!("processes are listed by /proc: {}", describe::describe(reason)),
        None => processes::list_by(Box::new(move || {
            looks.looks().processes().inspect_err(|error| tracing::debug!("/proc is read: {error}")).ok()
        })),
    }
}

/// Says that looks are estimates here.
fn estimated(error: &crate::dataplane::looks::LooksError) {
    tracing::warn!(
        "what drains is looked at by sock_diag, its handshakes by estimate: {}",
        describe::describe(error)
    );
}

/// Serves clients, signals and the service manager until the daemon is stopped.
async fn serve_clients(serving: Serving) -> anyhow::Result<Option<Ending>> {
    let Serving {
        control,
        metrics,
        daemon,
        access,
        output,
        lasting,
        closer,
        reloads,
        mut is_stopped,
        foreground,
    } = serving;
    // From the first instant on: a SIGHUP that nobody waits for ends the process.
    if let Some(has_changed) = reloads {
        tokio::spawn(reload_on_signal(daemon.clone(), signal(SignalKind::hangup())?, has_changed));
    }
    if let Some(lasting) = &lasting {
        tokio::spawn(lasting.clone().look_after());
    }
    tokio::spawn(stop_on_signal(daemon.clone(), lasting.is_some())?);
    if let Some(foreground) = foreground.clone() {
        let daemon = daemon.clone();
        tokio::spawn(async move {
            foreground.asked().await;
            stop_all(&daemon).await;
        });
    }
    tokio::spawn(systemd::report(daemon.clone()));
    let _scrapes = metrics.map(|listener| scrape::start(listener, daemon.clone()));
    let shutdown = async move {
        // The sender lives as long as the daemon: an error cannot come first.
        let _ = is_stopped.wait_for(|stopped| *stopped).await;
        systemd::stopping();
    };
    serve(control, daemon.clone(), access, &closer, shutdown).await?;
    if daemon.leaves() {
        tracing::info!("ends, and leaves its groups to serve on");
        return Ok(None);
    }
    daemon.ended().await;
    output.ended().await;
    if let Some(lasting) = lasting {
        lasting.end();
    }
    Ok(foreground.and_then(|foreground| foreground.why()))
}

/// Ends the daemon with its groups.
async fn stop_all(daemon: &Daemon) {
    let (answers, _) = mpsc::channel(1);
    if let Err(fault) = daemon.stop(None, answers).await {
        tracing::error!("{}", fault.message);
    }
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
        stop_all(&daemon).await;
    })
}

/// Reads the configuration again at each SIGHUP, and has the log say what came of it.
///
/// `at_once`: what was taken over from a daemon before is not as it is configured by now.
async fn reload_on_signal(daemon: Daemon, mut hangup: Signal, at_once: bool) {
    // Those that come while one is begun are one.
    let mut is_due = at_once;
    while std::mem::take(&mut is_due) || hangup.recv().await.is_some() {
        systemd::reloading();
        let begun = daemon.begin_reload(None).await;
        systemd::reloaded();
        // Its drains may take long: the next need not wait for them.
        tokio::spawn(log_reload(begun));
    }
}

async fn log_reload(begun: Result<Reloading, Fault>) {
    let ended = match begun {
        Ok(reloading) => reloading.ended().await,
        Err(fault) => Err(fault),
    };
    match ended {
        Ok(Response::Reload(reload)) => reload::log(&reload),
        Ok(_) => {}
        Err(Fault { message, hint, .. }) => {
            let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            tracing::error!("the configuration stays as it was\n{message}{hint}");
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
