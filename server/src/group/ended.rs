//! How a group's task has ended: in order, or by a panic, which is a fault of this program and of one group.

use tokio::{sync::watch, task::JoinError};

use crate::{
    control::api::{Fault, FaultKind},
    names::GroupName,
};

use super::task::GroupTask;

/// How it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The group was stopped, removed or given back.
    InOrder,
    /// It has panicked, with this message.
    Panicked(String),
}

impl Ended {
    /// What is answered to whoever asks for something of the group.
    pub(crate) fn fault(&self, group: &GroupName) -> Fault {
        match self {
            Self::InOrder => Fault {
                kind: FaultKind::Refused,
                message: format!("the group {group} has ended"),
                hint: None,
            },
            Self::Panicked(why) => Fault {
                kind: FaultKind::Failed,
                message: format!(
                    "nobody looks after the group {group} any more, a fault of this daemon: {why}"
                ),
                hint: Some(
                    "its workers serve on: kill the daemon and start it again, and it goes on with them"
                        .to_owned(),
                ),
            },
        }
    }
}

/// Runs a group to its end, and tells how that was. A panic ends the one group, and the log names it; the others go on.
pub(crate) async fn attend(task: GroupTask, ended: watch::Sender<Option<Ended>>) {
    let name = task.settings().name.clone();
    let how = match tokio::spawn(task.run()).await {
        Ok(()) => Ended::InOrder,
        Err(error) => {
            // Told before it is logged: who waits for it is not to depend on the log.
            let how = Ended::Panicked(message(error));
            ended.send_replace(Some(how.clone()));
            let Fault { message, hint, .. } = how.fault(&name);
            tracing::error!("{message} (hint: {})", hint.unwrap_or_default());
            return;
        }
    };
    ended.send_replace(Some(how));
}

/// What a panic said. A task that nobody aborts ends early in no other way.
fn message(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "its task was aborted".to_owned() };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(task: impl Future<Output = ()> + Send + 'static) -> String {
        message(tokio::spawn(task).await.unwrap_err())
    }

    #[tokio::test]
    async fn a_panic_says_why() {
        assert_eq!(said(async { panic!("a constant") }).await, "a constant");
        let number = std::hint::black_box(7);
        assert_eq!(said(async move { panic!("number {number}") }).await, "number 7");
        assert_eq!(said(async { std::panic::panic_any(7) }).await, "a panic without a message");
        let pending = tokio::spawn(std::future::pending::<()>());
        pending.abort();
        assert_eq!(message(pending.await.unwrap_err()), "its task was aborted");
    }
}
