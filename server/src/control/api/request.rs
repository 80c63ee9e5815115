//! What a client can ask.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{AdoptTarget, streams};
use crate::{
    block::Block,
    names::{GroupName, WorkerName},
    policy::Policy,
};

/// The most flows that are listed at once: an answer is one message.
pub const FLOWS_LISTED_MAX: u32 = 10_000;

/// What a client can ask. The varlink method is `io.steer.Control.` and the variant's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Request {
    /// The daemon's version, pid and uptime.
    #[serde(rename = "io.steer.Control.Info")]
    Info {},
    /// Groups and their workers; of one group, or of all.
    #[serde(rename = "io.steer.Control.Status")]
    Status {
        /// The group, or all of them.
        #[serde(default)]
        group: Option<GroupName>,
    },
    /// The metrics of the daemon and of all groups, as they are served over HTTP.
    #[serde(rename = "io.steer.Control.Metrics")]
    Metrics {},
    /// The published steering table of a group.
    #[serde(rename = "io.steer.Control.Table")]
    Table {
        /// The group.
        group: GroupName,
        /// Clients (address and port) whose worker is wanted.
        #[serde(default)]
        clients: Vec<SocketAddr>,
        /// Where they connect to; each of the group's addresses without it.
        #[serde(default)]
        to: Option<SocketAddr>,
    },
    /// The UDP flows that a group remembers.
    #[serde(rename = "io.steer.Control.Flows")]
    Flows {
        /// The group.
        group: GroupName,
        /// Only those of the worker with this index.
        #[serde(default)]
        worker: Option<u32>,
        /// Only those of clients in this block: `192.0.2.0/24`.
        #[serde(default)]
        client: Option<Block>,
        /// How many are wanted one by one, [`FLOWS_LISTED_MAX`] at most; all of them are counted.
        #[serde(default)]
        limit: u32,
    },
    /// The daemon's events: those it remembers from `since` on and, with `follow`, each as it happens (`more`).
    #[serde(rename = "io.steer.Control.Events")]
    Events {
        /// Only this group's events.
        #[serde(default)]
        group: Option<GroupName>,
        /// The first sequence number wanted.
        #[serde(default)]
        since: u64,
        /// Whether to stay and send each new event.
        #[serde(default)]
        follow: bool,
    },
    /// Hand over one worker or, one after another, all; answers with one receipt per worker (`more`).
    #[serde(rename = "io.steer.Control.Restart")]
    Restart {
        /// The group.
        group: GroupName,
        /// The worker's index; without it, every worker.
        #[serde(default)]
        worker: Option<u32>,
        /// How long each drain may take, in milliseconds; without it, the group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
        /// Whether the first new generation gets only a part of its worker's buckets at first.
        #[serde(default)]
        canary: Option<Canary>,
    },
    /// Say how the canary of a restart under way goes on; answers at once.
    #[serde(rename = "io.steer.Control.Decide")]
    Decide {
        /// The group.
        group: GroupName,
        /// What is to become of it.
        decision: Decision,
    },
    /// A group's policy, and why each worker has the share that it has.
    #[serde(rename = "io.steer.Control.Policy")]
    Policy {
        /// The group.
        group: GroupName,
    },
    /// Decide by another policy, in one swap; answers with what that changes.
    #[serde(rename = "io.steer.Control.SetPolicy")]
    SetPolicy {
        /// The group.
        group: GroupName,
        /// The policy: `hash`, `source:ipv4=24,ipv6=64`, `least-loaded`, `cpu`.
        policy: Policy,
        /// Whether only to say what would change.
        #[serde(default)]
        dry_run: bool,
        /// Clients (address and port) whose worker before and after is wanted.
        #[serde(default)]
        clients: Vec<SocketAddr>,
    },
    /// Give a worker another weight, in one swap or step by step; answers with what that changes, once it has.
    #[serde(rename = "io.steer.Control.SetWeight")]
    SetWeight {
        /// The worker.
        worker: WorkerName,
        /// The weight, 0 to 100; with 0 the worker gets nothing new and keeps what it has.
        weight: u32,
        /// Over how many milliseconds; at once without it.
        #[serde(default)]
        over_ms: Option<u64>,
        /// Whether only to say what would change.
        #[serde(default)]
        dry_run: bool,
        /// Clients (address and port) whose worker before and after is wanted.
        #[serde(default)]
        clients: Vec<SocketAddr>,
    },
    /// Take a worker out of the table, to the proven end of what it holds; answers with its receipt.
    #[serde(rename = "io.steer.Control.Drain")]
    Drain {
        /// The worker.
        worker: WorkerName,
        /// How long the drain may take, in milliseconds; without it, the group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
        /// Of an adopted group: whether the next listener that comes to the worker puts it back to work.
        #[serde(default)]
        until_replaced: bool,
    },
    /// Drain all workers of an adopted group whose server is about to be stopped: its next listeners are back at work; answers with one
    /// receipt per worker (`more`).
    #[serde(rename = "io.steer.Control.DrainAll")]
    DrainAll {
        /// The group.
        group: GroupName,
        /// Only the workers of this unit of systemd, an instance of the template that is adopted.
        #[serde(default)]
        unit: Option<String>,
        /// How long the drains may take, in milliseconds; without it, the group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Put a drained (or draining) worker back to work; answers when it works.
    #[serde(rename = "io.steer.Control.Undrain")]
    Undrain {
        /// The worker.
        worker: WorkerName,
    },
    /// Change the number of workers; answers with a receipt per worker removed (`more`).
    #[serde(rename = "io.steer.Control.Scale")]
    Scale {
        /// The group.
        group: GroupName,
        /// The number of workers wanted.
        workers: u32,
        /// How long each drain may take, in milliseconds; without it, the group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Take a server that somebody else starts under management, as a group; answers once its table is published.
    #[serde(rename = "io.steer.Control.Adopt")]
    Adopt {
        /// Which server.
        target: AdoptTarget,
        /// The group's name; without it, the server's own.
        #[serde(default)]
        name: Option<GroupName>,
        /// Whether only to say what was found.
        #[serde(default)]
        dry_run: bool,
        /// Whether to write the group into the configuration.
        #[serde(default)]
        keep: bool,
    },
    /// Give a group, or every group, back to the kernel's own hash; its workers go on, unmanaged.
    #[serde(rename = "io.steer.Control.Release")]
    Release {
        /// The group; all where it is left out.
        #[serde(default)]
        group: Option<GroupName>,
    },
    /// Read the configuration again and make the groups what it says, all of it or nothing; answers with what has changed.
    #[serde(rename = "io.steer.Control.Reload")]
    Reload {
        /// How long each drain may take, in milliseconds; without it, each group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Stop: drain every worker, release the groups, end the daemon; answers with the receipts (`more`).
    #[serde(rename = "io.steer.Control.Stop")]
    Stop {
        /// How long the drains may take, in milliseconds; without it, each group's own deadline.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
}

impl Request {
    /// Whether the request changes anything; reading needs less privilege.
    pub fn changes(&self) -> bool {
        match self {
            Self::Info {}
            | Self::Status { .. }
            | Self::Metrics {}
            | Self::Table { .. }
            | Self::Flows { .. }
            | Self::Events { .. }
            | Self::Policy { .. } => false,
            Self::SetPolicy { dry_run, .. }
            | Self::SetWeight { dry_run, .. }
            | Self::Adopt { dry_run, .. } => !dry_run,
            Self::Restart { .. }
            | Self::Decide { .. }
            | Self::Drain { .. }
            | Self::DrainAll { .. }
            | Self::Undrain { .. }
            | Self::Scale { .. }
            | Self::Release { .. }
            | Self::Reload { .. }
            | Self::Stop { .. } => true,
        }
    }

    /// The full name of the varlink method.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Info {} => "io.steer.Control.Info",
            Self::Status { .. } => "io.steer.Control.Status",
            Self::Metrics {} => "io.steer.Control.Metrics",
            Self::Table { .. } => "io.steer.Control.Table",
            Self::Flows { .. } => "io.steer.Control.Flows",
            Self::Events { .. } => "io.steer.Control.Events",
            Self::Restart { .. } => "io.steer.Control.Restart",
            Self::Decide { .. } => "io.steer.Control.Decide",
            Self::Policy { .. } => "io.steer.Control.Policy",
            Self::SetPolicy { .. } => "io.steer.Control.SetPolicy",
            Self::SetWeight { .. } => "io.steer.Control.SetWeight",
            Self::Drain { .. } => "io.steer.Control.Drain",
            Self::DrainAll { .. } => "io.steer.Control.DrainAll",
            Self::Undrain { .. } => "io.steer.Control.Undrain",
            Self::Scale { .. } => "io.steer.Control.Scale",
            Self::Adopt { .. } => "io.steer.Control.Adopt",
            Self::Release { .. } => "io.steer.Control.Release",
            Self::Reload { .. } => "io.steer.Control.Reload",
            Self::Stop { .. } => "io.steer.Control.Stop",
        }
    }

    /// Whether there are answers before the last one, for a client that sets varlink's `more`.
    pub fn streams(&self) -> bool {
        streams(self.method())
    }
}

/// What a new generation gets before it takes over from the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Its part of its worker's buckets, in thousandths: 1 to 999.
    pub permille: u32,
    /// For how many milliseconds; until someone decides without it.
    #[serde(default)]
    pub hold_ms: Option<u64>,
}

/// What someone makes of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It takes over now, and the restart goes on.
    Proceed,
    /// It drains, the old generation gets its buckets back, and the restart ends.
    Abort,
}
