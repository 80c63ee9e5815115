//! Lets workers' programs share the group's addresses although they know nothing of SO_REUSEPORT: the workers' cgroup, and the bind
//! hook that is attached to it.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    task::JoinHandle,
};

use crate::{
    daemon::describe::describe,
    dataplane::{
        bind_hook::{Bind, BindEvents, BindHook, BindHookError},
        pins::{self, PinsError},
    },
    engine::event::Millis,
    names::GroupName,
    sockets::{address::ListenAddress, procfs},
    threads::Pool,
    workers::cgroup::{
        CgroupError, WorkersCgroup,
        proof::{ProofError, prove},
    },
};

use super::message::{Inbox, Message};

/// How long after a bind its listener is looked for often: a program binds, then listens.
const LISTENS_WITHIN: Millis = 1_000;

/// How long events are gathered after some were passed on. The ring buffer has room for some hundred; the rest are lost.
const PAUSE: Duration = Duration::from_millis(5);

/// How many events are taken at once: more than the ring buffer has room for.
const AT_ONCE: usize = 256;

/// Why programs have to set SO_REUSEPORT themselves.
#[derive(Debug, Error)]
pub(crate) enum SharingError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Hook(#[from] BindHookError),
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error(transparent)]
    Proof(#[from] ProofError),
}

impl SharingError {
    /// The way out, for a `hint:` line.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Cgroup(error) => error.hint(),
            Self::Hook(error) => error.hint(),
            Self::Pins(error) => error.hint(),
            Self::Proof(_) => "see `steer check`",
        }
    }
}

/// What sharing is begun with.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) group: GroupName,
    pub(crate) addresses: Vec<ListenAddress>,
    /// The user who owns the group's sockets, where that is not the daemon's.
    pub(crate) owner: Option<u32>,
    /// The directory of the group's pins, where the hook is to outlive the daemon.
    pub(crate) pins: Option<PathBuf>,
    /// Whether somebody may serve the addresses already: then no bind is tried.
    pub(crate) is_taken_over: bool,
}

/// The workers' cgroup with its hook.
#[derive(Debug)]
pub(crate) struct Sharing {
    cgroup: Arc<WorkersCgroup>,
    hook: BindHook,
    addresses: Vec<ListenAddress>,
    pins: Option<PathBuf>,
    reader: Reader,
    /// Until when a listener is looked for often.
    expects_until: Millis,
    /// Whether the hook is being attached again.
    is_attaching: bool,
}

impl Sharing {
    /// Makes the cgroup and attaches the hook. It blocks: for the verifier, for files and for a fork.
    pub(crate) fn open(opening: Opening, outside: &Handle, inbox: &Inbox) -> Result<Self, SharingError> {
        let Opening { group, addresses, owner, pins, is_taken_over } = opening;
        let tag = match &pins {
            // The same for each daemon that has the group.
            Some(pins) => pins::identity(pins)?,
            None => std::process::id().to_string(),
        };
        let cgroup = Arc::new(WorkersCgroup::make(&group, &tag)?);
        let pins = pins.map(|pins| pins.join("bind").join(cgroup.id.to_string()));
        let attached = attach(&addresses, &cgroup, pins.as_deref());
        let proved = attached.and_then(|mut attached| {
            if let Some(&address) = addresses.first().filter(|_| !is_taken_over) {
                prove(&cgroup, address, owner)?;
                // Of its own bind nothing comes.
                attached.1.by_ref().for_each(drop);
            }
            Ok(attached)
        });
        let (hook, events) = proved.inspect_err(|_| drop(cgroup.remove()))?;
        Ok(Self {
            cgroup,
            hook,
            addresses,
            pins,
            reader: Reader::begin(outside, events, inbox.clone()),
            expects_until: 0,
            is_attaching: false,
        })
    }

    /// Where workers are started.
    pub(crate) fn cgroup(&self) -> Arc<WorkersCgroup> {
        self.cgroup.clone()
    }

    /// A process has bound an address of the group: it is about to listen.
    pub(crate) fn expect(&mut self, now: Millis) {
        self.expects_until = now + LISTENS_WITHIN;
    }

    /// Whether a listener is expected now.
    pub(crate) fn expects(&self, now: Millis) -> bool {
        now < self.expects_until
    }

    /// Attaches the hook again where somebody has detached it, on a thread. The task is told; what it is told at once is returned.
    pub(crate) fn look_after(&mut self, pool: &Pool, inbox: &Inbox) -> Option<Message> {
        if self.is_attaching || self.hook.is_attached() {
            return None;
        }
        self.is_attaching = true;
        let (addresses, cgroup, pins) = (self.addresses.clone(), self.cgroup.clone(), self.pins.clone());
        let failed = |why| Message::HookAttached(Err(why));
        let job = move || {
            let attached = attach(&addresses, &cgroup, pins.as_deref());
            Message::HookAttached(attached.map(Box::new).map_err(|error| describe(&error)))
        };
        inbox.hand_in(pool, failed, job)
    }

    /// The hook was attached again, or could not be.
    pub(crate) fn attached(
        &mut self,
        attached: Result<Box<(BindHook, BindEvents)>, String>,
        outside: &Handle,
        inbox: &Inbox,
    ) -> Result<(), String> {
        self.is_attaching = false;
        let (hook, events) = *attached?;
        self.reader = Reader::begin(outside, events, inbox.clone());
        self.hook = hook;
        Ok(())
    }

    /// Removes the cgroup, where nobody is in it any more.
    pub(crate) fn remove(self) {
        if let Err(error) = self.cgroup.remove() {
            tracing::debug!("{} stays: {error}", self.cgroup.path().display());
        }
    }
}

fn attach(
    addresses: &[ListenAddress],
    cgroup: &WorkersCgroup,
    pins: Option<&Path>,
) -> Result<(BindHook, BindEvents), SharingError> {
    use std::os::fd::AsFd as _;
    if let Some(pins) = pins {
        pins::make(pins)?;
    }
    Ok(BindHook::attach(addresses, cgroup.as_fd(), pins)?)
}

/// The task that passes on what the hook tells, in the runtime where clients are served. It ends with this value.
#[derive(Debug)]
struct Reader(JoinHandle<()>);

impl Reader {
    fn begin(outside: &Handle, events: BindEvents, inbox: Inbox) -> Self {
        Self(outside.spawn(async move {
            // SAFETY: the ring buffer's descriptor is the value's own, and stays open for as long as it lives.
            let registered = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) };
            let mut events = match registered {
                Ok(events) => events,
                Err(refused) => {
                    let error = std::io::Error::from(refused);
                    return tracing::warn!("listeners of workers are found late: {error}");
                }
            };
            while let Ok(mut ready) = events.readable_mut().await {
                // Before the look: an event that comes after it makes the descriptor readable again.
                ready.clear_ready();
                loop {
                    // A worker that binds over and over costs no more than one that has bound once.
                    let told: HashSet<Bind> = events.get_mut().take(AT_ONCE).collect();
                    if told.is_empty() {
                        break;
                    }
                    for bind in told {
                        let belongs_to = procfs::lineage(bind.pid);
                        if !inbox.send(Message::Bound { bind, belongs_to }).await {
                            return;
                        }
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}
