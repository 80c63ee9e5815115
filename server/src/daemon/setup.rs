//! What a daemon is started with, beside its groups.

use std::path::PathBuf;

use super::foreground::Leeway;
use crate::{config::DaemonSettings, metrics::MetricsAddress, values::LogFormat};

/// One daemon's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Where its control socket is; everything else that is the daemon's own at run time is beside it.
    pub socket: PathBuf,
    /// The users, by name or number, that may change things over it, beside root and the daemon's own.
    pub access: Vec<String>,
    /// Where it serves metrics, if it does.
    pub metrics: Option<MetricsAddress>,
    /// How it writes its log, and what its workers print.
    pub log_format: LogFormat,
    /// What it is for.
    pub purpose: Purpose,
}

/// How long a daemon's groups are meant to last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// `steer run`: a group in the foreground, which ends with it.
    Foreground {
        /// Where it may listen instead.
        leeway: Leeway,
    },
    /// `steer daemon`: groups that go on serving without it, until a next daemon takes them over.
    Service {
        /// The configuration that the groups are from, to be read again.
        config: PathBuf,
        /// The directory, in a bpffs, of what the next daemon finds again.
        pins: PathBuf,
        /// What it says of the daemon itself.
        loaded: DaemonSettings,
    },
}
