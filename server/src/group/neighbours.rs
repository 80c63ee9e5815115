//! Who listens at which address, at looks that all groups share.
//!
//! To find the listeners of one address the kernel walks those of all, so a walk for each group would cost the square of their number. The
//! walk is a thread's; groups read what it found last.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    daemon::describe::describe,
    sockets::{
        address::{ListenAddress, Protocol},
        diag::{Diag, DiagError, Listeners},
    },
    threads::Pool,
};

/// How old a look may get before another is taken: groups look once a second, at the same instants.
const AGE_MAX: Duration = Duration::from_millis(800);

/// A family and protocol that have listeners of their own.
type Kind = (bool, Protocol);

/// All listeners of the daemon's network namespace; clones share their looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Neighbours {
    looks: Arc<Mutex<Looks>>,
}

#[derive(Debug, Default)]
struct Looks {
    /// Those that somebody has asked for, each with what was found last.
    found: Vec<(Kind, Option<Arc<Listeners>>)>,
    at: Option<Instant>,
    is_under_way: bool,
}

impl Neighbours {
    /// The listeners of the address's family and protocol, as they were seen last; nothing where they were not yet.
    pub(crate) fn seen(&self, address: ListenAddress) -> Option<Arc<Listeners>> {
        let kind = kind(address);
        let mut looks = self.lock();
        match looks.found.iter().find(|(of, _)| *of == kind) {
            Some((_, found)) => found.clone(),
            None => {
                looks.found.push((kind, None));
                // Soon.
                looks.at = None;
                None
            }
        }
    }

    /// The same, seen now: it walks in the calling thread where nobody has lately.
    pub(crate) fn look(&self, address: ListenAddress) -> Result<Arc<Listeners>, DiagError> {
        if let Some(found) = self.seen(address).filter(|_| !self.is_due()) {
            return Ok(found);
        }
        self.walk();
        match self.seen(address) {
            Some(found) => Ok(found),
            None => Ok(Arc::new(Diag::open()?.all_listeners(address)?)),
        }
    }

    /// Has a look be taken on a thread, where the last one is too old.
    pub(crate) fn refresh(&self, pool: &Pool) {
        if !self.is_due() || std::mem::replace(&mut self.lock().is_under_way, true) {
            return;
        }
        let own = self.clone();
        if pool.submit(move || own.walk()).is_err() {
            self.lock().is_under_way = false;
        }
    }

    fn is_due(&self) -> bool {
        self.lock().at.is_none_or(|at| at.elapsed() >= AGE_MAX)
    }

    fn walk(&self) {
        let kinds: Vec<Kind> = self.lock().found.iter().map(|(kind, _)| *kind).collect();
        let (at, mut found) = (Instant::now(), Vec::new());
        for kind in kinds {
            match Diag::open().and_then(|mut diag| diag.all_listeners(any_of(kind))) {
                Ok(listeners) => found.push((kind, Some(Arc::new(listeners)))),
                Err(error) => {
                    tracing::warn!("cannot see who listens: {}", describe(&error));
                    found.push((kind, None));
                }
            }
        }
        let mut looks = self.lock();
        looks.is_under_way = false;
        // Who has asked for another kind meanwhile has it be looked for soon.
        let is_all = looks.found.iter().all(|(kind, _)| found.iter().any(|(of, _)| of == kind));
        looks.at = is_all.then_some(at);
        let others = looks.found.drain(..).filter(|(kind, _)| found.iter().all(|(of, _)| of != kind));
        let others: Vec<_> = others.collect();
        looks.found = found.into_iter().chain(others).collect();
    }

    fn lock(&self) -> MutexGuard<'_, Looks> {
        // What is in it is whole, whoever panicked.
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kind(address: ListenAddress) -> Kind {
    (address.address.is_ipv4(), address.protocol)
}

fn any_of((is_ipv4, protocol): Kind) -> ListenAddress {
    let address = match is_ipv4 {
        true => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        false => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    ListenAddress { address, protocol }
}
