//! What all groups of a daemon share.

use std::{path::PathBuf, sync::Arc};

use crate::{
    group::{Neighbours, Observer, QueueLooks},
    sockets::passed::Closer,
    threads::Threads,
    workers::{
        limits::{Limit, Resource},
        output::OutputSink,
    },
};

use super::{clock::Clock, foreground::Foreground, journal::Journal, lasting::Lasting};

/// What a group is opened with, beside its settings; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    pub(crate) output: OutputSink,
    /// The control socket's path: what is the groups' own at run time is beside it.
    pub(crate) socket: PathBuf,
    /// The limits that the daemon was started with and has raised for itself: they are its workers'.
    pub(crate) limits: Vec<(Resource, Limit)>,
    /// What can block is done there.
    pub(crate) threads: Threads,
    /// The runtime where clients are served: a thread of its own beside the groups'.
    pub(crate) outside: tokio::runtime::Handle,
    /// How queues are looked at, where the kernel tells exactly.
    pub(crate) looks: Option<Arc<QueueLooks>>,
    /// Who looks at what drains.
    pub(crate) observer: Observer,
    /// Who listens beside the groups.
    pub(crate) neighbours: Neighbours,
    /// What a group in the foreground asks the daemon with.
    pub(crate) foreground: Option<Foreground>,
    /// What makes the groups outlive the daemon, where they are to.
    pub(crate) lasting: Option<Lasting>,
    /// Closes what is passed over the daemon's sockets.
    pub(crate) closer: Closer,
}
