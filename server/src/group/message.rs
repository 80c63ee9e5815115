//! What a group's task is told and asked.

use std::{
    collections::HashSet,
    io,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};

use crate::{
    control::api::{Fault, Response},
    dataplane::bind_hook::{Bind, BindEvents, BindHook},
    engine::{
        effect::Effect,
        event::{Command, Event, GenerationId, Millis, Slot},
        plan::{Change, Plan},
    },
    sockets::address::ListenAddress,
    threads::{Pool, message_of},
    units::UnitState,
    workers::{
        discover::{Discovered, Refusal},
        notify::Notification,
        process::Exit,
        spawn::{Forked, SpawnError},
    },
};

use super::{adopt, reload::Proposal};

/// Messages that wait for one group's task; who sends one more waits for room, and none of the daemon's loops sends.
const ROOM: usize = 1024;

/// One message.
#[derive(Debug)]
pub(crate) enum Message {
    /// Somebody asks for a change.
    Command(Ask),
    /// Somebody asks for another policy or weight.
    Tune(Tune),
    /// Another configuration is to be taken over.
    Propose(Box<Proposal>),
    /// Somebody wants the group to be given back to the kernel.
    Release { done: oneshot::Sender<Result<Response, Fault>>, is_last: bool },
    /// What has come of an effect.
    Event(Event),
    /// Something of the group's parts has changed that the next daemon has to know.
    Changed,
    /// An effect that could not be executed before, once more.
    Again(Effect),
    /// A record is written, or could not be.
    Recorded { number: u64, result: Result<(), String> },
    /// A process was made for a generation, or could not be.
    Forked { generation: GenerationId, result: Result<Forked, SpawnError> },
    /// A generation's program runs, or this was in the way.
    Executed { generation: GenerationId, failure: Option<SpawnError> },
    /// A generation's process has ended: how, and as which user.
    Exited { generation: GenerationId, exit: Result<Exit, String> },
    /// What a generation has left behind was killed: these processes.
    LeftBehind { generation: GenerationId, killed: Vec<u32> },
    /// A table is published on every listen address, or could not be on one.
    Published { epoch: u64, result: Result<(), String> },
    /// The keeper has a holding listener, or could not take it.
    HoldKept { slot: Slot, result: Result<(), String> },
    /// Descriptors of a slot's listeners were taken from its processes: those that were found.
    Taken { slot: Slot, purpose: Purpose, listeners: Vec<OwnedFd> },
    /// Listeners that a worker has bound itself were looked for at the addresses, in their order; and what it does
    /// instead, if that was looked for, too.
    Discovered { generation: GenerationId, found: Vec<Found>, astray: Option<Astray> },
    /// A worker was seen to do something else than to listen where it is to.
    Astray { generation: GenerationId, astray: Astray },
    /// Listeners of a generation that duplicates keep open and none of its processes holds any more, by inode.
    Unattended { generation: GenerationId, inodes: HashSet<u64> },
    /// The listeners of a server that somebody else starts were looked at.
    Adopted(Result<adopt::Look, String>),
    /// The unit of an adopted server is in another state.
    UnitChanged(UnitState),
    /// Who listens beside the group was looked for.
    Neighbours(Result<Vec<Stranger>, String>),
    /// A process has written to the notification socket. It stays there until that is acknowledged.
    Notified { said: Notification, acknowledgement: oneshot::Sender<()> },
    /// A process in the workers' cgroup binds a port of the group: the process, its parents and their sessions.
    Bound { bind: Bind, belongs_to: Vec<u32> },
    /// The bind hook was attached again, or could not be.
    HookAttached(Result<Box<(BindHook, BindEvents)>, String>),
    /// A probe has connected, or could not.
    Probed { generation: GenerationId, connected: io::Result<TcpStream> },
}

/// What a slot's descriptors are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To shut the listeners of a generation down.
    Shut(GenerationId),
    /// To wake who received what was migrated.
    Wake,
    /// To put them back into a slot that was cleared.
    Refill,
    /// To detach the program from their group.
    Release,
}

/// What was found of a worker at one address.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) address: usize,
    pub(crate) result: Result<Discovered, Refusal>,
}

/// What a worker does that does not listen where it is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Astray {
    /// It binds another address, or listens there.
    Elsewhere(ListenAddress),
    /// It is not in its group's cgroup any more.
    OutOfCgroup,
}

/// A socket at the group's addresses that is in none of its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stranger {
    pub(crate) cookie: u64,
    /// The generation that holds it, where one does.
    pub(crate) holder: Option<GenerationId>,
}

/// A change that somebody asks for, and who is told what comes of it.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) command: Command,
    pub(crate) answers: mpsc::Sender<Response>,
    pub(crate) done: oneshot::Sender<Result<Response, Fault>>,
}

/// A change of policy or weight, planned and begun in one step.
#[derive(Debug)]
pub(crate) struct Tune {
    pub(crate) change: Change,
    /// Over how long a weight changes.
    pub(crate) over: Option<Millis>,
    /// What the change does to the table: told before it is begun.
    pub(crate) planned: oneshot::Sender<Plan>,
    pub(crate) done: oneshot::Sender<Result<Response, Fault>>,
}

/// Where a group's task is reached; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    sender: mpsc::Sender<Message>,
}

impl Inbox {
    /// An inbox, and what the task reads it by.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Message>) {
        let (sender, messages) = mpsc::channel(ROOM);
        (Self { sender }, messages)
    }

    /// Tells the task something, from another task; false where it has ended.
    pub(crate) async fn send(&self, message: Message) -> bool {
        self.sender.send(message).await.is_ok()
    }

    /// Tells the task something, from a thread that may wait. Nothing comes of it where the task has ended: then the daemon ends.
    pub(crate) fn tell(&self, message: Message) {
        let _ = self.sender.blocking_send(message);
    }

    /// Waits until the task has ended.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Hands a job in whose result the task is told. Where there is no room for it, or it panics, the task is told `otherwise`, of the
    /// reason; that message is returned where it has to be told at once, as the caller may not wait.
    pub(crate) fn hand_in<J, O>(&self, pool: &Pool, otherwise: O, job: J) -> Option<Message>
    where
        J: FnOnce() -> Message + Send + 'static,
        O: Fn(String) -> Message + Clone + Send + 'static,
    {
        let (inbox, failed) = (self.clone(), otherwise.clone());
        let work = move || {
            let result = catch_unwind(AssertUnwindSafe(job));
            inbox.tell(result.unwrap_or_else(|panic| failed(message_of(&*panic).to_owned())));
        };
        pool.submit(work).err().map(|error| otherwise(error.to_string()))
    }
}
