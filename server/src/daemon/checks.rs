//! What of a group's settings does not go together. Pure: it asks neither the host nor the kernel.

use std::{fmt::Display, time::Duration};

use server_common::limits::{self, SOCKETS_MAX};

use super::settings::{FlowSettings, GroupSettings, Mode, Readiness};
use crate::{
    dataplane::flow_table::{FLOW_IDLE_MAX, FLOWS_MAX},
    engine::weights::too_small,
    policy::Policy,
    sockets::address::ListenAddress,
};

/// The most workers that a group can begin with. One that runs can scale up to what its slots allow.
pub const WORKERS_MAX: u32 = limits::WORKERS_MAX as u32;

/// Settings that are well-formed, each by itself, but do not go together or ask for what there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingsError {
    /// One address is given twice.
    ListenTwice {
        /// The later one's place in the list.
        place: usize,
        /// The address.
        address: ListenAddress,
    },
    /// The kernel would give each worker a port of its own.
    OwnPortZero {
        /// Its place in the list.
        place: usize,
        /// The address.
        address: ListenAddress,
    },
    /// A group has one at least and [`WORKERS_MAX`] at most.
    Workers(u32),
    /// A weight is for a worker that there is not.
    WeightOfNobody {
        /// The worker.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// With these weights the table is too small for a worker; the reason.
    WeightTooSmall(String),
    /// A probe is a connection, and all addresses take datagrams.
    NothingToProbe,
    /// Connection IDs are in datagrams, and no address takes any.
    NothingWithIds,
    /// Something is said of flows, and no address takes datagrams.
    NothingWithFlows(Setting),
    /// More flows than a table can have.
    Flows(u32),
    /// More sockets than a worker can have, or none.
    Sockets(u32),
    /// The daemon makes one for each address.
    SocketsInherited(u32),
    /// A connection ID names a worker, and not one of its sockets.
    SocketsById(u32),
    /// A longer time than the flow table can tell, or none.
    FlowIdle(Duration),
    /// There is no listener of the worker's own to look at.
    ListenerInherited,
    /// No worker can be ready in no time.
    NoTimeToStart,
    /// An empty word where the program's name belongs, or no word.
    EmptyCommand,
}

/// The setting that has to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// A listen address, by its place in the list.
    Listen(usize),
    /// The number of workers.
    Workers,
    /// The workers' weights.
    Weights,
    /// What decides.
    Policy,
    /// When a worker counts as ready.
    Ready,
    /// How many sockets a worker may have.
    Sockets,
    /// How many flows are remembered.
    Flows,
    /// How long a flow may be idle.
    FlowIdle,
    /// How long a worker may take to be ready.
    Start,
    /// What the workers run.
    Command,
}

/// How the user has written the settings, which is how an error names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// As options of `steer run`.
    Options,
    /// As keys of a file.
    Keys,
}

impl Written {
    fn name(self, option: &str, key: &str) -> String {
        match self {
            Self::Options => format!("--{option}"),
            Self::Keys => key.to_owned(),
        }
    }

    fn with(self, option: &str, key: &str, value: impl Display) -> String {
        format!("{} {value}", self.name(option, key))
    }
}

impl SettingsError {
    /// The setting that has to change.
    pub fn setting(&self) -> Setting {
        match *self {
            Self::ListenTwice { place, .. } | Self::OwnPortZero { place, .. } => Setting::Listen(place),
            Self::Workers(_) => Setting::Workers,
            Self::WeightOfNobody { .. } | Self::WeightTooSmall(_) => Setting::Weights,
            Self::ListenerInherited | Self::NothingToProbe => Setting::Ready,
            Self::NothingWithIds => Setting::Policy,
            Self::Sockets(_) | Self::SocketsInherited(_) | Self::SocketsById(_) => Setting::Sockets,
            Self::NothingWithFlows(setting) => setting,
            Self::Flows(_) => Setting::Flows,
            Self::FlowIdle(_) => Setting::FlowIdle,
            Self::NoTimeToStart => Setting::Start,
            Self::EmptyCommand => Setting::Command,
        }
    }

