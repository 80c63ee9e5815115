//! What a group is configured to be: checked, with every default filled in.

use std::{collections::BTreeMap, fmt, path::PathBuf, thread, time::Duration};

use serde::{Deserialize, Serialize};
use server_common::limits;

use crate::{
    names::GroupName,
    policy::{Policy, WEIGHT_DEFAULT},
    sockets::{
        address::{ListenAddress, Protocol},
        inherited::Inherited,
    },
    workers::limits::{Limit, Resource},
};

/// One group's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupSettings {
    /// Its name.
    pub name: GroupName,
    /// Where it listens; at least one address, none twice.
    pub listen: Vec<ListenAddress>,
    /// How many workers it starts with; at least 1.
    pub workers: u32,
    /// The weights of workers, by index, where they are not [`WEIGHT_DEFAULT`].
    pub weights: BTreeMap<u32, u32>,
    /// What decides which worker gets a new flow, at the start.
    pub policy: Policy,
    /// Who makes the workers' listeners.
    pub mode: Mode,
    /// How many sockets each worker has room for at each address, 1 to [`SOCKETS_MAX`](limits::SOCKETS_MAX): one for each of its threads,
    /// say. Where it is `None`, [as many](limits::sockets) as the host's CPUs ask for. More than one in [`Mode::Inherit`] is refused.
    pub sockets: Option<u32>,
    /// Which of two generations is stopped or started first.
    pub restart: RestartKind,
    /// When a started worker counts as ready.
    pub ready: Readiness,
    /// What becomes of connections while no worker works.
    pub when_empty: WhenEmpty,
    /// Of [`Mode::Adopt`], whose listeners the workers are.
    #[serde(default)]
    pub adopt: Option<AdoptSettings>,
    /// What the workers run; the sample worker that is built in where it is `None`.
    pub command: Option<Vec<String>>,
    /// The user that the workers run as, by name or number; the daemon's own where it is `None`.
    pub user: Option<String>,
    /// The workers' working directory; the daemon's own where it is `None`.
    pub directory: Option<PathBuf>,
    /// Variables set in the workers' environment, beside the daemon's own.
    pub environment: Vec<(String, String)>,
    /// What the workers may use, in order of resource; what the daemon was started with where a resource is not here.
    pub limits: Vec<(Resource, Limit)>,
    /// The signal that tells a worker to stop.
    pub stop_signal: i32,
    /// The seed of the table and of the program's hash: the same seed gives the same table on every host. One
    /// is drawn at random where it is `None`.
    pub seed: Option<[u64; 2]>,
    /// How UDP flows are remembered.
    pub flows: FlowSettings,
    /// How long things may take.
    pub deadlines: Deadlines,
}

impl GroupSettings {
    /// Whether one of its addresses takes connections.
    pub fn has_tcp(&self) -> bool {
        self.listen.iter().any(|address| address.protocol == Protocol::Tcp)
    }

    /// Whether one of its addresses takes datagrams.
    pub fn has_udp(&self) -> bool {
        self.listen.iter().any(|address| address.protocol == Protocol::Udp)
    }

    /// How many sockets each worker has room for at each address.
    pub fn socket_room(&self) -> u32 {
        let cpus = || thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        match self.mode {
            Mode::Inherit | Mode::Adopt => 1,
            Mode::Own | Mode::Auto => self.sockets.unwrap_or_else(|| limits::sockets(cpus())),
        }
    }

    /// The weight that a worker begins with.
    pub fn weight(&self, index: u32) -> u32 {
        self.weights.get(&index).copied().unwrap_or(WEIGHT_DEFAULT)
    }
}

/// Who makes the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The daemon makes each generation's listeners and passes them from fd 3 on.
    Inherit,
    /// The worker binds the addresses itself; the daemon sees it and takes its listeners in.
    Own,
    /// What each generation does decides: it takes the listeners that it is passed, or binds the addresses itself.
    Auto,
    /// Somebody else starts the server, which binds its listeners; each of them is a worker.
    Adopt,
}

/// A server that somebody else starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptSettings {
    /// Which processes are the server's.
    pub server: Server,
    /// What restarts it; of a unit, where it is `None`, systemd does.
    pub restart: Option<Vec<String>>,
    /// The user who owns its sockets; found when its listeners are.
    pub owner: Option<u32>,
    /// What connections have from the listener that accepts them, by listen address: the holding listeners have it, too. Found likewise.
    pub inherited: Vec<Inherited>,
}

