//! Which worker a listener that comes is. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// A worker, as far as it is known which listeners it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The addresses, by their place in the group's list, at which it has a listener.
    pub(super) addresses: BTreeSet<usize>,
    /// The processes that take from these.
    pub(super) pids: BTreeSet<u32>,
}

/// The worker, by index, whose listener at this address one is that these processes take from; nothing where each has one there.
///
/// First of all a worker of the same processes, which has none at this address yet: a server's process mostly has one listener at each
/// address. Then the first worker that has none at all: a listener that comes as another goes takes its place. Where nothing is known of the
/// processes, the first that has none at this address.
pub(super) fn place(workers: &BTreeMap<u32, Place>, address: usize, pids: &BTreeSet<u32>) -> Option<u32> {
    let lacking = || workers.iter().filter(|(_, place)| !place.addresses.contains(&address));
    let of_same = lacking().find(|(_, place)| !place.pids.is_disjoint(pids));
    let vacant = || lacking().find(|(_, place)| place.addresses.is_empty());
    let any = || lacking().next().filter(|(_, place)| pids.is_empty() || place.pids.is_empty());
    of_same.or_else(vacant).or_else(any).map(|(&index, _)| index)
}

/// A worker that there is not yet, by index.
pub(super) fn new_place(workers: &BTreeMap<u32, Place>) -> u32 {
    (0..).find(|index| !workers.contains_key(index)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(addresses: &[usize], pids: &[u32]) -> Place {
        Place { addresses: addresses.iter().copied().collect(), pids: pids.iter().copied().collect() }
    }

    fn placed(workers: &[(u32, Place)], address: usize, pids: &[u32]) -> u32 {
        let workers = workers.iter().cloned().collect();
        let found = place(&workers, address, &pids.iter().copied().collect());
        found.unwrap_or_else(|| new_place(&workers))
    }

    #[test]
    fn listeners_of_one_process_are_one_worker() {
        let workers = [(0, worker(&[0], &[7])), (1, worker(&[0], &[8])), (2, worker(&[0], &[9]))];
        assert_eq!([9, 7, 8].map(|pid| placed(&workers, 1, &[pid])), [2, 0, 1]);
        assert_eq!(placed(&workers, 0, &[9]), 3, "it has one there already");
        assert_eq!(placed(&workers, 1, &[7, 8, 9]), 0, "one that all of them share is one worker's");
    }

    #[test]
    fn one_that_comes_as_another_goes_takes_its_place() {
        let workers = [(0, worker(&[0, 1], &[7])), (1, worker(&[], &[])), (4, worker(&[0], &[9]))];
        assert_eq!(placed(&workers, 0, &[10]), 1);
        assert_eq!(placed(&workers[..1], 0, &[10]), 1);
        assert_eq!(placed(&[], 0, &[10]), 0);
        let apart = [(0, worker(&[0], &[7])), (2, worker(&[0], &[8]))];
        assert_eq!(placed(&apart, 0, &[9]), 1, "the first index that is free");
    }

    #[test]
    fn where_nothing_is_known_of_the_processes_listeners_pair_in_their_order() {
        let workers = [(0, worker(&[0, 1], &[])), (1, worker(&[0], &[]))];
        assert_eq!(placed(&workers, 1, &[]), 1);
        assert_eq!(placed(&workers, 1, &[5]), 1);
        assert_eq!(placed(&[(0, worker(&[0], &[7]))], 1, &[8]), 1, "another process is another worker");
    }
}
