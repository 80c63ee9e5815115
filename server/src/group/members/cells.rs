//! Puts the workers' cells where the programs read them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    daemon::describe::describe,
    dataplane::cells::{Cells, WorkerCell},
    engine::event::Slot,
    threads::Pool,
};

type Change = (Slot, Option<Arc<WorkerCell>>);

/// Changes one group's cells in the order in which it is asked to, and without making anybody wait: each change ends with an RCU
/// grace period. Until then the program takes a worker for one that says nothing, and the daemon reads the cell in its place.
#[derive(Debug)]
pub(super) struct CellPublisher {
    cells: Arc<Vec<Arc<Mutex<Cells>>>>,
    /// Those that wait, and whether a job sees to them: one at a time, or they would overtake each other.
    waiting: Arc<Mutex<(VecDeque<Change>, bool)>>,
    publishing: Pool,
}

impl CellPublisher {
    /// For these kernel groups.
    pub(super) fn new(cells: Vec<Arc<Mutex<Cells>>>, publishing: Pool) -> Self {
        Self { cells: Arc::new(cells), waiting: Arc::default(), publishing }
    }

    /// Has a slot's worker be known by its cell, or by none.
    pub(super) fn put(&self, slot: Slot, cell: Option<Arc<WorkerCell>>) {
        let mut waiting = lock(&self.waiting);
        waiting.0.push_back((slot, cell));
        if !waiting.1 {
            let (cells, rest) = (self.cells.clone(), self.waiting.clone());
            // Where there is no room for the job now, the next change sees to this one as well.
            waiting.1 = self.publishing.submit(move || put_all(&cells, &rest)).is_ok();
        }
    }
}

fn put_all(cells: &[Arc<Mutex<Cells>>], waiting: &Mutex<(VecDeque<Change>, bool)>) {
    loop {
        let mut queue = lock(waiting);
        let Some((slot, cell)) = queue.0.pop_front() else {
            queue.1 = false;
            return;
        };
        drop(queue);
        let mut is_known = true;
        for one in cells {
            if let Err(error) = lock(one).put(slot, cell.as_deref()) {
                is_known = false;
                tracing::warn!("a worker's load does not count: {}", describe(&error));
            }
        }
        if let Some(cell) = cell.filter(|_| is_known) {
            cell.set_known();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
