//! Which binds the hook is for.

use super::proof::{self, ProofError};
use crate::sockets::{address::ListenAddress, netns::Cookie};

/// Which binds of those that the hook sees are to join the group.
///
/// A listen address is exact, as the kernel's groups are: one at `0.0.0.0:80` is joined by a bind to `0.0.0.0:80` and not by one to
/// `[::]:80`, which may be dual-stack, or to `127.0.0.1:80`.
#[derive(Debug, Clone)]
pub struct Scope {
    pub(super) addresses: Vec<ListenAddress>,
    pub(super) netns: Option<Cookie>,
}

impl Scope {
    /// For a cgroup with nothing but the group's workers: their binds in any network namespace. Those to a port of the group at another
    /// address are told too: the worker is a server that was given the wrong address.
    pub fn workers(addresses: impl Into<Vec<ListenAddress>>) -> Self {
        Self { addresses: addresses.into(), netns: None }
    }

    /// For a cgroup above all programs: binds in one network namespace. Nothing is told of those to other addresses.
    pub fn namespace(addresses: impl Into<Vec<ListenAddress>>, netns: Cookie) -> Self {
        Self { addresses: addresses.into(), netns: Some(netns) }
    }

    /// Whether a hook of this scope is in force for the calling thread, shown by a bind to each address by a socket of this owner.
    ///
    /// The thread has to be in the scope's network namespace, and in a cgroup below the hook. What serves the addresses has to have
    /// SO_REUSEPORT and the same owner, else that is an error. Takes some microseconds for each.
    pub fn prove(&self, owner: Option<u32>) -> Result<(), ProofError> {
        proof::prove(self, owner)
    }

    /// The group's addresses.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }
}
