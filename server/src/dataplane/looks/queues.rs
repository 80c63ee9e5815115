//! The watched sockets, their queue cells, and the iterator that fills the cells.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::{Map, MapData, MapError, SkStorage};
use server_common::looks::{CellKey, QueueCell, WATCHED_MAX};

use super::{
    error::LooksError,
    iterator::{Link, Over, read_to_end},
    look::Look,
    object::{Object, names, share},
};
use crate::dataplane::shared_array::SharedArray;

/// The number of cells mapped at first: 8 pages. The kernel counts a whole mapping as resident, used or not.
const CELLS_FIRST: usize = 1024;

/// The maps and the link of the `listeners` program.
pub(super) struct Queues {
    watched: SkStorage<MapData, CellKey>,
    array: Map,
    /// The first `mapped` cells of the array.
    cells: SharedArray<QueueCell>,
    mapped: usize,
    look: SharedArray<u64>,
    link: Link,
    /// The number of the last look.
    number: u64,
}

impl Queues {
    /// Links the program to the watched sockets.
    pub(super) fn new(object: &mut Object) -> Result<Self, LooksError> {
        let program = object.listeners()?;
        let map = object.take(names::WATCHED)?;
        let watched = match map {
            Map::SkStorage(ref data) => Link::create(program.as_fd(), Over::Map(data.fd().as_fd())),
            _ => return Err(LooksError::Missing { kind: "socket storage", name: names::WATCHED }),
        };
        let link = watched.map_err(error("link"))?;
        let array = object.take(names::QUEUES)?;
        Ok(Self {
            watched: SkStorage::try_from(map).map_err(map_error("open", names::WATCHED))?,
            cells: share(&array, names::QUEUES, CELLS_FIRST)?,
            mapped: CELLS_FIRST,
            array,
            look: share(&object.take(names::LOOK)?, names::LOOK, 1)?,
            link,
            number: 0,
        })
    }

    /// The number of the last look.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The key stored with a socket. Its handles may be gone.
    pub(super) fn key_of(&self, socket: BorrowedFd<'_>) -> Result<Option<CellKey>, LooksError> {
        match self.watched.get(&socket, 0) {
            Ok(key) => Ok(Some(key)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(map_error("ask for a socket in", names::WATCHED)(source)),
        }
    }

    /// Stores a key with a socket, in place of an earlier one.
    pub(super) fn put(&mut self, socket: BorrowedFd<'_>, key: CellKey) -> Result<(), LooksError> {
        let index = key.index as usize;
        if index >= self.mapped {
            let wanted = (2 * self.mapped).max(index + 1).min(WATCHED_MAX as usize);
            self.cells = share(&self.array, names::QUEUES, wanted)?;
            self.mapped = wanted;
        }
        // Before the socket is visited: the program writes only if the generations agree.
        self.cells.write(index, QueueCell { generation: key.generation, ..QueueCell::default() });
        self.watched.insert(&socket, key, 0).map_err(map_error("put a socket into", names::WATCHED))
    }

    /// Runs the iterator, and copies the first `reach` cells.
    pub(super) fn look(&mut self, reach: usize, look: &mut Look) -> Result<(), LooksError> {
        self.number += 1;
        self.look.write(0, self.number);
        let iteration = self.link.open().map_err(error("open"))?;
        // The program writes no output, but the kernel wants a buffer.
        read_to_end(&iteration, &mut [0; 64], |_| ()).map_err(error("read"))?;
        look.number = self.number;
        look.cells.clear();
        look.cells.extend((0..reach).map_while(|index| self.cells.read(index)));
        Ok(())
    }
}

fn error(operation: &'static str) -> impl Fn(std::io::Error) -> LooksError {
    move |source| LooksError::Iterator { operation, program: names::LISTENERS, source }
}

fn map_error(operation: &'static str, map: &'static str) -> impl Fn(MapError) -> LooksError {
    move |source| LooksError::Map { operation, map, source }
}
