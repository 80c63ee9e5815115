//! Who listens at which address, at looks that all groups share.
//!
//! To find the listeners of one address the kernel walks those of all, so a walk for each group would cost the square of their number.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::sockets::{
    address::{ListenAddress, Protocol},
    diag::{Diag, DiagError, Listeners},
};

/// How old a look may be that is shared. Groups look at the same instants, so theirs are microseconds apart.
const AGE_MAX: Duration = Duration::from_millis(500);

/// All listeners of the daemon's network namespace; clones share their looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbours {
    looks: Arc<Mutex<Vec<Look>>>,
}

/// One look at the listeners of one family and protocol.
#[derive(Debug)]
struct Look {
    of: (bool, Protocol),
    at: Instant,
    found: Arc<Listeners>,
}

impl Neighbours {
    /// The listeners of the address's family and protocol. What has happened within [`AGE_MAX`] may not be seen.
    pub(super) fn like(&self, address: ListenAddress) -> Result<Arc<Listeners>, DiagError> {
        let of = (address.address.is_ipv4(), address.protocol);
        // What is in it is whole, whoever panicked.
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|look| look.at.elapsed() < AGE_MAX);
        if let Some(look) = looks.iter().find(|look| look.of == of) {
            return Ok(look.found.clone());
        }
        let at = Instant::now();
        let found = Arc::new(Diag::open()?.all_listeners(address)?);
        looks.push(Look { of, at, found: found.clone() });
        Ok(found)
    }
}
