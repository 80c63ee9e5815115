//! Opens a group: everything that can be wrong with it is found here, before anything is started.

use std::{cell::LazyCell, fs::File, io, os::fd::AsFd as _, sync::Arc};

use anyhow::Context as _;

use thiserror::Error;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    dataplane::kernel_group::ProgramKind,
    engine::group::{Group, Rules},
    sockets::{address::ListenAddress, diag::Diag, holder, procfs::Processes},
    workers::{notify::NotifySocket, spawn::require_program, user::ResolvedUser},
};

use super::{
    actor::{Actor, Message},
    cells::CellKeeper,
    endpoint::Endpoint,
    persistence::Persistence,
    rules::rules,
    settings::{GroupSettings, Mode, WhenEmpty},
    shared::Shared,
    state::Saved,
    totals::Totals,
};

/// Descriptors that a daemon needs for more than its groups' listeners and processes: clients, events, what it asks the kernel with.
const ROOM_BESIDE: usize = 24;

/// Somebody serves the address already, and would share it with us.
#[derive(Debug, Error)]
#[error(
    "cannot take {address}: {holder} serves it already, and a group that is joined unasked is two owners' ruin"
)]
pub struct AddressServed {
    address: ListenAddress,
    holder: holder::Holder,
}

impl AddressServed {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> String {
        "stop it first, or choose another address".to_owned()
    }
}

/// Opens a group, or takes it over from a daemon that is gone, as it was configured then. What it returns runs with
/// [`Actor::run`]; the sender reaches it. `processes` are looked at where a group is taken over, once for all groups.
pub(super) fn open(
    configured: GroupSettings,
    shared: &Shared,
    processes: &LazyCell<Processes>,
) -> anyhow::Result<(Actor, mpsc::UnboundedSender<Message>, &'static str)> {
    let lasting = shared.lasting.as_ref();
    let persistence = lasting.map(|lasting| lasting.group(&configured.name)).transpose()?;
    let saved = persistence.as_ref().map(Persistence::saved).transpose()?.flatten();
    let (mut actor, sender, program) =
        match assemble(configured, shared, persistence.as_ref(), saved.as_ref()) {
            Ok(assembled) => assembled,
            Err(error) => {
                if let (Some(persistence), None) = (&persistence, &saved) {
                    persistence.undo();
                }
                return Err(error);
            }
        };
    actor.persistence = persistence;
    if let Some(saved) = &saved {
        require_room(saved)?;
        actor.restore(saved, processes);
    }
    Ok((actor, sender, program))
}

/// Fails where there is no room for the descriptors of a group that is taken over: what cannot be opened would be taken for gone, and
/// replaced.
fn require_room(saved: &Saved) -> anyhow::Result<()> {
    let listeners: usize = saved.addresses.iter().map(|address| address.listeners.len()).sum();
    // Of a process, its pidfd and what waits for it; of a listener, what is taken and what is kept of it.
    let count = 2 * (saved.processes.len() + listeners) + ROOM_BESIDE;
    let null = File::open("/dev/null")?;
    let taken: io::Result<Vec<File>> = (0..count).map(|_| null.try_clone()).collect();
    taken.map(drop).with_context(|| {
        format!("cannot take over the group {}: no room for {count} descriptors", saved.settings.name)
    })
}