    /// What is wrong.
    pub fn message(&self, written: Written) -> String {
        let listen = |address: &ListenAddress| written.with("listen", "listen", address);
        match self {
            Self::ListenTwice { address, .. } => format!("{} is given twice", listen(address)),
            Self::OwnPortZero { address, .. } => {
                format!("{} has port 0, and in mode own every worker would get another port", listen(address))
            }
            Self::NothingToProbe => {
                format!(
                    "{} is a connection, and all addresses are udp",
                    written.with("ready", "ready", "probe")
                )
            }
            Self::NothingWithIds => {
                format!(
                    "{} is for datagrams, and no address is udp",
                    written.with("policy", "policy", "quic-cid")
                )
            }
            Self::Sockets(count) => {
                let much = if *count == 0 { "few" } else { "many" };
                let sockets = written.with("sockets", "sockets", count);
                format!("{sockets} is too {much}: a worker has 1 to {SOCKETS_MAX} at each address")
            }
            Self::SocketsInherited(count) => {
                let sockets = written.with("sockets", "sockets", count);
                format!(
                    "{sockets} is for workers that bind their sockets themselves, and the mode is inherit"
                )
            }
            Self::SocketsById(count) => {
                format!(
                    "{} does not go with {}: a connection ID names a worker, and not one of its sockets",
                    written.with("sockets", "sockets", count),
                    written.with("policy", "policy", "quic-cid")
                )
            }
            Self::NothingWithFlows(setting) => {
                let name = match setting {
                    Setting::FlowIdle => written.name("flow-idle", "idle"),
                    _ => written.name("flows", "max"),
                };
                format!("{name} is for datagrams, and no address is udp")
            }
            Self::Flows(count) => {
                let flows = written.with("flows", "max", count);
                format!("{flows} is too many: each address has a table of 0 to {FLOWS_MAX}")
            }
            Self::FlowIdle(idle) => {
                let idle = written.with("flow-idle", "idle", format_args!("{}ms", idle.as_millis()));
                format!("{idle} is not from 1ms to {}s", FLOW_IDLE_MAX.as_secs())
            }
            Self::Workers(count) => {
                let much = if *count == 0 { "few" } else { "many" };
                let workers = written.with("workers", "count", count);
                format!("{workers} is too {much}: a group has 1 to {WORKERS_MAX}")
            }
            Self::WeightOfNobody { index, count } => {
                format!("weights names worker {index}, and the {count} workers are counted from 0")
            }
            Self::WeightTooSmall(why) => format!("weights differ too much: {why}"),
            Self::ListenerInherited => {
                let own = written.with("mode", "mode", "own");
                format!(
                    "{} is for {own}, and the mode is inherit",
                    written.with("ready", "ready", "listener")
                )
            }
            Self::NoTimeToStart => {
                format!("{} is 0, so no worker can become ready", written.name("start-timeout", "start"))
            }
            Self::EmptyCommand => match written {
                Written::Options => "the command after -- is empty".to_owned(),
                Written::Keys => "command names no program".to_owned(),
            },
        }
    }

