//! The server and the client together, over a socket in a temporary directory, with a daemon that is played.

mod abuse;
mod calls;
mod description;
mod silence;

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Access, ControlSocket, Controller, Limits,
    api::{
        Change, Count, Done, Event, Fault, FaultKind, Flows, Info, Metrics, PolicyReport, Receipt, Request,
        Response, Status, Step, Table,
    },
    client::Client,
    serve_within,
};
use crate::{cli::render::fixtures, names::WorkerName, sockets::passed::Closer};

/// What a test waits for at most; nothing here takes a part of it.
const LONG: Duration = Duration::from_secs(20);

/// Plays the daemon: answers by what is asked for.
#[derive(Clone, Default)]
struct Played {
    /// Weights that are on their way, or were.
    begun: Arc<AtomicU64>,
    /// Changes that came to their end.
    changed: Arc<AtomicU64>,
    /// Requests that read and were dropped before their end.
    dropped: Arc<AtomicU64>,
    /// Lets a `Restart` go on after its first receipt.
    go_on: Arc<Notify>,
    /// Told each time that one of the counts above has moved.
    moved: Arc<Notify>,
}

struct CountOnDrop(Played);

impl Drop for CountOnDrop {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
        self.0.moved.notify_waiters();
    }
}

fn receipt(worker: &str) -> Receipt {
    let count = Count { began: 2, ended: 0 };
    Receipt {
        schema: 1,
        worker: worker.parse().unwrap(),
        generation: 1,
        successor: Some(2),
        outcome: "drained".into(),
        handshakes: count,
        handshakes_estimated: false,
        unaccepted: count,
        flows: Count::default(),
        by_id: Count::default(),
        datagrams: 0,
        connections: count,
        migrated: 1,
        migrated_to: [("web/1".to_owned(), 1)].into(),
        exit: Some("exit 0".into()),
        steps: vec![Step { name: "publish".into(), milliseconds: 9 }],
        message: None,
    }
}

fn event(sequence: u64, detail: &str) -> Event {
    Event {
        sequence,
        unix_ms: 1_700_000_000_000,
        kind: "working".into(),
        group: None,
        worker: None,
        generation: Some(1),
        detail: detail.into(),
    }
}

fn done(answers: u64) -> Response {
    Response::Done(Done { answers, milliseconds: 7 })
}

impl Controller for Played {
    async fn call(&self, request: Request, answers: mpsc::Sender<Response>) -> Result<Response, Fault> {
        match request {
            Request::Info {} => Ok(Response::Info(Info {
                version: "0".into(),
                pid: 1,
                uptime_ms: 2,
                program: "select".into(),
            })),
            Request::Status { group: None } => {
                Ok(Response::Status(Status { schema: 1, groups: vec![], unattended: vec![] }))
            }
            Request::Status { group: Some(group) } => {
                let fault = Fault::new(FaultKind::NoSuch, format!("there is no group {group}"));
                Err(fault.with_hint("there is: web"))
            }
            Request::Metrics {} => {
                Ok(Response::Metrics(Metrics { schema: 1, exposition: "# EOF\n".to_owned() }))
            }
            Request::Table { group, .. } => Ok(Response::Table(Table {
                schema: 1,
                group,
                epoch: 3,
                buckets: 1024,
                last_resort: "hold".into(),
                shares: vec![],
                held_buckets: 0,
                placed: vec![],
            })),
            Request::Events { since, follow: false, .. } => {
                for sequence in 1..=since {
                    let _ = answers.send(Response::Event(event(sequence, ""))).await;
                }
                Ok(done(since))
            }
            // Babbles for as long as somebody listens.
            Request::Events { follow: true, since, .. } => {
                let _count = CountOnDrop(self.clone());
                let detail = "x".repeat(usize::try_from(since).unwrap());
                for sequence in 1.. {
                    let sent = answers.send(Response::Event(event(sequence, &detail))).await;
                    if sent.is_err() {
                        break;
                    }
                }
                Ok(done(0))
            }
            Request::Restart { .. } => {
                let _ = answers.send(Response::Receipt(receipt("web/0"))).await;
                self.go_on.notified().await;
                let _ = answers.send(Response::Receipt(receipt("web/1"))).await;
                self.changed.fetch_add(1, Ordering::SeqCst);
                self.moved.notify_waiters();
                Ok(done(2))
            }
            Request::DrainAll { .. } => Ok(Response::Receipt(receipt("web/0"))),
            Request::Adopt { .. } => Ok(Response::Adopted(crate::cli::render::fixtures::adopted())),
            Request::Drain { worker, .. } => Ok(Response::Receipt(receipt(&worker.to_string()))),
            Request::Undrain { .. } | Request::Decide { .. } | Request::Release { .. } => Ok(done(0)),
            Request::Flows { group, .. } => Ok(Response::Flows(Flows { group, ..fixtures::flows() })),
            Request::Policy { group } => Ok(Response::Policy(PolicyReport { group, ..fixtures::policy() })),
            Request::SetPolicy { group, policy: policy_after, dry_run, .. } => {
                Ok(Response::Change(Change { group, policy_after, applied: !dry_run, ..fixtures::change() }))
            }
            // On its way until it may go on; without a time, at once.
            Request::SetWeight { worker, over_ms, dry_run, .. } => {
                if over_ms.is_some() {
                    let count = CountOnDrop(self.clone());
                    self.begun.fetch_add(1, Ordering::SeqCst);
                    self.moved.notify_waiters();
                    self.go_on.notified().await;
                    std::mem::forget(count);
                    self.changed.fetch_add(1, Ordering::SeqCst);
                    self.moved.notify_waiters();
                }
                let group = worker.group;
                Ok(Response::Change(Change { group, applied: !dry_run, ..fixtures::change() }))
            }
            // As many receipts as workers, as fast as they can be sent.
            Request::Scale { workers, .. } => {
                for index in 0..workers {
                    let _ = answers.send(Response::Receipt(receipt(&format!("web/{index}")))).await;
                }
                self.changed.fetch_add(1, Ordering::SeqCst);
                self.moved.notify_waiters();
                Ok(done(workers.into()))
            }
            Request::Reload { .. } => Ok(done(0)),
            Request::Stop { timeout_ms: Some(0) } => panic!("played"),
            Request::Stop { .. } => Err(Fault::new(FaultKind::TimedOut, "too late")),
        }
    }
}

