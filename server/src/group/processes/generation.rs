//! A generation as it is for the daemon: its process, how far it is, and what is known of its load.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use server_common::load::{Cell, Load, Shown};
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    daemon::settings::Readiness,
    dataplane::cells::{WorkerCell, coarse_nanoseconds},
    engine::event::{Millis, Slot},
    group::{message::Astray, observer::Subject},
    workers::{
        process::{Exit, Process},
        spawn::Forked,
    },
};

use super::{origin::Serves, stall::Tracker};

/// A generation that has been started and is not forgotten.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(super) slot: Slot,
    /// When it counts as ready: the group's later generations may be asked for something else.
    pub(super) ready: Readiness,
    /// Which listeners it serves.
    pub(super) serves: Serves,
    pub(super) launch: Launch,
    pub(super) process: Option<Process>,
    /// Whether the process has ended.
    pub(super) has_exited: bool,
    /// Whether it was to be killed.
    pub(super) is_killed: bool,
    /// Whether it was told to stop: it need not beat nor take any more.
    pub(super) is_stopping: bool,
    /// Whether it has said that it is ready, where it is to say so.
    pub(super) has_told: bool,
    /// How far its probe is, where it is ready by probe.
    pub(super) probe: ProbeState,
    /// Whether the engine has been told that it is ready.
    pub(super) is_ready: bool,
    /// Whether its listeners are being looked for.
    pub(super) is_searched: bool,
    /// Whether the last look found none that the one before had not: it has bound all that it binds.
    pub(super) is_settled: bool,
    /// Whether it was last known to have a listener at every address.
    pub(super) has_all: bool,
    /// Until when more listeners of a generation that is ready are looked for.
    pub(super) sought_until: Option<Instant>,
    /// When that look, or the last one, began.
    pub(super) searched_at: Option<Instant>,
    /// Whether it had said that it is ready when that look began.
    pub(super) had_told_before: bool,
    /// When it began to be started.
    pub(super) begun: Instant,
    /// What it does that does not listen where it is to, as far as that was noticed.
    pub(super) astray: Option<Astray>,
    /// Where it can say how loaded it is; nothing where that memory could not be made.
    pub(super) cell: Option<Arc<WorkerCell>>,
    /// What its queue has been doing, while the policy wants to know.
    pub(super) queue: Tracker,
    /// The CPUs that it was last seen pinned to.
    pub(super) cpus: Vec<usize>,
    /// Whether it was last seen to take nothing.
    pub(super) is_stalled: bool,
    /// Whether it was told of sockets of its worker that are in no slot.
    pub(super) has_unused: bool,
    /// Since when its listener is seen with connections and without a process to accept them.
    pub(super) unattended_since: Option<Millis>,
    /// Since when it has no listener at an address any more.
    pub(super) closed_since: Option<Millis>,
    /// What is known of its connections while it drains.
    pub(super) subject: Arc<Mutex<Subject>>,
}

/// How far the making of a generation's process is.
#[derive(Debug)]
pub(super) enum Launch {
    /// It is being made, or could not be.
    Forking,
    /// It waits until a record names it.
    Held(Box<Forked>),
    /// It is on its way to its program. Where it ended on the way, how: what the program's start came to is told first.
    Going { exit: Option<Result<Exit, String>> },
    /// It runs its program.
    Runs,
}

/// How far the probe of a generation is.
#[derive(Debug, Default)]
pub(super) enum ProbeState {
    /// There is none, or it is over, or on its way.
    #[default]
    None,
    /// It has its port, and waits for the table that has its flow.
    Bound(TcpSocket),
    /// It is connected, and waits for the worker to accept it.
    Connected(TcpStream),
}

impl Generation {
    pub(super) fn new(slot: Slot, ready: Readiness, serves: Serves) -> Self {
        Self {
            slot,
            ready,
            serves,
            launch: Launch::Forking,
            process: None,
            has_exited: false,
            is_killed: false,
            is_stopping: false,
            has_told: false,
            probe: ProbeState::None,
            is_ready: false,
            is_searched: false,
            is_settled: false,
            has_all: false,
            sought_until: None,
            searched_at: None,
            had_told_before: false,
            begun: Instant::now(),
            astray: None,
            cell: None,
            queue: Tracker::default(),
            cpus: Vec::new(),
            is_stalled: false,
            has_unused: false,
            unattended_since: None,
            closed_since: None,
            subject: Arc::default(),
        }
    }

    /// Whether more listeners of it are looked for now, although it is ready.
    pub(super) fn is_sought(&self) -> bool {
        !self.is_stopping && self.sought_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether it has a process that may still run.
    pub(super) fn runs(&self) -> bool {
        self.process.is_some() && !self.has_exited
    }

    /// What the programs read that its worker says.
    pub(super) fn cell_of_programs(&self) -> Option<Cell> {
        self.cell.as_ref()?.read_by_programs()
    }

    /// Whether its worker has stopped beating and no program can see it yet.
    pub(super) fn has_stopped_unseen(&self) -> bool {
        let stopped = |cell: Cell| Load::of(Shown::default(), Some(cell), coarse_nanoseconds).is_bad;
        self.cell_of_programs().is_none() && self.cell.as_ref().is_some_and(|cell| stopped(cell.read()))
    }
}
