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

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    const WORKERS: usize = 3;

    /// Memory that is no map's, with routes of three workers.
    fn routing() -> Routing {
        let memory = File::from(memfd_create("routes", MemfdFlags::CLOEXEC).unwrap());
        memory.set_len(4096).unwrap();
        Routing::new(SharedArray::map(memory.as_fd(), WORKERS * WORDS).unwrap())
    }

    /// Where what names an owner goes, read as the program does.
    fn slot(routing: &Routing, owner: Owner) -> Option<Slot> {
        routing.read(usize::from(owner.worker) * GENERATIONS + owner.way()).and_then(|route| route.to(owner))
    }

    #[test]
    fn each_generation_has_its_own_route_until_its_slot_is_given_back() {
        let routing = routing();
        let owners: Vec<Owner> = (0..WORKERS as u32)
            .flat_map(|worker| (1..=16).map(move |number| Owner::new(worker, number)))
            .collect();
        for (&owner, slot) in owners.iter().zip(1..) {
            routing.add(owner, slot);
        }
        for (&owner, expected) in owners.iter().zip(1..) {
            assert_eq!(slot(&routing, owner), Some(expected), "{owner:?}");
        }
        routing.remove(20);
        for (&owner, expected) in owners.iter().zip(1..) {
            assert_eq!(slot(&routing, owner), (expected != 20).then_some(expected), "{owner:?}");
        }
    }

    #[test]
    fn the_seventeenth_generation_takes_the_first_ones_place_and_the_first_ones_end_nothing_of_it() {
        let routing = routing();
        let (first, later) = (Owner::new(1, 5), Owner::new(1, 5 + GENERATIONS as u64));
        routing.add(first, 9);
        routing.add(later, 10);
        assert_eq!((slot(&routing, first), slot(&routing, later)), (None, Some(10)));
        routing.remove(9);
        assert_eq!(slot(&routing, later), Some(10));
    }

    #[test]
    fn who_there_is_no_room_for_has_no_route() {
        let routing = routing();
        let owner = Owner::new(WORKERS as u32, 1);
        routing.add(owner, 1);
        assert_eq!(slot(&routing, owner), None);
        routing.remove(1);
    }
}
