//! Sockets of datagrams of a server that somebody else starts, at the adoption: nothing is to come to a socket that nobody reads.
//!
//! A socket of steer's own in the kernel's group gets its part of the datagrams until the program is attached. Connections that came to a
//! holding listener would migrate; datagrams are lost. So the program is attached through a socket of the server's, and the anchor joins
//! afterwards. Sockets that were bound without SO_REUSEPORT are in no group, though, and the kernel makes one only as another is bound: for
//! the microseconds of that bind there is one of steer's.

use std::os::fd::{AsFd as _, OwnedFd};

use crate::{
    dataplane::error::DataplaneError,
    engine::event::Slot,
    sockets::{
        address::{ListenAddress, Protocol},
        diag::{Diag, DiagError},
        listener::make_listener_like,
        options,
    },
};

use super::{
    endpoint::{Endpoint, Opening},
    error::EndpointError,
};

/// Whether the address is one of datagrams, and a server that is being adopted has sockets there.
pub(super) fn serves_datagrams(address: ListenAddress, opening: &Opening) -> Result<bool, DiagError> {
    if address.protocol != Protocol::Udp || opening.inherited.is_none() {
        return Ok(false);
    }
    Ok(!Diag::open()?.listeners(address)?.is_empty())
}

impl Endpoint {
    /// Puts a socket into its place; one of datagrams that is in no group is in one then.
    pub(super) fn put_in(&self, slot: Slot, place: u8, socket: &OwnedFd) -> Result<(), EndpointError> {
        let put = || self.kernel.put(slot, u32::from(place), socket.as_fd());
        match put() {
            // `reuseport_array_update_check`: it is in no group.
            Err(error) if self.is_udp() && self.is_alone(&error) => {
                self.make_group()?;
                Ok(put()?)
            }
            result => Ok(result?),
        }
    }

    fn is_alone(&self, error: &DataplaneError) -> bool {
        self.opening.inherited.is_some() && error.errno() == Some(libc::EINVAL)
    }

    /// Has the kernel make a group of the sockets at the address that may share it: a bind does (`udp_reuseport_add_sock`).
    fn make_group(&self) -> Result<(), EndpointError> {
        let passing =
            make_listener_like(self.address, self.opening.owner, 0, self.opening.inherited.as_ref())?;
        // Nothing comes to it from here on, so that what has come can be counted.
        options::retire(&passing)?;
        let lost = options::discard_datagrams(&passing)?;
        if lost > 0 {
            tracing::warn!(
                "{}: {lost} datagrams came to a socket of steer's while the kernel made the group, and are lost",
                self.address
            );
        }
        Ok(())
    }

    /// Has the anchor join now that the program chooses: nothing comes to it.
    pub(super) fn complete_anchor(&mut self) {
        if let Some(anchor) = self.anchor.as_mut().filter(|anchor| anchor.is_missing()) {
            anchor.renew();
        }
    }

    /// Attaches the program through a socket of the server's, taken from its process for that; whether one could be had.
    pub(super) fn attach_through_theirs(&self) -> Result<bool, DataplaneError> {
        let mut members = self.members.values().flatten();
        let Some(socket) = members.find_map(|member| member.at_hand()) else { return Ok(false) };
        self.kernel.attach(socket.as_fd())?;
        Ok(true)
    }
}
