//! Reads the notification socket. What a worker says there stays in the socket's queue until a record says it, too: a daemon that is killed
//! before that has taken nothing from the next one.

use std::sync::Arc;

use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle};

use crate::workers::notify::{NotifyError, NotifySocket};

use super::{
    crash::{self, Moment},
    message::{Inbox, Message},
};

/// Begins to read, in a task of the runtime where clients are served.
pub(super) fn begin(outside: &Handle, notify: Arc<NotifySocket>, inbox: Inbox) -> JoinHandle<()> {
    outside.spawn(async move {
        if let Err(error) = pass_on(&notify, &inbox).await {
            tracing::error!("workers cannot say that they are ready any more: {error}");
        }
    })
}

/// Passes on one notification after another, until the group's task has ended. What that has not acknowledged is left for the next
/// daemon.
async fn pass_on(notify: &NotifySocket, inbox: &Inbox) -> Result<(), NotifyError> {
    loop {
        let said = notify.peek().await?;
        let (acknowledgement, acknowledged) = oneshot::channel();
        if !inbox.send(Message::Notified { said, acknowledgement }).await || acknowledged.await.is_err() {
            return Ok(());
        }
        crash::at(Moment::Consume);
        notify.consume().await?;
    }
}
