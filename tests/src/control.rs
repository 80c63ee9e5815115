//! The control socket, asked as often as a test likes: without a process for each question.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use steer::control::{
    api::{Change, Decision, Event, GroupStatus, Receipt, Request, Response, Table},
    client::{Client, ClientError},
    patience::Patience,
};
use tokio::runtime::{Builder, Runtime};

use crate::{traffic::counters_add_up, wait};

/// The group that `steer run` makes where nothing else is said.
pub const GROUP: &str = "web";

/// Asks one daemon about its one group, each question on a connection of its own, in the calling thread.
#[derive(Debug)]
pub struct Control {
    socket: PathBuf,
    patience: Patience,
    runtime: Runtime,
}

impl Control {
    /// Asks at this socket, and gives a daemon up as the command line does; on a machine that is emulated, later.
    pub fn new(socket: &Path) -> Self {
        Self::waiting(socket, wait::patient(Patience::default().answer))
    }

    /// The same for a daemon that may take so long to answer.
    pub fn waiting(socket: &Path, answer: Duration) -> Self {
        let patience = Patience { answer, ..Patience::default() };
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be started");
        Self { socket: socket.to_owned(), patience, runtime }
    }

    /// Asks, and gives the last answer and all those before it.
    pub fn ask(&self, request: Request) -> Result<(Response, Vec<Response>), ClientError> {
        self.runtime.block_on(async {
            let mut client = Client::connect_with(self.patience, &self.socket).await?;
            let mut before = Vec::new();
            let last = client.call(request, |answer| before.push(answer)).await?;
            Ok((last, before))
        })
    }

    /// Restarts a worker and gives its receipt.
    #[track_caller]
    pub fn restart(&self, worker: u32) -> Receipt {
        let request =
            Request::Restart { group: group(), worker: Some(worker), timeout_ms: None, canary: None };
        let mut receipts = self.receipts(request);
        assert_eq!(receipts.len(), 1, "a restart of one worker has one receipt: {receipts:?}");
        receipts.remove(0)
    }

    /// Restarts all workers, one after another, and gives their receipts.
    #[track_caller]
    pub fn restart_all(&self) -> Vec<Receipt> {
        self.receipts(Request::Restart { group: group(), worker: None, timeout_ms: None, canary: None })
    }

    /// Changes the number of workers and gives the receipts of those that have left.
    #[track_caller]
    pub fn scale(&self, workers: u32) -> Vec<Receipt> {
        self.receipts(Request::Scale { group: group(), workers, timeout_ms: None })
    }

    /// Drains a worker to its end and gives its receipt.
    #[track_caller]
    pub fn drain(&self, worker: u32) -> Receipt {
        let mut receipts = self.receipts(Request::Drain {
            worker: group().worker(worker),
            timeout_ms: None,
            until_replaced: false,
        });
        assert_eq!(receipts.len(), 1, "a drain has one receipt: {receipts:?}");
        receipts.remove(0)
    }

    /// Puts a drained worker back to work.
    #[track_caller]
    pub fn undrain(&self, worker: u32) {
        self.receipts(Request::Undrain { worker: group().worker(worker) });
    }

    /// Changes the policy, or only asks what that would change; with where each client goes before and after.
    #[track_caller]
    pub fn policy(&self, policy: &str, dry_run: bool, clients: &[SocketAddr]) -> Change {
        let policy = policy.parse().unwrap_or_else(|error| panic!("{error}"));
        self.change(Request::SetPolicy { group: group(), policy, dry_run, clients: clients.to_vec() })
    }

    /// Changes a worker's weight, or only asks what that would change; with where each client goes before and after.
    #[track_caller]
    pub fn weight(&self, worker: u32, weight: u32, dry_run: bool, clients: &[SocketAddr]) -> Change {
        let (worker, clients) = (group().worker(worker), clients.to_vec());
        self.change(Request::SetWeight { worker, weight, over_ms: None, dry_run, clients })
    }

    #[track_caller]
    fn change(&self, request: Request) -> Change {
        match self.expect(request).0 {
            Response::Change(change) => change,
            other => panic!("the change is {other:?}"),
        }
    }

    /// Says how the canary of a restart under way goes on.
    #[track_caller]
    pub fn decide(&self, decision: Decision) {
        self.expect(Request::Decide { group: group(), decision });
    }

    /// The group's state.
    #[track_caller]
    pub fn status(&self) -> GroupStatus {
        match self.expect(Request::Status { group: Some(group()) }).0 {
            Response::Status(mut status) => status.groups.remove(0),
            other => panic!("the status is {other:?}"),
        }
    }

    /// The group's table.
    #[track_caller]
    pub fn table(&self) -> Table {
        match self.expect(Request::Table { group: group(), clients: vec![], to: None }).0 {
            Response::Table(table) => table,
            other => panic!("the table is {other:?}"),
        }
    }

    /// The events that the daemon remembers of this kind.
    #[track_caller]
    pub fn events(&self, kind: &str) -> Vec<Event> {
        let (_, before) = self.expect(Request::Events { group: None, since: 0, follow: false });
        let events = before.into_iter().filter_map(|answer| match answer {
            Response::Event(event) => Some(event),
            _ => None,
        });
        events.filter(|event| event.kind == kind).collect()
    }

    #[track_caller]
    fn receipts(&self, request: Request) -> Vec<Receipt> {
        let (last, before) = self.expect(request);
        let receipt = |answer| match answer {
            Response::Receipt(receipt) => Some(receipt),
            _ => None,
        };
        before.into_iter().chain([last]).filter_map(receipt).collect()
    }

    #[track_caller]
    fn expect(&self, request: Request) -> (Response, Vec<Response>) {
        let asked = format!("{request:?}");
        self.ask(request).unwrap_or_else(|error| panic!("{asked}: {error}"))
    }
}

/// Panics unless each stage of the counters has counted each run once, and nothing was dropped.
#[track_caller]
pub fn assert_counted_once(group: &GroupStatus) {
    let counters = counters_add_up(group);
    assert_eq!(counters.outcome.dropped, 0, "{group:?}");
}

/// Panics unless the drain was one to its proven end, and the worker has ended by itself.
#[track_caller]
pub fn assert_drained(receipt: &Receipt) {
    let at_the_end = [receipt.handshakes, receipt.unaccepted, receipt.connections].map(|count| count.ended);
    assert_eq!((receipt.outcome.as_str(), at_the_end), ("drained", [0; 3]), "{receipt:?}");
    assert_eq!(receipt.exit.as_deref(), Some("exit 0"), "{receipt:?}");
}

/// The new connections that the program has selected the group's workers for.
pub fn selected(group: &GroupStatus) -> u64 {
    group.workers.iter().map(|worker| worker.selected).sum()
}

/// The group of [`GROUP`].
pub fn group() -> steer::names::GroupName {
    GROUP.parse().expect("the name is well-formed")
}
