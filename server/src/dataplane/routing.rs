//! Which slot each generation's listener is in, for connection IDs that name generations.

use server_common::quic::{GENERATIONS, Owner, Route};

use crate::engine::event::Slot;

use super::shared_array::SharedArray;

/// The routes' memory, which the program reads. It outlives the daemon where it is pinned.
pub(super) struct Routing(SharedArray<u64>);

/// Routes in a word of that memory: each is half of one.
const ROUTES_OF_WORD: usize = 2;
/// Words of one worker.
pub(super) const WORDS: usize = GENERATIONS / ROUTES_OF_WORD;

impl Routing {
    pub(super) fn new(words: SharedArray<u64>) -> Self {
        Self(words)
    }

    /// Has what names this owner go to a slot. A generation 16 numbers older, which drains still, loses its route to it.
    pub(super) fn add(&self, owner: Owner, slot: Slot) {
        self.replace(usize::from(owner.worker) * GENERATIONS + owner.way(), owner.route(slot));
    }

    /// Has nothing go to a slot any more.
    pub(super) fn remove(&self, slot: Slot) {
        let mut at = 0;
        while let Some(route) = self.read(at) {
            if route.slot() == slot {
                self.replace(at, Route::NONE);
            }
            at += 1;
        }
    }

    fn read(&self, at: usize) -> Option<Route> {
        self.0.read(at / ROUTES_OF_WORD).map(|word| Route((word >> shift(at)) as u32))
    }

    /// Nobody else writes, so reading and writing the whole word loses nothing.
    fn replace(&self, at: usize, route: Route) {
        if let Some(word) = self.0.read(at / ROUTES_OF_WORD) {
            let others = word & !(u64::from(u32::MAX) << shift(at));
            self.0.write(at / ROUTES_OF_WORD, others | u64::from(route.0) << shift(at));
        }
    }
}

fn shift(at: usize) -> usize {
    32 * (at % ROUTES_OF_WORD)
}
