//! A group member of which the daemon has a descriptor.

use std::os::fd::OwnedFd;

use crate::sockets::options::{SocketError, socket_cookie};

/// The daemon's own descriptor of a member. It is closed when this is dropped.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) descriptor: OwnedFd,
    /// Tells the socket from all others of this boot.
    pub(super) cookie: u64,
}

impl Member {
    pub(super) fn new(descriptor: OwnedFd) -> Result<Self, SocketError> {
        let cookie = socket_cookie(&descriptor)?;
        Ok(Self { descriptor, cookie })
    }
}
