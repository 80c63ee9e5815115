//! UDP flows that are remembered.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::names::{GroupName, WorkerName};

/// A group's UDP flows: how many each generation has, and some of them one by one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The group.
    pub group: GroupName,
    /// How many flows there is room for, at all addresses together.
    pub room: u64,
    /// After how many milliseconds without a datagram a flow is forgotten.
    pub idle_ms: u64,
    /// How many were found that are wanted.
    pub found: u64,
    /// Of those, how many each generation has, by worker and generation.
    pub by_generation: Vec<GenerationFlows>,
    /// The first of them, by worker, generation and client.
    pub flows: Vec<FlowOf>,
}

/// How many flows go to a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationFlows {
    /// The worker.
    pub worker: WorkerName,
    /// Its generation.
    pub generation: u64,
    /// Whether it drains: these flows are what it waits for.
    pub draining: bool,
    /// All that are wanted.
    pub flows: u64,
    /// Those of which more than one datagram has come.
    pub established: u64,
}

/// One flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowOf {
    /// The client.
    pub client: SocketAddr,
    /// Where it sends to.
    pub local: SocketAddr,
    /// The worker that gets it.
    pub worker: WorkerName,
    /// Its generation.
    pub generation: u64,
    /// How many milliseconds ago its last datagram came, to some 134.
    pub idle_ms: u64,
    /// Whether more than one datagram of it has come.
    pub established: bool,
}
