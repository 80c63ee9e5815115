//! Allocation of cells. Pure: no I/O.

use std::{cmp::Reverse, collections::BinaryHeap};

use server_common::looks::CellKey;

/// The allocated cells. The lowest free index is taken first, which keeps the copy of a look short.
#[derive(Debug)]
pub(super) struct Indices {
    max: u32,
    /// By index, up to the highest index that was ever in use. A cell without handles is free.
    cells: Vec<Cell>,
    free: BinaryHeap<Reverse<u32>>,
    generation: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    generation: u32,
    handles: u32,
}

impl Indices {
    /// All cells are free. Generations continue from `generation`.
    pub(super) fn new(max: u32, generation: u32) -> Self {
        Self { max, cells: Vec::new(), free: BinaryHeap::new(), generation }
    }

    /// Takes a cell, with one handle; `None` if none is free.
    pub(super) fn take(&mut self) -> Option<CellKey> {
        let index = match self.free.pop() {
            Some(Reverse(index)) => index,
            None => {
                let index = u32::try_from(self.cells.len()).ok().filter(|index| *index < self.max)?;
                self.cells.push(Cell::default());
                index
            }
        };
        self.generation = self.generation.wrapping_add(1).max(1);
        let generation = self.generation;
        *self.cells.get_mut(index as usize)? = Cell { generation, handles: 1 };
        Some(CellKey { index, generation })
    }

    /// Adds a handle to a cell in use; returns false if the key is not.
    pub(super) fn share(&mut self, key: CellKey) -> bool {
        self.held(key).map(|cell| cell.handles += 1).is_some()
    }

    /// Removes a handle; the cell is free with its last one.
    pub(super) fn give_back(&mut self, key: CellKey) {
        let Some(cell) = self.held(key) else { return };
        cell.handles -= 1;
        if cell.handles == 0 {
            self.free.push(Reverse(key.index));
        }
    }

    /// The number of cells from the first to the highest that was ever in use.
    pub(super) fn reach(&self) -> usize {
        self.cells.len()
    }

    fn held(&mut self, key: CellKey) -> Option<&mut Cell> {
        let cell = self.cells.get_mut(key.index as usize)?;
        (cell.handles > 0 && cell.generation == key.generation).then_some(cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32, generation: u32) -> CellKey {
        CellKey { index, generation }
    }

    #[test]
    fn the_lowest_free_index_is_given_with_a_generation_of_its_own() {
        let mut indices = Indices::new(3, 0);
        let taken: Vec<_> = std::iter::from_fn(|| indices.take()).collect();
        assert_eq!(taken, [key(0, 1), key(1, 2), key(2, 3)]);
        for index in [2, 0] {
            indices.give_back(taken[index]);
        }
        assert_eq!(
            (indices.take(), indices.take(), indices.take()),
            (Some(key(0, 4)), Some(key(2, 5)), None)
        );
        assert_eq!(indices.reach(), 3);
    }

    #[test]
    fn a_cell_is_free_with_its_last_handle_and_a_key_from_before_frees_nothing() {
        let mut indices = Indices::new(2, 7);
        let first = indices.take().unwrap();
        assert!(indices.share(first));
        indices.give_back(first);
        assert!(indices.share(first), "one handle is left");
        indices.give_back(first);
        indices.give_back(first);
        assert!(!indices.share(first));
        let second = indices.take().unwrap();
        assert_eq!((first, second), (key(0, 8), key(0, 9)));
        indices.give_back(first);
        assert!(indices.share(second), "it was another's");
    }

    #[test]
    fn no_generation_is_0() {
        let mut indices = Indices::new(2, u32::MAX);
        assert_eq!(indices.take(), Some(key(0, 1)));
    }
}
