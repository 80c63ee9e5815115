//! A group member that the daemon knows.

use std::{
    os::fd::{AsFd as _, OwnedFd, RawFd},
    sync::Arc,
};

use crate::{
    dataplane::looks::{Looks, Watched},
    sockets::{
        options::{SocketError, inode, socket_cookie},
        pidfd,
    },
    workers::process::Process,
};

/// One socket of the group. A descriptor of it is held only where the daemon is its owner, or where a look at it needs one: a duplicate of
/// a worker's listener would keep it open, and connections coming to it, after the worker's death.
#[derive(Debug)]
pub(super) struct Member {
    /// Tells the socket from all others of this boot.
    pub(super) cookie: u64,
    /// The socket as `/proc/PID/fd` names it.
    pub(super) inode: u64,
    pub(super) descriptor: Option<OwnedFd>,
    /// Its place in its slot.
    pub(super) place: u8,
    /// What exact looks know it by; nothing where they are not to be had.
    pub(super) watched: Option<Arc<Watched>>,
    /// Where a process was seen to have it: a process may move it, so it is a hint.
    held_at: Option<(Process, RawFd)>,
}

/// A descriptor for a moment: the daemon's own, or one that was taken from the process that has it.
pub(super) enum AtHand<'a> {
    Own(&'a OwnedFd),
    Taken(OwnedFd),
}

impl Member {
    pub(super) fn new(descriptor: OwnedFd, place: u8, looks: Option<&Looks>) -> Result<Self, SocketError> {
        let (cookie, inode) = (socket_cookie(&descriptor)?, inode(&descriptor)?);
        // One that cannot be watched is seen by other means.
        let watched = looks.and_then(|looks| looks.watch(descriptor.as_fd()).ok()).map(Arc::new);
        Ok(Self { cookie, inode, descriptor: Some(descriptor), place, watched, held_at: None })
    }

    /// Closes the daemon's descriptor where looks show the socket without it. The worker has a descriptor of its own.
    pub(super) fn let_go(&mut self) {
        if self.watched.is_some() {
            self.descriptor = None;
        }
    }

    /// Notes that a process has it under a number.
    pub(super) fn note_holder(&mut self, process: &Process, descriptor: RawFd) {
        self.held_at = Some((process.clone(), descriptor));
    }

    /// A descriptor of it, where one can be had without a search.
    pub(super) fn at_hand(&self) -> Option<AtHand<'_>> {
        if let Some(own) = &self.descriptor {
            return Some(AtHand::Own(own));
        }
        let (process, descriptor) = self.held_at.as_ref()?;
        let taken = pidfd::take_fd(process.pidfd(), *descriptor).ok()?;
        socket_cookie(&taken).is_ok_and(|cookie| cookie == self.cookie).then_some(AtHand::Taken(taken))
    }
}

impl std::ops::Deref for AtHand<'_> {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        match self {
            Self::Own(own) => own,
            Self::Taken(taken) => taken,
        }
    }
}
