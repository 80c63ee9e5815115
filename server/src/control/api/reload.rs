//! What a configuration that was read again has changed.

use serde::{Deserialize, Serialize};

use super::Receipt;
use crate::names::GroupName;

/// What has changed, once it has: tables are published, who leaves has gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The files that were read, in that order.
    pub files: Vec<String>,
    /// What has changed of `[daemon]`.
    pub daemon: Vec<KeyChange>,
    /// The groups that are new, gone or changed, by name; nothing of the others.
    pub reloaded: Vec<GroupReload>,
    /// From the request to its end, in milliseconds.
    pub milliseconds: u64,
}

/// What has changed of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupReload {
    /// The group.
    pub group: GroupName,
    /// `added` (opened; its workers start), `removed` (drained, stopped and gone) or `changed`.
    pub outcome: String,
    /// What of it is different.
    pub changes: Vec<KeyChange>,
    /// The command that has those changes apply now which would wait for each worker's next generation.
    pub restart: Option<String>,
    /// The receipts of the workers that left.
    pub receipts: Vec<Receipt>,
    /// What went wrong after the configuration was taken over: a worker that does not get ready.
    pub fault: Option<String>,
}

/// One key with another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// The key, from its group's table on: `policy`, `workers.count`, `workers.weights.3`.
    pub key: String,
    /// The value before, as it can be written; nothing where the key had none. A variable's value is not shown.
    pub before: Option<String>,
    /// The value now.
    pub after: Option<String>,
    /// From when on it counts.
    pub applies: Applies,
}

/// From when on a change counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applies {
    /// At once.
    Now,
    /// For each worker from its next generation on.
    NextGeneration,
}
