//! What all groups of a daemon share.

use std::path::PathBuf;

use crate::{
    sockets::passed::Closer,
    workers::{
        limits::{Limit, Resource},
        output::OutputSink,
    },
};

use super::{clock::Clock, journal::Journal, lasting::Lasting, neighbours::Neighbours};

/// What a group is opened with, beside its settings; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) journal: Journal,
    pub(super) output: OutputSink,
    /// The control socket's path: what is the groups' own at run time is beside it.
    pub(super) socket: PathBuf,
    /// The limits that the daemon was started with and has raised for itself: they are its workers'.
    pub(super) limits: Vec<(Resource, Limit)>,
    /// Who listens beside the groups.
    pub(super) neighbours: Neighbours,
    /// What makes the groups outlive the daemon, where they are to.
    pub(super) lasting: Option<Lasting>,
    /// Closes what is passed over the daemon's sockets.
    pub(super) closer: Closer,
}