/// A running server.
struct Served {
    _place: TempDir,
    path: PathBuf,
    played: Played,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

fn everyone() -> Access {
    Access { daemon_uid: rustix::process::geteuid().as_raw(), configured_uids: vec![], readers_gid: None }
}

/// Limits with which a test need not wait long; a busy machine keeps others within them all the same.
fn quick() -> Limits {
    Limits { patience: Duration::from_secs(2), farewell: Duration::from_secs(10), ..Limits::default() }
}

impl Served {
    fn start(limits: Limits) -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("steer.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        Self::serve(limits, place, socket)
    }

    fn serve(limits: Limits, place: TempDir, socket: ControlSocket) -> Self {
        let path = socket.path().to_owned();
        let played = Played::default();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let controller = played.clone();
        let server = tokio::spawn(async move {
            let closer = Closer::start().unwrap();
            serve_within(limits, socket, controller, everyone(), &closer, shutdown).await
        });
        Self { _place: place, path, played, stop, server }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path).await.unwrap()
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    /// Somebody else is answered, and soon.
    async fn serves_others(&self) {
        let mut client = self.client().await;
        let answer = within(client.call(Request::Info {}, |_| {})).await.unwrap();
        assert!(matches!(answer, Response::Info(_)));
    }

    /// Waits until the played daemon's count has the value.
    async fn reaches(&self, count: &AtomicU64, value: u64) {
        within(async {
            loop {
                let moved = self.played.moved.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                if count.load(Ordering::SeqCst) == value {
                    break;
                }
                moved.await;
            }
        })
        .await;
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        within(self.server).await.unwrap().unwrap();
        assert!(!self.path.exists(), "the socket is removed at the end");
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("it takes too long")
}

/// All that comes until the server closes.
async fn rest(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that is closed while the server has unread bytes of ours ends in a reset, after what was sent.
    let _ = within(stream.read_to_end(&mut bytes)).await;
    bytes
}

/// The messages in `bytes`.
fn messages(bytes: &[u8]) -> Vec<Value> {
    assert!(bytes.is_empty() || bytes.ends_with(&[0]), "the last message is whole");
    bytes
        .split(|byte| *byte == 0)
        .filter(|m| !m.is_empty())
        .map(|m| serde_json::from_slice(m).unwrap())
        .collect()
}

/// Reads one message.
async fn message(stream: &mut UnixStream) -> Value {
    let mut bytes = Vec::new();
    loop {
        match within(stream.read_u8()).await.unwrap() {
            0 => return serde_json::from_slice(&bytes).unwrap(),
            byte => bytes.push(byte),
        }
    }
}

async fn write(stream: &mut UnixStream, text: &str) {
    within(stream.write_all(text.as_bytes())).await.unwrap();
}

fn web(index: u32) -> WorkerName {
    format!("web/{index}").parse().unwrap()
}