impl AdoptSettings {
    /// Of a server whose listeners are still to be found.
    pub fn of(server: Server) -> Self {
        Self { server, restart: None, owner: None, inherited: Vec::new() }
    }
}

/// What tells a server's processes and sockets from those of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// They are in the cgroup of this unit of systemd.
    Unit(String),
    /// They are in this cgroup, a path as `/proc/PID/cgroup` has it.
    Cgroup(String),
    /// They are in this container, by its name or its id.
    Container(String),
    /// Their sockets are this user's.
    User(u32),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(name) => f.write_str(name),
            Self::Cgroup(path) => write!(f, "the cgroup {path}"),
            Self::Container(name) => write!(f, "container {name}"),
            Self::User(uid) => write!(f, "user {uid}"),
        }
    }
}

impl Mode {
    /// What holds where nothing is said. `is_sample`: the workers are the sample worker that is built in.
    pub fn default_for(is_sample: bool, ready: Option<Readiness>, listen: &[ListenAddress]) -> Self {
        // Nobody but the daemon can tell which port the kernel chose.
        let has_port = listen.iter().all(|address| address.address.port() != 0);
        match ready {
            _ if is_sample => Self::Inherit,
            Some(Readiness::Listener) => Self::Own,
            _ if has_port => Self::Auto,
            _ => Self::Inherit,
        }
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inherit => "inherit",
            Self::Own => "own",
            Self::Auto => "auto",
            Self::Adopt => "adopt",
        }
    }
}

/// The order of a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartKind {
    /// The new generation is started first: no moment without the worker.
    Surge,
    /// The old generation is stopped first, for programs of which two cannot run at once.
    Replace,
}

/// What counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// `READY=1` on `NOTIFY_SOCKET`.
    Notify,
    /// The worker's own listener listens; only in [`Mode::Own`].
    Listener,
    /// A connection that only it can get is accepted; for programs that tell nothing. It is closed without a byte.
    Probe,
    /// The first of these that shows; only in [`Mode::Auto`].
    Any,
}

impl Readiness {
    /// What counts where nothing is said. `is_sample`: the workers are the sample worker that is built in.
    /// `is_probed`: there is an address of TCP, where a probe can connect.
    pub fn default_for(mode: Mode, is_sample: bool, is_probed: bool) -> Self {
        match mode {
            Mode::Own | Mode::Adopt => Self::Listener,
            Mode::Auto => Self::Any,
            Mode::Inherit if is_sample || !is_probed => Self::Notify,
            // Most programs that take an inherited listener say nothing; to wait for READY=1 of one that never says
            // it would make its every start fail.
            Mode::Inherit => Self::Probe,
        }
    }
}

/// What becomes of connections while no worker works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenEmpty {
    /// The daemon's holding listener takes them and migrates them to the first worker that is ready.
    Hold,
    /// They are refused.
    Refuse,
}

/// How UDP flows are remembered, so that each stays with its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSettings {
    /// How many there is room for at each address; with 0 none is remembered, and every datagram goes by the table.
    pub max: u32,
    /// How long nothing may have come of a flow before it is none any more.
    pub idle: Duration,
}

impl FlowSettings {
    /// None is remembered.
    pub const NONE: Self = Self { max: 0, idle: Duration::ZERO };
}

impl Default for FlowSettings {
    /// 512 KiB of words for each address; and half the time that a drain has, so that it can end by proof.
    fn default() -> Self {
        Self { max: 65_536, idle: Duration::from_secs(15) }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// From start to ready; a worker that is later is stopped and its restart has failed.
    pub start: Duration,
    /// From the begin of a drain to its deadline.
    pub drain: Duration,
    /// For open connections to end by themselves, before the worker is told to stop.
    pub settle: Duration,
    /// From the stop signal to SIGKILL, once the drain has ended.
    pub stop: Duration,
    /// How long connections are held at most while no worker works; for as long as that is where it is `None`.
    #[serde(default)]
    pub hold: Option<Duration>,
}

impl Deadlines {
    /// Those of a server that somebody else starts, where nothing is said: what waits for one that has been stopped is refused in the end.
    pub fn of_adopted() -> Self {
        Self { hold: Some(Duration::from_secs(30)), ..Self::default() }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            settle: Duration::from_secs(1),
            stop: Duration::from_secs(5),
            hold: None,
        }
    }
}
