//! `steer run`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{
    Reporting,
    values::{self, Seed, StopSignal},
};
use crate::{daemon::settings::FlowSettings, names::GroupName, policy::Policy, sockets::address::Listen};

/// What `steer run` takes.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// Where the group listens: 127.0.0.1:8080, [::1]:8080, udp://0.0.0.0:53; :8080 is all addresses, localhost:8080 is loopback,
    /// both of IPv4 and IPv6; more than one is allowed
    #[arg(long, value_name = "ADDR", required = true, num_args = 1..)]
    pub listen: Vec<Listen>,
    /// How many workers to start with [default: as many as the daemon may use CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// The group's name
    #[arg(long, value_name = "NAME", default_value = "web")]
    pub name: GroupName,
    /// What decides which worker gets a connection: hash (its 4-tuple), source (its client's address, or its first bits as in
    /// source:ipv4=24,ipv6=64), least-loaded (of two), cpu (the worker that is pinned to the packet's CPU) or quic-cid (for
    /// datagrams, the worker that their QUIC connection ID names)
    #[arg(long, value_name = "POLICY", default_value = "hash")]
    pub policy: Policy,
    /// Who makes the listeners [default: auto for CMD, inherit for the sample worker]
    #[arg(long, value_enum)]
    pub mode: Option<ModeName>,
    /// How many sockets each worker may have at each address, where it binds them itself; more get nothing [default: two for each CPU, at
    /// least 16]
    #[arg(long, value_name = "N")]
    pub sockets: Option<u32>,
    /// Which generation of a worker goes first when it is restarted
    #[arg(long, value_enum, default_value_t = RestartName::Surge)]
    pub restart: RestartName,
    /// When a started worker counts as ready [default: in mode auto, whichever shows first; in mode own, listener; in
    /// mode inherit, notify for the sample worker, probe for CMD]
    #[arg(long, value_enum)]
    pub ready: Option<ReadyName>,
    /// What becomes of connections while no worker works
    #[arg(long, value_enum, default_value = "hold")]
    pub when_empty: WhenEmptyName,
    /// The user that the workers run as, by name or number [default: the daemon's own]
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// The seed of table and hash, 32 hexadecimal digits: the same seed gives the same table on every host
    /// [default: drawn at random]
    #[arg(long, value_name = "HEX32")]
    pub seed: Option<Seed>,
    /// How many UDP flows are remembered at each udp:// address, so that each stays with its worker while that drains; with 0
    /// every datagram goes by the table
    #[arg(long, value_name = "N", default_value_t = FlowSettings::default().max)]
    pub flows: u32,
    /// How long nothing may have come of a UDP flow before it is none any more
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = values::duration)]
    pub flow_idle: Duration,
    /// From a worker's start to its readiness, at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    pub start_timeout: Duration,
    /// From the begin of a drain to its deadline
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    pub drain_timeout: Duration,
    /// For open connections to end by themselves, before a worker is told to stop
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = values::duration)]
    pub settle: Duration,
    /// From the stop signal to SIGKILL, once the drain has ended
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = values::duration)]
    pub stop_timeout: Duration,
    /// The signal that tells a worker to stop
    #[arg(long, value_name = "SIGNAL", default_value = "TERM")]
    pub stop_signal: StopSignal,
    /// How the daemon tells of itself.
    #[command(flatten)]
    pub reporting: Reporting,
    /// What the workers run [default: the sample worker that is built in]
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Who makes the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    /// The worker takes those that the daemon passes, or binds itself: whichever it does
    Auto,
    /// The daemon makes them and passes them from fd 3 on
    Inherit,
    /// The worker binds itself, and the daemon takes its listeners in
    Own,
}

/// The order of a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RestartName {
    /// The new one is started before the old one stops
    Surge,
    /// The old one is stopped first, for programs of which two cannot run at once
    Replace,
}

/// What counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReadyName {
    /// READY=1 on NOTIFY_SOCKET
    Notify,
    /// Its own listener listens; in mode own only
    Listener,
    /// A connection that only it can get is accepted; for programs that tell nothing
    Probe,
}

/// What becomes of connections while no worker works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WhenEmptyName {
    /// They wait, and go to the first worker that is ready
    Hold,
    /// They are refused
    Refuse,
}
