//! Where new flows go.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::names::{GroupName, WorkerName};

/// A published table, by worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The group.
    pub group: GroupName,
    /// The number of this publication.
    pub epoch: u64,
    /// How many buckets there are.
    pub buckets: u32,
    /// What a packet gets when its choices are gone: `hold` or `drop`.
    pub last_resort: String,
    /// Who has which part, by index; a worker with none is listed with 0.
    pub shares: Vec<TableShare>,
    /// Buckets that the holding listener has.
    pub held_buckets: u32,
    /// Where the clients go that were asked for.
    #[serde(default)]
    pub placed: Vec<Placed>,
}

/// Where a new flow of one client would go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placed {
    /// The client.
    pub client: SocketAddr,
    /// Where it connects to.
    pub local: SocketAddr,
    /// The bucket that it falls into.
    pub bucket: u32,
    /// The worker that it goes to; nothing where it is held or dropped, or the CPU decides.
    pub worker: Option<WorkerName>,
    /// The slot that it goes to.
    pub slot: Option<u32>,
    /// Others that it goes to when the policy's load or CPU says so.
    pub others: Vec<WorkerName>,
    /// Why.
    pub why: String,
}

/// One worker's part of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableShare {
    /// The worker.
    pub worker: WorkerName,
    /// Its working generation's slot.
    pub slot: Option<u32>,
    /// Its weight.
    pub weight: u32,
    /// Its buckets.
    pub buckets: u32,
    /// Its part of all buckets, 0 to 1.
    pub share: f64,
}
