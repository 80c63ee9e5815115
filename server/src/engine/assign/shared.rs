//! One assignment for all groups of the same members, which otherwise would have a quarter of a megabyte each.
//!
//! It cannot change what comes out: [`assign`] is a function of the members alone, and they are compared whole. Nothing is known
//! here that no group has: who asks alone works it out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Member, assign};

/// Assignments that groups have, and for which members.
type Known = Vec<(Vec<Member>, Weak<[u32]>)>;

static KNOWN: Mutex<Known> = Mutex::new(Vec::new());

/// What [`assign`] says, in memory that all have who ask for the same.
pub(in crate::engine) fn assigned(members: &[Member]) -> Arc<[u32]> {
    if let Some(owners) = find(&known(), members) {
        return owners;
    }
    // Nobody waits for it who asks for another.
    let owners: Arc<[u32]> = assign(members).into();
    let mut known = known();
    find(&known, members).unwrap_or_else(|| {
        known.retain(|(_, owners)| owners.strong_count() > 0);
        known.push((members.to_vec(), Arc::downgrade(&owners)));
        owners
    })
}

fn find(known: &Known, members: &[Member]) -> Option<Arc<[u32]>> {
    known.iter().filter(|(of, _)| of == members).find_map(|(_, owners)| owners.upgrade())
}

fn known() -> MutexGuard<'static, Known> {
    // Each entry is right by itself, whoever panicked.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    /// Members that no other test asks for.
    fn members(count: u32) -> Vec<Member> {
        (0..count).map(|index| Member { index: 7_000_000 + index, weight: 1_000 + index }).collect()
    }

    #[test]
    fn the_same_is_shared_and_is_what_would_be_worked_out() {
        let [two, three] = [2, 3].map(members);
        let [first, second, other] = [&two, &two, &three].map(|members| assigned(members));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
        assert_eq!((&*first, &*other), (&*assign(&two), &*assign(&three)));
        let mut reversed = two.clone();
        reversed.reverse();
        assert_eq!(assigned(&reversed), first, "their order changes nothing");
    }

    #[test]
    fn what_nobody_has_any_more_is_let_go() {
        let four = members(4);
        let gone = Arc::downgrade(&assigned(&four));
        assert_eq!(gone.strong_count(), 0);
        let _other = assigned(&members(5));
        assert!(!known().iter().any(|(of, _)| *of == four));
        assert_eq!(*assigned(&four), *assign(&four));
    }

    #[test]
    fn who_asks_at_once_gets_one() {
        const ASKING: usize = 8;
        let (six, all) = (members(6), Barrier::new(ASKING));
        let got: Vec<Arc<[u32]>> = thread::scope(|scope| {
            let asked = [(); ASKING].map(|()| scope.spawn(|| (all.wait(), assigned(&six)).1));
            asked.map(|asked| asked.join().unwrap()).into()
        });
        assert!(got.iter().all(|owners| Arc::ptr_eq(owners, &got[0])));
    }
}
