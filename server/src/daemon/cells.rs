//! Puts the workers' cells where the programs read them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    dataplane::{
        cells::{Cells, WorkerCell},
        error::DataplaneError,
    },
    engine::event::Slot,
};

use super::describe::describe;

/// Changes one group's cells in the order in which it is asked to, and without making anybody wait: each change ends with an RCU
/// grace period. Until then the program takes a worker for one that says nothing, and the daemon reads the cell in its place.
#[derive(Debug)]
pub(super) struct CellKeeper {
    changes: mpsc::UnboundedSender<(Slot, Option<Arc<WorkerCell>>)>,
}

impl CellKeeper {
    /// For these kernel groups. It ends when it is dropped.
    pub(super) fn new(cells: Vec<Arc<Mutex<Cells>>>) -> Self {
        let (sender, mut changes) = mpsc::unbounded_channel::<(Slot, Option<Arc<WorkerCell>>)>();
        tokio::spawn(async move {
            while let Some((slot, cell)) = changes.recv().await {
                let mut running = JoinSet::new();
                for cells in &cells {
                    let (cells, cell) = (cells.clone(), cell.clone());
                    running.spawn_blocking(move || put(&cells, slot, cell.as_deref()));
                }
                let mut is_known = true;
                while let Some(ended) = running.join_next().await {
                    is_known &= matches!(ended, Ok(Ok(())));
                    if let Ok(Err(error)) = ended {
                        tracing::warn!("a worker's load does not count: {}", describe(&error));
                    }
                }
                if let Some(cell) = cell.filter(|_| is_known) {
                    cell.set_known();
                }
            }
        });
        Self { changes: sender }
    }

    /// Has a slot's worker be known by its cell, or by none.
    pub(super) fn put(&self, slot: Slot, cell: Option<Arc<WorkerCell>>) {
        // The task is gone only where the daemon ends.
        let _ = self.changes.send((slot, cell));
    }
}

fn put(cells: &Mutex<Cells>, slot: Slot, cell: Option<&WorkerCell>) -> Result<(), DataplaneError> {
    cells.lock().unwrap_or_else(PoisonError::into_inner).put(slot, cell)
}
