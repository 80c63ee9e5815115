//! One table on its way to every address.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    daemon::describe::describe,
    dataplane::error::DataplaneError,
    group::message::{Inbox, Message},
    threads::{Pool, message_of},
};

/// The addresses that a table is not published on yet, and what went wrong on one. Clones are one; the last answer tells the task.
#[derive(Debug, Clone)]
pub(super) struct Publication {
    epoch: u64,
    inbox: Inbox,
    rest: Arc<Mutex<(usize, Result<(), String>)>>,
}

impl Publication {
    pub(super) fn new(epoch: u64, addresses: usize, inbox: Inbox) -> Self {
        Self { epoch, inbox, rest: Arc::new(Mutex::new((addresses, Ok(())))) }
    }

    /// Has the table be published on one address, by a thread that may wait for the grace period. What the task has to be told at once
    /// is returned.
    pub(super) fn hand_in(
        &self,
        pool: &Pool,
        publish: impl FnOnce() -> Result<(), DataplaneError> + Send + 'static,
    ) -> Option<Message> {
        let own = self.clone();
        let job = move || {
            let published = match catch_unwind(AssertUnwindSafe(publish)) {
                Ok(published) => published.map_err(|error| describe(&error)),
                Err(panic) => Err(message_of(&*panic).to_owned()),
            };
            own.answered(published).into_iter().for_each(|message| own.inbox.tell(message));
        };
        pool.submit(job).err().and_then(|error| self.answered(Err(error.to_string())))
    }

    /// One address has answered: what to tell the task, where it was the last.
    fn answered(&self, result: Result<(), String>) -> Option<Message> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.0 -= 1;
        rest.1 = std::mem::replace(&mut rest.1, Ok(())).and(result);
        (rest.0 == 0).then(|| Message::Published { epoch: self.epoch, result: rest.1.clone() })
    }
}
