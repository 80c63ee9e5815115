//! The file's contents.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use server_common::counters::SlotCounters;

use crate::{
    control::api::Drains,
    daemon::settings::GroupSettings,
    engine::{
        event::{GenerationId, OperationId, Slot},
        group::Group,
    },
    group::totals::{Totals, WorkerTotals},
    sockets::address::ListenAddress,
};

/// The version of the file's shape: another daemon goes on from a file of its own version only.
pub(crate) const FORMAT: u32 = 2;

/// The version of the maps' shapes and meanings, as program and daemon share them: raised with every change of `server-common` that an
/// older program would misread.
pub(crate) const MAPS: u32 = 3;

/// One group, as it was when it was last saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// See [`FORMAT`].
    pub format: u32,
    /// See [`MAPS`].
    pub maps: u32,
    /// The version of the daemon that wrote it, for people.
    pub version: String,
    /// The kernel's name for this boot: what was saved in another is about nothing any more.
    pub boot: String,
    /// How the group is configured.
    pub settings: Arc<GroupSettings>,
    /// What was decided.
    pub engine: Arc<Group>,
    /// What is held at each listen address, in their order.
    pub addresses: Vec<SavedAddress>,
    /// Whose slot each is, as the daemon knew it: it may have forgotten a generation later than the engine.
    pub holders: Vec<(Slot, GenerationId)>,
    /// The generations' processes.
    pub processes: Vec<SavedProcess>,
    /// What was counted for slots that others have now.
    pub totals: SavedTotals,
    /// How many strangers were seen.
    pub strangers: u64,
    /// The name of the last operation.
    pub last_operation: OperationId,
    /// The number of the last event.
    pub last_event: u64,
}

/// A listen address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedAddress {
    /// With the port that was found, where 0 was asked for.
    pub address: ListenAddress,
    /// The cookies of each slot's listeners, in their places; 0 where a place is free.
    pub listeners: BTreeMap<Slot, Vec<u64>>,
    /// What the program had counted for each slot in use before its listener came.
    pub counted: BTreeMap<Slot, SavedCounters>,
    /// How many migrations to each slot were told of.
    #[serde(default)]
    pub told: BTreeMap<Slot, u64>,
    /// The sockets that workers were passed and do not take from, by slot.
    #[serde(default)]
    pub passed_over: BTreeMap<Slot, Vec<PassedOver>>,
}

/// A socket that a worker was passed and does not take from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PassedOver {
    /// Tells it from all others of this boot.
    pub cookie: u64,
    /// As `/proc/PID/fd` names it.
    pub inode: u64,
}

/// A generation's process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedProcess {
    /// Whose.
    pub generation: GenerationId,
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot: with the number it names one process.
    pub start_time: u64,
    /// Whether it has said that it is ready.
    pub has_told: bool,
}

/// Counters that have outlived their slots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedTotals {
    workers: BTreeMap<u32, SavedWorker>,
    held: SavedCounters,
    strangers: u64,
}

/// A worker's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct SavedWorker {
    counters: SavedCounters,
    migrated_out: u64,
    drains: Drains,
}

/// [`SlotCounters`], which knows nothing of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedCounters {
    asked: [u64; 4],
    outcome: [u64; 8],
    flows: [u64; 3],
    ids: [u64; 3],
}

impl From<SlotCounters> for SavedCounters {
    fn from(SlotCounters { asked, outcome, flows, ids }: SlotCounters) -> Self {
        Self { asked, outcome, flows, ids }
    }
}

impl From<SavedCounters> for SlotCounters {
    fn from(SavedCounters { asked, outcome, flows, ids }: SavedCounters) -> Self {
        Self { asked, outcome, flows, ids }
    }
}

impl From<&Totals> for SavedTotals {
    fn from(totals: &Totals) -> Self {
        let saved = |(&index, worker): (&u32, &WorkerTotals)| {
            let &WorkerTotals { counters, migrated_out, drains } = worker;
            (index, SavedWorker { counters: counters.into(), migrated_out, drains })
        };
        let workers = totals.workers.iter().map(saved).collect();
        Self { workers, held: totals.held.into(), strangers: totals.strangers }
    }
}

impl From<SavedTotals> for Totals {
    fn from(saved: SavedTotals) -> Self {
        let worker = |(index, worker): (u32, SavedWorker)| {
            let SavedWorker { counters, migrated_out, drains } = worker;
            (index, WorkerTotals { counters: counters.into(), migrated_out, drains })
        };
        let workers = saved.workers.into_iter().map(worker).collect();
        Self { workers, held: saved.held.into(), strangers: saved.strangers }
    }
}