    /// The way out.
    pub fn hint(&self, written: Written) -> String {
        let inherit = written.with("mode", "mode", "inherit");
        match self {
            Self::ListenTwice { .. } => "give each address once".to_owned(),
            Self::OwnPortZero { .. } => {
                format!("choose a port, or leave the listeners to the daemon with {inherit}")
            }
            Self::NothingToProbe => {
                let own = written.with("mode", "mode", "own");
                format!(
                    "use {} with a program that says READY=1, or {own}",
                    written.with("ready", "ready", "notify")
                )
            }
            Self::NothingWithIds => {
                format!(
                    "add {}, or choose another policy",
                    written.with("listen", "listen", "udp://ADDRESS:PORT")
                )
            }
            Self::Sockets(_) => "leave it out, or give as many as the program binds at most".to_owned(),
            Self::SocketsInherited(_) => {
                let own = written.with("mode", "mode", "own");
                format!("leave it out, or have the program bind its sockets itself, with {own}")
            }
            Self::SocketsById(_) => "leave it out and run more workers, or choose another policy".to_owned(),
            Self::NothingWithFlows(_) => {
                format!("leave it out, or add {}", written.with("listen", "listen", "udp://ADDRESS:PORT"))
            }
            Self::Flows(_) => "a flow takes 48 bytes; 0 has every datagram go by the table".to_owned(),
            Self::FlowIdle(_) => {
                let none = written.with("flows", "max", 0);
                format!("leave it out for 15s, or give {none} to remember no flows")
            }
            Self::Workers(0) => "give 1 at least; to have no worker, leave the group out".to_owned(),
            Self::Workers(_) => "a worker for each processor is plenty; run two groups for more".to_owned(),
            Self::WeightOfNobody { .. } => "raise count, or leave the weight out".to_owned(),
            Self::WeightTooSmall(_) => "weights are relative to each other: lower the largest".to_owned(),
            Self::ListenerInherited => {
                let ready = |value| written.with("ready", "ready", value);
                let own = written.with("mode", "mode", "own");
                format!("use {} or {}, or {own}", ready("notify"), ready("probe"))
            }
            Self::NoTimeToStart => "leave it out for 30s, or give the time that a worker takes".to_owned(),
            Self::EmptyCommand => match written {
                Written::Options => {
                    "write the program's name after --, or leave both out for the sample worker"
                }
                Written::Keys => "write the program's name first, or leave the key out for the sample worker",
            }
            .to_owned(),
        }
    }
}

/// Everything that does not go together.
pub fn check(settings: &GroupSettings) -> Vec<SettingsError> {
    let GroupSettings {
        listen,
        policy,
        workers,
        weights,
        mode,
        sockets,
        ready,
        flows,
        deadlines,
        command,
        ..
    } = settings;
    let mut errors = Vec::new();
    for (place, &address) in listen.iter().enumerate() {
        if listen[..place].contains(&address) {
            errors.push(SettingsError::ListenTwice { place, address });
        } else if *mode == Mode::Own && address.address.port() == 0 {
            errors.push(SettingsError::OwnPortZero { place, address });
        }
    }
    if !(1..=WORKERS_MAX).contains(workers) {
        errors.push(SettingsError::Workers(*workers));
    } else if let Some(&index) = weights.keys().find(|index| *index >= workers) {
        errors.push(SettingsError::WeightOfNobody { index, count: *workers });
    } else {
        let weights: Vec<(u32, u32)> = (0..*workers).map(|index| (index, settings.weight(index))).collect();
        errors.extend(too_small(&weights).map(SettingsError::WeightTooSmall));
    }
    if (*mode, *ready) == (Mode::Inherit, Readiness::Listener) {
        errors.push(SettingsError::ListenerInherited);
    }
    if *ready == Readiness::Probe && !settings.has_tcp() {
        errors.push(SettingsError::NothingToProbe);
    }
    let is_by_id = matches!(policy, Policy::QuicCid(_));
    if is_by_id && !settings.has_udp() {
        errors.push(SettingsError::NothingWithIds);
    }
    if let Some(sockets) = *sockets {
        if !(1..=SOCKETS_MAX).contains(&sockets) {
            errors.push(SettingsError::Sockets(sockets));
        } else if sockets > 1 && *mode == Mode::Inherit {
            errors.push(SettingsError::SocketsInherited(sockets));
        } else if sockets > 1 && is_by_id {
            errors.push(SettingsError::SocketsById(sockets));
        }
    }
    let standard = FlowSettings::default();
    if settings.has_udp() {
        if flows.max > FLOWS_MAX {
            errors.push(SettingsError::Flows(flows.max));
        }
        if (flows.max > 0 || is_by_id) && (flows.idle.is_zero() || flows.idle > FLOW_IDLE_MAX) {
            errors.push(SettingsError::FlowIdle(flows.idle));
        }
    } else if *flows != standard {
        let setting = if flows.max == standard.max { Setting::FlowIdle } else { Setting::Flows };
        errors.push(SettingsError::NothingWithFlows(setting));
    }
    if deadlines.start == Duration::ZERO {
        errors.push(SettingsError::NoTimeToStart);
    }
    if command.as_ref().is_some_and(|words| words.first().is_none_or(String::is_empty)) {
        errors.push(SettingsError::EmptyCommand);
    }
    errors
}
