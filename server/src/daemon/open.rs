//! Opens a group: everything that can be wrong with it is found here, before anything is started.

use std::{cell::LazyCell, os::fd::AsFd as _, sync::Arc};

use anyhow::Context as _;

use server_common::limits::SLOTS_DEFAULT;
use thiserror::Error;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    engine::group::Group,
    sockets::{address::ListenAddress, diag::Diag, holder, procfs::Processes},
    workers::{notify::NotifySocket, spawn::require_program, user::ResolvedUser},
};

use super::{
    actor::{Actor, Message},
    cells::CellKeeper,
    endpoint::Endpoint,
    persistence::Persistence,
    rules::rules,
    settings::{GroupSettings, Mode},
    shared::Shared,
    totals::Totals,
};

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
    let settings = saved.as_ref().map_or(configured, |saved| saved.settings.clone());
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
    let kept = saved.as_ref().and_then(|_| persistence.as_ref()?.kept_notify());
    let mut notify = match kept {
        Some(socket) => NotifySocket::take_over(notify_path, socket)?,
        None => NotifySocket::bind(notify_path)?,
    };
    if let Some(persistence) = &persistence {
        notify = notify.lasting();
        persistence.keep_notify(notify.as_fd())?;
    }
    let pins = |address| persistence.as_ref().map(|persistence| persistence.pins(address));
    let mut endpoints = Vec::new();
    match &saved {
        Some(saved) => {
            for (index, address) in saved.addresses.iter().enumerate() {
                let pins = pins(index).unwrap_or_default();
                let taken_over = Endpoint::take_over(address, owner, pins);
                endpoints.push(taken_over.with_context(|| format!("cannot take over {}", address.address))?);
            }
        }
        None => {
            for (index, &address) in settings.listen.iter().enumerate() {
                refuse_shared(address)?;
                endpoints.push(Endpoint::open(address, owner, SLOTS_DEFAULT, pins(index))?);
            }
        }
    }
    let program = endpoints.first().map_or("none", |endpoint| endpoint.kernel.kind().as_str());
    let engine = match &saved {
        Some(saved) => saved.engine.clone(),
        None => Group::new(rules(&settings, settings.seed.map_or_else(random_seed, Ok)?)),
    };
    let notify = Arc::new(notify);
    let (sender, messages) = mpsc::unbounded_channel();
    let listening = listen_for_readiness(notify.clone(), sender.clone());
    let cells = CellKeeper::new(endpoints.iter().map(|endpoint| endpoint.kernel.cells()).collect());
    let mut actor = Actor {
        settings: Arc::new(settings),
        engine,
        clock: shared.clock,
        journal: shared.journal.clone(),
        endpoints,
        diag: Diag::open()?,
        notify,
        listening,
        output: shared.output.clone(),
        limits: shared.limits.clone(),
        user,
        generations: Default::default(),
        totals: Totals::default(),
        strangers: 0,
        cells,
        layout: None,
        sender: sender.clone(),
        messages,
        waiters: Default::default(),
        last_operation: 0,
        persistence,
        is_taken_over: saved.is_some(),
        is_released: false,
    };
    if let Some(saved) = &saved {
        actor.restore(saved, processes);
    }
    Ok((actor, sender, program))
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
