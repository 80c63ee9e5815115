//! Lets programs share the group's addresses although they know nothing of SO_REUSEPORT: the bind hook, and the cgroup that it is
//! attached to. For workers that is one of their own; for servers that steer did not start, the topmost one.

use std::{
    collections::HashSet,
    os::fd::{AsFd, BorrowedFd},
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
        bind_hook::{self, Bind, BindEvents, BindHook, BindHookError, Scope},
        pins::{self, PinsError},
    },
    engine::event::Millis,
    names::GroupName,
    sockets::{address::ListenAddress, netns::Cookie, procfs},
    threads::Pool,
    workers::cgroup::{
        CgroupError, TopCgroup, WorkersCgroup,
        proof::{ProofError, prove},
    },
};

use super::message::{Inbox, Message};

/// How long after a bind its listener is looked for often: a program binds, then listens.
const LISTENS_WITHIN: Millis = 1_000;

/// How long events are gathered after some were passed on. The ring buffer has room for some eighty; the rest are lost.
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
    #[error(transparent)]
    HookProof(#[from] bind_hook::ProofError),
}

impl SharingError {
    /// The way out, for a `hint:` line.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Cgroup(error) => error.hint(),
            Self::Hook(error) => error.hint(),
            Self::Pins(error) => error.hint(),
            Self::Proof(_) => "see `steer check`",
            Self::HookProof(error) => error.hint(),
        }
    }
}

/// What sharing among workers is begun with.
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

/// What sharing among servers that steer did not start is begun with.
#[derive(Debug)]
pub(crate) struct WideOpening {
    pub(crate) addresses: Vec<ListenAddress>,
    /// Where the servers are.
    pub(crate) netns: Cookie,
    /// The directory of the group's pins, where the hook is to outlive the daemon.
    pub(crate) pins: Option<PathBuf>,
}

/// What the hook is attached to.
#[derive(Debug, Clone)]
enum Place {
    Workers(Arc<WorkersCgroup>),
    Top(Arc<TopCgroup>),
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Workers(cgroup) => cgroup.as_fd(),
            Self::Top(cgroup) => cgroup.as_fd(),
        }
    }
}

/// A cgroup with its hook. Dropping it leaves a workers' cgroup, and a hook that was pinned.
#[derive(Debug)]
pub(crate) struct Sharing {
    place: Place,
    scope: Scope,
    hook: BindHook,
    pins: Option<PathBuf>,
    reader: Reader,
    /// Until when a listener is looked for often.
    expects_until: Millis,
    /// Whether the hook is being attached again.
    is_attaching: bool,
}

impl Sharing {
    /// Makes the workers' cgroup and attaches the hook. It blocks: for the verifier, for files and for a fork.
    pub(crate) fn open(opening: Opening, outside: &Handle, inbox: &Inbox) -> Result<Self, SharingError> {
        let Opening { group, addresses, owner, pins, is_taken_over } = opening;
        let tag = match &pins {
            // The same for each daemon that has the group.
            Some(pins) => pins::identity(pins)?,
            None => std::process::id().to_string(),
        };
        let cgroup = Arc::new(WorkersCgroup::make(&group, &tag)?);
        let pins = pins.map(|pins| pins.join("bind").join(cgroup.id.to_string()));
        let place = Place::Workers(cgroup.clone());
        let scope = Scope::workers(addresses);
        let attached = attach(&scope, &place, pins.as_deref());
        let proved = attached.and_then(|mut attached| {
            if let Some(&address) = scope.addresses().first().filter(|_| !is_taken_over) {
                prove(&cgroup, address, owner)?;
                // Of its own bind nothing comes.
                attached.1.by_ref().for_each(drop);
            }
            Ok(attached)
        });
        let (hook, events) = proved.inspect_err(|_| drop(cgroup.remove()))?;
        Ok(Self::begin(place, scope, (hook, events), pins, (outside, inbox)))
    }

    /// Attaches the hook above all programs, in place of an earlier daemon's. It blocks for the verifier. No bind is tried: see
    /// [`prove`](Self::prove).
    ///
    /// It comes before the group's holding listener: with that alone, a server that knows nothing of SO_REUSEPORT could not be started.
    pub(crate) fn open_wide(
        opening: WideOpening,
        outside: &Handle,
        inbox: &Inbox,
    ) -> Result<Self, SharingError> {
        let WideOpening { addresses, netns, pins } = opening;
        let place = Place::Top(Arc::new(TopCgroup::open()?));
        let scope = Scope::namespace(addresses, netns);
        let pins = pins.map(|pins| pins.join("bind").join("wide"));
        let attached = attach(&scope, &place, pins.as_deref())?;
        Ok(Self::begin(place, scope, attached, pins, (outside, inbox)))
    }

    fn begin(
        place: Place,
        scope: Scope,
        (hook, events): (BindHook, BindEvents),
        pins: Option<PathBuf>,
        (outside, inbox): (&Handle, &Inbox),
    ) -> Self {
        let reader = Reader::begin(outside, events, inbox.clone());
        Self { place, scope, hook, pins, reader, expects_until: 0, is_attaching: false }
    }

    /// Where workers are started; nothing where the hook is above all programs.
    pub(crate) fn cgroup(&self) -> Option<Arc<WorkersCgroup>> {
        match &self.place {
            Place::Workers(cgroup) => Some(cgroup.clone()),
            Place::Top(_) => None,
        }
    }

    /// Proves a hook above all programs by a bind to each address, of a socket of this owner. The calling thread has to be in the group's
    /// network namespace, and what serves the addresses has to have SO_REUSEPORT by now. It takes microseconds.
    pub(crate) fn prove(&self, owner: Option<u32>) -> Result<(), SharingError> {
        Ok(self.scope.prove(owner)?)
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
        let (scope, place, pins) = (self.scope.clone(), self.place.clone(), self.pins.clone());
        let failed = |why| Message::HookAttached(Err(why));
        let job = move || {
            let attached = attach(&scope, &place, pins.as_deref());
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

    /// Removes the workers' cgroup, where nobody is in it any more; a hook above all programs is detached, and its pins are removed.
    pub(crate) fn remove(self) {
        match &self.place {
            Place::Workers(cgroup) => {
                if let Err(error) = cgroup.remove() {
                    tracing::debug!("{} stays: {error}", cgroup.path().display());
                }
            }
            Place::Top(_) => {
                // Not left to the last descriptor: another process may have one.
                if let Err(error) = self.hook.detach() {
                    tracing::warn!("the bind hook stays until the daemon ends: {error}");
                }
                if let Err(error) = self.pins.as_deref().map_or(Ok(()), pins::remove) {
                    tracing::warn!("pins of the bind hook stay: {}", describe(&error));
                }
            }
        }
    }
}

fn attach(scope: &Scope, place: &Place, pins: Option<&Path>) -> Result<(BindHook, BindEvents), SharingError> {
    if let Some(pins) = pins {
        pins::make(pins)?;
    }
    Ok(BindHook::attach(scope, place.as_fd(), pins)?)
}

/// The task that passes on what the hook tells, in the runtime where clients are served. It ends with this value.
#[derive(Debug)]
struct Reader(JoinHandle<()>);

impl Reader {
    fn begin(outside: &Handle, events: BindEvents, inbox: Inbox) -> Self {
        let own = std::process::id();
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
                    // The daemon's own binds, of a holding listener or a proof, are nobody's arrival.
                    for bind in told.into_iter().filter(|bind| bind.pid != own) {
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
