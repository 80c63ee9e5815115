//! All processes at one look, and the trees of workers among them.
//!
//! A snapshot: a process can end, or fork, between two looks.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use server_common::looks::ProcessRecord;

use super::procfs;

/// Lists the processes of the host; nothing where it cannot.
pub type List = Box<dyn Fn() -> Option<Vec<ProcessRecord>> + Send + Sync>;

/// What lists them in place of `/proc`, which costs a read for each: one list for the whole process, like `/proc` itself.
static LIST: OnceLock<List> = OnceLock::new();

/// The last look that somebody else can make do with, and when it began.
static LAST: Mutex<Option<(Instant, Arc<Processes>)>> = Mutex::new(None);

/// Has all later looks taken this way; `/proc` tells where it fails. The first to say so is obeyed.
pub fn list_by(list: List) {
    let _ = LIST.set(list);
}

/// All processes that this one can see, as they were at one look: for the trees of many workers.
#[derive(Debug, Clone, Default)]
pub struct Processes {
    alive: HashSet<u32>,
    children: HashMap<u32, Vec<u32>>,
    sessions: HashMap<u32, Vec<u32>>,
}

impl Processes {
    /// Looks.
    pub fn now() -> Self {
        let listed = LIST.get().and_then(|list| list());
        Self::of(listed.unwrap_or_else(|| procfs::pids().into_iter().filter_map(record).collect()))
    }

    /// A look that began at this time or later: it shows what was there after an event. The last look is returned if it is new enough,
    /// so that many processes that end at once share one. Blocks as a look does.
    pub fn since(time: Instant) -> Arc<Self> {
        // A stored look is whole even if a thread panicked. The lock is held during a look: other callers wait and share it.
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((began, look)) = &*last
            && *began >= time
        {
            return look.clone();
        }
        let began = Instant::now();
        let look = Arc::new(Self::now());
        *last = Some((began, look.clone()));
        look
    }

    /// From records of all processes.
    pub(super) fn of(all: impl IntoIterator<Item = ProcessRecord>) -> Self {
        let mut processes = Self::default();
        for ProcessRecord { pid, parent, session, exit_state } in all {
            processes.children.entry(parent).or_default().push(pid);
            processes.sessions.entry(session).or_default().push(pid);
            if exit_state == 0 {
                processes.alive.insert(pid);
            }
        }
        processes
    }

    /// Every living process whose session is the leader's or that descends from it, itself included, by pid.
    ///
    /// A process that has left the session and whose parents have ended belongs to nobody any more and is missed.
    /// The caller makes sure that the number still is the leader's, see [`procfs::start_time`].
    pub fn tree(&self, leader: u32) -> Vec<u32> {
        let mut found = HashSet::new();
        let mut unseen = vec![leader];
        unseen.extend(self.sessions.get(&leader).into_iter().flatten());
        while let Some(pid) = unseen.pop() {
            if found.insert(pid) {
                unseen.extend(self.children.get(&pid).into_iter().flatten());
            }
        }
        let mut tree: Vec<u32> = found.into_iter().filter(|pid| self.alive.contains(pid)).collect();
        tree.sort_unstable();
        tree
    }

    /// Whether a process was there and alive.
    #[cfg(any(test, fuzzing))]
    pub(super) fn lives(&self, pid: u32) -> bool {
        self.alive.contains(&pid)
    }
}

/// What `/proc` says of a process; nothing where there is none.
fn record(pid: u32) -> Option<ProcessRecord> {
    procfs::stat(pid).map(|stat| stat.record())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, session: u32, exit_state: u32) -> ProcessRecord {
        ProcessRecord { pid, parent, session, exit_state }
    }

    #[test]
    fn a_look_serves_those_who_asked_for_it_before_it_began_and_no_others() {
        let before = Instant::now();
        let (first, second) = (Processes::since(before), Processes::since(before));
        // Another test may have looked in between, and later.
        assert!(first.lives(std::process::id()) && second.lives(std::process::id()));
        let child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let (pid, started) = (child.id(), Instant::now());
        let _killed = Killed(child);
        assert!(Processes::since(started).lives(pid), "it began before {pid} was there");
    }

    /// Killed, whatever becomes of the test.
    struct Killed(std::process::Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_tree_is_the_session_and_the_descendants() {
        let all = [
            process(1, 0, 1, 0),
            process(10, 1, 10, 0),     // the leader
            process(11, 10, 10, 0),    // its child
            process(12, 11, 12, 0),    // a grandchild with a session of its own
            process(13, 1, 10, 0),     // an orphan of the session
            process(14, 10, 10, 0x20), // dead
            process(20, 1, 20, 0),     // somebody else
        ];
        let tree = |leader, all: &[ProcessRecord]| Processes::of(all.to_vec()).tree(leader);
        assert_eq!(tree(10, &all), [10, 11, 12, 13]);
        assert_eq!(tree(10, &all[2..]), [11, 12, 13], "the leader has ended");
        assert_eq!(tree(99, &all), [] as [u32; 0]);
    }

    #[test]
    fn this_process_is_seen() {
        let pid = std::process::id();
        assert!(Processes::now().tree(pid).contains(&pid));
    }
}
