//! Events, as a client asks for them: those that are remembered, and those that come.

use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc,
};

use crate::{
    control::api::{self, Done, Fault, FaultKind, Response},
    names::GroupName,
};

use super::{clock::millis, registry::Daemon};

impl Daemon {
    /// Sends each new event until the client goes or the daemon stops; how many were sent.
    async fn follow(
        &self,
        mut following: broadcast::Receiver<api::Event>,
        wanted: impl Fn(&api::Event) -> bool,
        answers: &mpsc::Sender<Response>,
    ) -> Result<u64, Fault> {
        let mut stopped = self.inner.stopped.subscribe();
        let mut sent = 0;
        loop {
            let event = tokio::select! {
                event = following.recv() => event,
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(sent),
            };
            match event {
                Ok(event) if wanted(&event) => {
                    sent += 1;
                    if answers.send(Response::Event(event)).await.is_err() {
                        return Ok(sent);
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    return Err(Fault {
                        kind: FaultKind::Failed,
                        message: format!("{missed} events were missed: this client reads too slowly"),
                        hint: Some("ask again with the last sequence number that came".to_owned()),
                    });
                }
                Err(RecvError::Closed) => return Ok(sent),
            }
        }
    }

    /// Sends what is remembered since an event, and with `follow` each new one; answers how many were sent.
    pub(super) async fn events(
        &self,
        group: Option<GroupName>,
        since: u64,
        follow: bool,
        answers: mpsc::Sender<Response>,
    ) -> Result<Response, Fault> {
        if let Some(name) = &group {
            self.require(name)?;
        }
        let began = std::time::Instant::now();
        let wanted = |event: &api::Event| group.is_none() || event.group == group;
        let (remembered, following) = self.journal().read(since);
        let mut sent = 0;
        for event in remembered.into_iter().filter(wanted) {
            sent += 1;
            if answers.send(Response::Event(event)).await.is_err() {
                break;
            }
        }
        if follow {
            sent += self.follow(following, wanted, &answers).await?;
        }
        Ok(Response::Done(Done { answers: sent, milliseconds: millis(began.elapsed()) }))
    }
}
