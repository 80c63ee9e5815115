//! A member of a UDP group that lookups meet before any other.

use std::os::fd::OwnedFd;

use crate::{
    daemon::describe::describe,
    sockets::{
        address::ListenAddress,
        inherited::Inherited,
        listener::make_listener_like,
        options::{self, SocketError},
    },
};

use super::{error::EndpointError, member::Member};

/// A socket that no table names, and that lookups meet before any other of its group.
///
/// The kernel looks for a datagram's socket in a list, and has the program choose among the group of the first that fits. A socket that
/// is closed leaves its group before it leaves the list (`udp_lib_unhash`, also in 6.18): a lookup on another CPU that meets it first, in
/// between, takes it for one without a group, and gives it the datagram, whoever's it is. So the first that fits is never to be one that
/// is closed. New sockets come to the end of the list for IPv6 and to its front for IPv4 (`udp_lib_get_port`): there the oldest
/// member is met first, here the newest. `tests/tests/datagrams_closing.rs` shows all of it. Of IPv6, a server that was there before steer has
/// older ones: the first of those that it closes may take a datagram with it.
#[derive(Debug)]
pub(super) struct Anchor {
    address: ListenAddress,
    owner: Option<u32>,
    /// What the sockets of a server have that somebody else starts: one that differs in IPV6_V6ONLY is in another group.
    like: Option<Inherited>,
    /// Nothing where it could not be made.
    socket: Option<Member>,
    /// The one before it, for as long as there is no other: a lookup that met it as the newest may still be on its way.
    before: Option<Member>,
    /// Whether the keeper has been given it, so that it outlives the daemon.
    is_kept: bool,
}

impl Anchor {
    /// None yet, of the group at the address whose sockets this user owns.
    pub(super) fn new(address: ListenAddress, owner: Option<u32>, like: Option<Inherited>) -> Self {
        Self { address, owner, like, socket: None, before: None, is_kept: false }
    }

    /// Whether it is not in the group yet.
    pub(super) fn is_missing(&self) -> bool {
        self.socket.is_none()
    }

    /// The group's first member.
    pub(super) fn set(&mut self, first: OwnedFd) -> Result<(), SocketError> {
        self.socket = Some(Member::new(first, 0, None)?);
        Ok(())
    }

    /// Goes on with the one that was kept. Without one, another member may be met first until it has ended.
    pub(super) fn adopt(&mut self, kept: Option<OwnedFd>) {
        self.socket = kept.and_then(|kept| Member::new(kept, 0, None).ok());
        self.is_kept = self.socket.is_some();
        if !self.is_kept {
            self.renew();
        }
    }

    /// Has itself be met first again, now that the group has another member.
    pub(super) fn member_came(&mut self) {
        if self.address.address.is_ipv4() {
            self.renew();
        }
    }

    /// Makes another, which is met first where the newest is.
    pub(super) fn renew(&mut self) {
        let made = make_listener_like(self.address, self.owner, 0, self.like.as_ref());
        let made = made.map_err(EndpointError::from);
        match made.and_then(|socket| Ok(Member::new(socket, 0, None)?)) {
            Ok(socket) => {
                self.before = self.socket.replace(socket);
                self.is_kept = false;
            }
            Err(error) => tracing::warn!("datagrams may be lost when a worker ends: {}", describe(&error)),
        }
    }

    /// The socket that the keeper is to have so that it outlives the daemon, where it has not got it yet.
    pub(super) fn for_keeper(&mut self) -> Option<OwnedFd> {
        let descriptor = self.socket.as_ref()?.descriptor.as_ref().filter(|_| !self.is_kept)?;
        let duplicate = descriptor.try_clone().ok()?;
        self.is_kept = true;
        Some(duplicate)
    }

    /// Has nothing come to it, whatever chooses among the group's members. Lookups may meet another first from here on.
    pub(super) fn retire(&self) {
        for member in self.members() {
            let retired = member.descriptor.as_ref().map(options::retire);
            if let Some(Err(error)) = retired {
                tracing::warn!("a datagram may be lost: {}", describe(&error));
            }
        }
    }

    /// Leaves the group: it is nobody's to manage any more.
    pub(super) fn release(&mut self) {
        for member in self.before.take().into_iter().chain(self.socket.take()) {
            let left = member.descriptor.as_ref().map(options::leave_group);
            if let Some(Err(error)) = left {
                tracing::warn!("a datagram may be lost: {}", describe(&error));
            }
        }
    }

    /// What there is of it in the group.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.socket.iter().chain(&self.before)
    }
}
