//! Exact looks at the queues of all the daemon's listeners, shared by its groups.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::dataplane::looks::{Look, Looks, LooksError, Queue, Watched};

/// One look, and when it began.
#[derive(Debug)]
pub(crate) struct TimedLook {
    at: Instant,
    look: Look,
}

impl TimedLook {
    /// What the look shows of a listener: nothing where it is watched only since.
    pub(crate) fn of(&self, watched: &Watched) -> Option<Queue> {
        // A socket that the look did not meet is closed.
        self.look.covers(watched).then(|| self.look.of(watched).unwrap_or_default())
    }
}

/// The daemon's looks, and the last of them.
#[derive(Debug)]
pub(crate) struct QueueLooks {
    looks: Looks,
    last: Mutex<Option<Arc<TimedLook>>>,
}

impl QueueLooks {
    /// Fails where the kernel does not tell exactly: then sock_diag does, by estimate.
    pub(crate) fn open() -> Result<Arc<Self>, LooksError> {
        Ok(Arc::new(Self { looks: Looks::open()?, last: Mutex::default() }))
    }

    pub(crate) fn looks(&self) -> &Looks {
        &self.looks
    }

    /// A look of this moment: microseconds, and a millisecond with thousands of listeners.
    pub(crate) fn now(&self) -> Result<Arc<TimedLook>, LooksError> {
        let at = Instant::now();
        let look = Arc::new(TimedLook { at, look: self.looks.read()? });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(look.clone());
        Ok(look)
    }

    /// A look that is not older than this: one that groups share that look at the same instants.
    pub(crate) fn recent(&self, age_max: Duration) -> Option<Arc<TimedLook>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match last {
            Some(look) if look.at.elapsed() < age_max => Some(look),
            _ => self.now().inspect_err(|error| tracing::debug!("cannot look at queues: {error}")).ok(),
        }
    }
}
