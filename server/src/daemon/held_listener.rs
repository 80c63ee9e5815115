//! A listener of which the daemon has a descriptor of its own.

use std::{mem, os::fd::OwnedFd};

use crate::sockets::options;

use super::describe::describe;

/// The daemon's own descriptor of a group member. It is closed when this is dropped.
#[derive(Debug)]
pub(super) struct HeldListener {
    pub(super) descriptor: OwnedFd,
    pub(super) cookie: u64,
    /// Whether it was taken out of its group.
    has_left: bool,
}

impl HeldListener {
    /// A member of its group.
    pub(super) fn new(descriptor: OwnedFd, cookie: u64) -> Self {
        Self { descriptor, cookie, has_left: false }
    }

    /// Before it is closed: a socket of UDP that is closed as it is can take a datagram of anybody's along.
    pub(super) fn leave(&mut self) {
        if !mem::replace(&mut self.has_left, true)
            && let Err(error) = options::leave_group(&self.descriptor)
        {
            tracing::warn!("a datagram may be lost: {}", describe(&error));
        }
    }
}
