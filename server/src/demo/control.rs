//! The demo's requests to the daemon: the only place here that knows the control protocol.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::error::DemoError;
use crate::{
    control::{
        api::{Receipt, Request, Response, WorkerStatus},
        client::Client,
    },
    names::GroupName,
};

/// How often it is tried whether the daemon listens already.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// How long one request may take: the deadlines of a group's drains are shorter.
const REQUEST_PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the daemon, about one group.
pub(super) struct Control {
    client: Client,
    group: GroupName,
}

impl Control {
    /// Connects as soon as the daemon listens.
    pub(super) async fn connect(
        socket: &Path,
        group: GroupName,
        patience: Duration,
    ) -> Result<Self, DemoError> {
        let deadline = Instant::now() + patience;
        loop {
            match Client::connect(socket).await {
                Ok(client) => return Ok(Self { client, group }),
                Err(error) if Instant::now() >= deadline => {
                    return Err(DemoError::TooLate {
                        name: "the daemon".to_owned(),
                        wanted: "listening",
                        waited: patience,
                        last: with_sources(&error),
                    });
                }
                Err(_) => sleep(TRY_EVERY).await,
            }
        }
    }

    /// The workers, by index.
    pub(super) async fn workers(&mut self) -> Result<Vec<WorkerStatus>, DemoError> {
        let request = Request::Status { group: Some(self.group.clone()) };
        match self.call("tell its status", request).await?.0 {
            Response::Status(status) => {
                Ok(status.groups.into_iter().flat_map(|group| group.workers).collect())
            }
            other => Err(unexpected("tell its status", &other)),
        }
    }

    /// Hands one worker over to a new process.
    pub(super) async fn restart(&mut self, worker: u32) -> Result<(), DemoError> {
        let request = Request::Restart {
            group: self.group.clone(),
            worker: Some(worker),
            timeout_ms: None,
            canary: None,
        };
        self.call_for_receipts("restart a worker", request, 1).await
    }

    /// Changes the number of workers.
    pub(super) async fn scale(&mut self, workers: u32) -> Result<(), DemoError> {
        let request = Request::Scale { group: self.group.clone(), workers, timeout_ms: None };
        self.call_for_receipts("scale", request, 0).await
    }

    /// Ends the daemon.
    pub(super) async fn stop(&mut self) -> Result<(), DemoError> {
        self.call_for_receipts("stop", Request::Stop { timeout_ms: None }, 0).await
    }

    /// A request that drains. How each drain ended is the daemon's affair: what it lost, the clients tell.
    async fn call_for_receipts(
        &mut self,
        what: &'static str,
        request: Request,
        least: usize,
    ) -> Result<(), DemoError> {
        let (last, mut receipts) = self.call(what, request).await?;
        match last {
            Response::Done(_) => {}
            Response::Receipt(receipt) => receipts.push(receipt),
            other => return Err(unexpected(what, &other)),
        }
        if receipts.len() < least {
            let message = format!("{} receipts where there should be {least}", receipts.len());
            return Err(DemoError::Control { request: what.to_owned(), message });
        }
        Ok(())
    }

    async fn call(
        &mut self,
        what: &'static str,
        request: Request,
    ) -> Result<(Response, Vec<Receipt>), DemoError> {
        let mut receipts = Vec::new();
        let call = self.client.call(request, |answer| {
            if let Response::Receipt(receipt) = answer {
                receipts.push(receipt);
            }
        });
        let failed = |message| DemoError::Control { request: what.to_owned(), message };
        let last = timeout(REQUEST_PATIENCE, call)
            .await
            .map_err(|_| failed(format!("no answer after {} s", REQUEST_PATIENCE.as_secs())))?
            .map_err(|error| failed(with_sources(&error)))?;
        Ok((last, receipts))
    }
}

/// An error and what is behind it, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn unexpected(what: &'static str, answer: &Response) -> DemoError {
    DemoError::Control { request: what.to_owned(), message: format!("it answered {answer:?}") }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use serde_json::json;
    use tokio::sync::{Notify, mpsc};

    use super::*;
    use crate::{
        control::{
            Access, Controller,
            api::{Fault, FaultKind},
            server::serve,
            socket::ControlSocket,
        },
        sockets::passed::Closer,
    };

    /// A daemon of two workers, of which one refuses to be restarted.
    #[derive(Clone)]
    struct Daemon;

    impl Controller for Daemon {
        async fn call(&self, request: Request, answers: mpsc::Sender<Response>) -> Result<Response, Fault> {
            let count = json!({ "began": 0, "ended": 0 });
            let receipt = json!({
                "schema": 1, "worker": "demo/0", "generation": 1, "successor": 2, "outcome": "drained",
                "handshakes": count, "unaccepted": count, "flows": count, "connections": count,
                "migrated": 0, "migrated_to": {}, "exit": null, "steps": [], "message": null,
            });
            match request {
                Request::Restart { worker: Some(0), .. } => {
                    let receipt = serde_json::from_value(receipt).unwrap();
                    answers.send(Response::Receipt(receipt)).await.unwrap();
                }
                Request::Restart { .. } => {
                    let message = "demo/1 did not get ready".to_owned();
                    return Err(Fault { kind: FaultKind::TimedOut, message, hint: None });
                }
                _ => {}
            }
            Ok(serde_json::from_value(json!({ "answers": 1, "milliseconds": 1 })).unwrap())
        }
    }

    /// A directory that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("steer-test-control-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[tokio::test]
    async fn the_daemon_is_waited_for_and_its_faults_are_told() {
        let directory = Directory::new();
        let (path, group) = (directory.0.join("steer.sock"), "demo".parse().unwrap());
        let end = Arc::new(Notify::new());
        let ended = Arc::clone(&end);
        let (late, wanted) = (path.clone(), Duration::from_secs(10));
        let server = async move {
            // Late: the first attempts to connect find nothing.
            sleep(3 * TRY_EVERY).await;
            let socket = ControlSocket::bind(&late).unwrap();
            let (access, closer) = (Access::new(Vec::new()).unwrap(), Closer::start().unwrap());
            serve(socket, Daemon, access, &closer, ended.notified()).await.unwrap();
        };
        let client = async {
            let mut control = Control::connect(&path, group, wanted).await.unwrap();
            control.restart(0).await.unwrap();
            control.scale(2).await.unwrap();
            let error = control.restart(1).await.unwrap_err().to_string();
            assert_eq!(error, "the daemon did not restart a worker: demo/1 did not get ready");
            let error = control.workers().await.unwrap_err().to_string();
            assert!(error.starts_with("the daemon did not tell its status: it answered Done"), "{error}");
            control.stop().await.unwrap();
            end.notify_one();
        };
        tokio::join!(server, client);
    }

    #[tokio::test]
    async fn a_daemon_that_never_listens_is_given_up() {
        let group = "demo".parse().unwrap();
        let error = Control::connect(Path::new("/nonexistent/steer.sock"), group, Duration::ZERO)
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("not listening"), "{error}");
    }
}