/// Puts together all of a group but what makes it outlive its daemon, which is still to be told what was found.
fn assemble(
    configured: GroupSettings,
    shared: &Shared,
    persistence: Option<&Persistence>,
    saved: Option<&Saved>,
) -> anyhow::Result<(Actor, mpsc::UnboundedSender<Message>, &'static str)> {
    let settings = saved.map_or(configured, |saved| saved.settings.clone());
    let user = settings.user.as_deref().map(ResolvedUser::resolve).transpose()?;
    // The kernel lets only sockets of one owner into a group: where workers bind themselves, that is their user.
    let owner = match settings.mode {
        Mode::Own => user.as_ref().map(|user| user.uid),
        Mode::Inherit => None,
    };
    if let Some(command) = &settings.command {
        require_program(
            settings.name.as_str(),
            command,
            settings.directory.as_deref(),
            &settings.environment,
        )?;
    }
    let mut notify_path = shared.socket.as_os_str().to_owned();
    notify_path.push(format!(".{}.notify", settings.name));
    let kept = saved.and_then(|_| persistence?.kept_notify());
    let mut notify = match kept {
        Some(socket) => NotifySocket::take_over(notify_path, socket, &shared.closer)?,
        None => NotifySocket::bind(notify_path, &shared.closer)?,
    };
    if let Some(persistence) = persistence {
        notify = notify.lasting();
        persistence.keep_notify(notify.as_fd())?;
    }
    let pins = |address| persistence.map(|persistence| persistence.pins(address));
    let mut endpoints = Vec::new();
    match saved {
        Some(saved) => {
            for (index, address) in saved.addresses.iter().enumerate() {
                let pins = pins(index).unwrap_or_default();
                let taken_over = Endpoint::take_over(address, owner, settings.flows, pins);
                endpoints.push(taken_over.with_context(|| format!("cannot take over {}", address.address))?);
            }
        }
        None => {
            for (index, &address) in settings.listen.iter().enumerate() {
                refuse_shared(address)?;
                endpoints.push(Endpoint::open(
                    address,
                    owner,
                    settings.sockets,
                    settings.flows,
                    pins(index),
                )?);
            }
        }
    }
    let migrates = endpoints.iter().all(|endpoint| endpoint.kernel.kind() == ProgramKind::SelectOrMigrate);
    let settings = as_kernel_allows(settings, migrates);
    let program = endpoints.first().map_or("none", |endpoint| endpoint.kernel.kind().as_str());
    let engine = match saved {
        Some(saved) => saved.engine.clone(),
        None => {
            let seed = settings.seed.map_or_else(random_seed, Ok)?;
            Group::new(Rules { migrates, ..rules(&settings, seed) })
        }
    };
    let notify = Arc::new(notify);
    let (sender, messages) = mpsc::unbounded_channel();
    let listening = listen_for_readiness(notify.clone(), sender.clone());
    let cells = CellKeeper::new(endpoints.iter().map(|endpoint| endpoint.kernel.cells()).collect());
    let actor = Actor {
        settings: Arc::new(settings),
        engine,
        clock: shared.clock,
        journal: shared.journal.clone(),
        endpoints,
        diag: Diag::open()?,
        neighbours: shared.neighbours.clone(),
        notify,
        listening,
        output: shared.output.clone(),
        limits: shared.limits.clone(),
        user,
        generations: Default::default(),
        totals: Totals::default(),
        strangers: 0,
        cells,
        sender: sender.clone(),
        messages,
        waiters: Default::default(),
        last_operation: 0,
        persistence: None,
        is_taken_over: saved.is_some(),
        mended_odd: false,
        lively_until: 0,
        is_released: false,
    };
    Ok((actor, sender, program))
}

/// Without migration nothing that the holding listener took could leave it: the group refuses instead, and that is said.
fn as_kernel_allows(settings: GroupSettings, migrates: bool) -> GroupSettings {
    if migrates {
        return settings;
    }
    let name = &settings.name;
    tracing::warn!(
        "{name}: this kernel cannot migrate connections: what a worker has not accepted is reset at a drain's deadline or \
         when it crashes (hint: Linux 5.14 or later)"
    );
    if settings.when_empty == WhenEmpty::Refuse {
        return settings;
    }
    tracing::warn!("{name}: it cannot hold connections either: they are refused while no worker works");
    GroupSettings { when_empty: WhenEmpty::Refuse, ..settings }
}

/// Refuses an address that another's SO_REUSEPORT sockets serve: to bind beside them would take half of their
/// connections, and to attach would steer the other half.
fn refuse_shared(address: ListenAddress) -> anyhow::Result<()> {
    if address.address.port() == 0 {
        return Ok(());
    }
    let listeners = Diag::open()?.listeners(address)?;
    let holder = listeners.first().map(|listener| holder::of(listener, true));
    match holder {
        // One that does not share it: the bind fails, and says why.
        Some(holder) if holder.shares != Some(false) => Err(AddressServed { address, holder }.into()),
        _ => Ok(()),
    }
}

fn random_seed() -> anyhow::Result<[u64; 2]> {
    let mut seed = [0_u64; 2];
    for word in &mut seed {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(seed)
}

fn listen_for_readiness(notify: Arc<NotifySocket>, sender: mpsc::UnboundedSender<Message>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            match notify.receive().await {
                Ok(notification) => {
                    if sender.send(Message::Notified(notification)).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::error!("workers cannot say that they are ready any more: {error}");
                    break;
                }
            }
        }
    })
}
