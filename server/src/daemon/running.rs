//! A generation as it is for the daemon: its process, its readiness, and which flows can be its own.

use server_common::limits::BUCKETS;
use tokio::net::{TcpSocket, TcpStream};

use crate::{engine::event::Slot, workers::process::Process};

/// A generation that has been started and is not forgotten.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) slot: Slot,
    pub(super) process: Option<Process>,
    /// Whether the process has ended.
    pub(super) has_exited: bool,
    /// Whether it has said that it is ready, where it is to say so.
    pub(super) has_told: bool,
    /// How far its probe is, where it is ready by probe.
    pub(super) probe: ProbeState,
    /// Whether the engine has been told that it is ready.
    pub(super) is_ready: bool,
    /// The buckets that a table has named its slot for.
    pub(super) buckets: BucketSet,
    /// How many times in a row its listener was seen with connections and without a process to accept them.
    pub(super) unattended: u32,
}

impl Running {
    pub(super) fn new(slot: Slot) -> Self {
        Self {
            slot,
            process: None,
            has_exited: false,
            has_told: false,
            probe: ProbeState::None,
            is_ready: false,
            buckets: BucketSet::default(),
            unattended: 0,
        }
    }
}

/// How far the probe of a generation is.
#[derive(Debug, Default)]
pub(super) enum ProbeState {
    /// There is none, or it is over, or on its way.
    #[default]
    None,
    /// It has its port, and waits for the table that has its flow.
    Bound(TcpSocket),
    /// It is connected, and waits for the worker to accept it; dropping it closes it.
    Connected { _connection: TcpStream },
}

/// A set of buckets, as bits.
#[derive(Debug, Clone)]
pub(super) struct BucketSet(Box<[u64]>);

impl Default for BucketSet {
    fn default() -> Self {
        Self(vec![0; BUCKETS / 64].into())
    }
}

impl BucketSet {
    pub(super) fn insert(&mut self, bucket: usize) {
        self.0[bucket / 64] |= 1 << (bucket % 64);
    }

    pub(super) fn contains(&self, bucket: usize) -> bool {
        self.0[bucket / 64] >> (bucket % 64) & 1 == 1
    }
}
