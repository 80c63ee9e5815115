//! Opens a group: everything that can be wrong with it is found here, before anything is started.

use std::sync::Arc;

use server_common::limits::SLOTS_DEFAULT;
use thiserror::Error;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    engine::group::Group,
    sockets::{address::ListenAddress, diag::Diag, holder},
    workers::{notify::NotifySocket, spawn::require_program, user::ResolvedUser},
};

use super::{
    actor::{Actor, Message},
    cells::CellKeeper,
    endpoint::Endpoint,
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

/// Opens a group. What it returns runs with [`Actor::run`]; the sender reaches it.
pub(super) fn open(
    settings: GroupSettings,
    shared: &Shared,
) -> anyhow::Result<(Actor, mpsc::UnboundedSender<Message>, &'static str)> {
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
    let mut endpoints = Vec::new();
    for &address in &settings.listen {
        refuse_shared(address)?;
        endpoints.push(Endpoint::open(address, owner, SLOTS_DEFAULT)?);
    }
    let program = endpoints.first().map_or("none", |endpoint| endpoint.kernel.kind().as_str());
    let mut notify_path = shared.socket.as_os_str().to_owned();
    notify_path.push(format!(".{}.notify", settings.name));
    let notify = Arc::new(NotifySocket::bind(notify_path)?);
    let seed = settings.seed.map_or_else(random_seed, Ok)?;
    let (sender, messages) = mpsc::unbounded_channel();
    let engine = Group::new(rules(&settings, seed));
    let listening = listen_for_readiness(notify.clone(), sender.clone());
    let cells = CellKeeper::new(endpoints.iter().map(|endpoint| endpoint.kernel.cells()).collect());
    let actor = Actor {
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
    };
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
