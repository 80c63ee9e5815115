//! Reads the notification socket. What a worker says there stays in the socket's queue until a record says it, too: a daemon that is killed
//! before that has taken nothing from the next one.

use std::{collections::VecDeque, future::pending, sync::Arc};

use tokio::{
    runtime::Handle,
    sync::oneshot::{self, error::RecvError},
    task::JoinHandle,
};

use crate::workers::notify::{NotifyError, NotifyReader, NotifySocket};

use super::{
    crash::{self, Moment},
    message::{Inbox, Message},
};

/// How many notifications may wait for their record: those that come together share one.
const AHEAD: usize = 64;

/// A notification that is in the queue still: what tells that it may go, where that has to be told.
type Waiting = Option<oneshot::Receiver<()>>;

/// Begins to read, in a task of the runtime where clients are served.
pub(super) fn begin(outside: &Handle, notify: Arc<NotifySocket>, inbox: Inbox) -> JoinHandle<()> {
    outside.spawn(async move {
        if let Err(error) = pass_on(NotifyReader::new(notify), &inbox).await {
            tracing::error!("workers cannot say that they are ready any more: {error}");
        }
    })
}

/// Passes notifications on until the group's task has ended. What that has not acknowledged is left for the next daemon.
async fn pass_on(mut reader: NotifyReader, inbox: &Inbox) -> Result<(), NotifyError> {
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            acknowledged = may_go(waiting.front_mut()) => {
                if acknowledged.is_err() {
                    return Ok(());
                }
                crash::at(Moment::Consume);
                reader.take().await?;
                waiting.pop_front();
            }
            said = reader.peek(), if waiting.len() < AHEAD => {
                let Some(said) = said? else {
                    waiting.push_back(None);
                    continue;
                };
                let (acknowledgement, acknowledged) = oneshot::channel();
                if !inbox.send(Message::Notified { said, acknowledgement }).await {
                    return Ok(());
                }
                waiting.push_back(Some(acknowledged));
            }
        }
    }
}

/// When the first of those that wait may go; never, where none waits.
async fn may_go(first: Option<&mut Waiting>) -> Result<(), RecvError> {
    match first {
        None => pending().await,
        Some(None) => Ok(()),
        Some(Some(acknowledged)) => acknowledged.await,
    }
}
