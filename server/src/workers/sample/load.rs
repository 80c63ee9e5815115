//! The sample worker's load and beat, published where STEER_LOAD_FD says.

use std::{
    convert::Infallible,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    time::Duration,
};

use anyhow::Context as _;
use server_common::load::Cell;
use tokio::{sync::mpsc::WeakSender, time::MissedTickBehavior};

use crate::dataplane::{cells::monotonic_nanoseconds, shared_array::SharedArray};

/// Often enough that two beats can be missed before one is.
const BEAT: Duration = Duration::from_millis(10);

/// The memory that STEER_LOAD_FD names; nothing where it is not set. To be called once in a process.
pub(super) fn take() -> anyhow::Result<Option<SharedArray<Cell>>> {
    let Ok(number) = std::env::var("STEER_LOAD_FD") else { return Ok(None) };
    let number = number.parse().with_context(|| format!("STEER_LOAD_FD is no descriptor: {number:?}"))?;
    // SAFETY: it was passed to this process for this, and nothing else here takes it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // The mapping goes on without the descriptor.
    SharedArray::map(descriptor.as_fd(), 1).map(Some).context("cannot share the memory of STEER_LOAD_FD")
}

/// Publishes until the runtime ends. The load is the number of connections: each has a sender, and so has each of
/// `others`. In the loop that serves them, so that it stops when that does.
pub(super) async fn publish(memory: SharedArray<Cell>, open: WeakSender<Infallible>, others: usize) {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let load = open.strong_count().saturating_sub(others) as u64;
        memory.write(0, Cell::new(monotonic_nanoseconds(), load));
    }
}
