//! What a process holds: what must not grow, however long it goes on.

use std::{collections::BTreeSet, fs, time::Duration};

use crate::wait;

/// How many looks in a row must agree: what is let go of by another thread is gone by then, and what is about to go changes them.
const LOOKS: u32 = 20;
const SOON: Duration = Duration::from_secs(30);

/// What a process holds at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors.
    pub descriptors: usize,
    /// BPF maps that it has descriptors of.
    pub maps: usize,
    /// BPF programs that it has descriptors of.
    pub programs: usize,
    /// Resident memory, in KiB.
    pub resident: u64,
}

impl Footprint {
    /// Of a process that does nothing, once its counts stay as they are.
    #[track_caller]
    pub fn settled(pid: u32) -> Self {
        let (mut last, mut agreed) = (Self::of(pid), 0);
        wait::until("the process lets go of nothing more", SOON, || {
            let now = Self::of(pid);
            agreed = if now.counts() == last.counts() { agreed + 1 } else { 0 };
            last = now;
            if agreed == LOOKS { Ok(last.clone()) } else { Err(format!("{last:?}")) }
        })
    }

    /// Of a process that runs.
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let process = format!("/proc/{pid}");
        // The counter in `status` is behind by what each CPU has not added yet.
        let memory = fs::read_to_string(format!("{process}/smaps_rollup")).expect("memory can be looked at");
        let resident = memory.lines().find_map(|line| line.strip_prefix("Rss:"));
        let resident = resident.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok());
        Self {
            descriptors: fs::read_dir(format!("{process}/fd")).expect("descriptors can be listed").count(),
            maps: bpf_numbers(pid, "map_id:").len(),
            programs: bpf_numbers(pid, "prog_id:").len(),
            resident: resident.expect("a process has memory"),
        }
    }

    /// The counts, without the memory.
    pub fn counts(&self) -> [usize; 3] {
        [self.descriptors, self.maps, self.programs]
    }
}

/// How many threads a process has.
#[track_caller]
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("a process's threads can be listed").count()
}

/// The numbers that the kernel has given to the maps (`map_id:`) or programs (`prog_id:`) that a process has descriptors of.
#[track_caller]
pub fn bpf_numbers(pid: u32, what: &str) -> BTreeSet<u32> {
    let all = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a process's descriptors can be listed");
    // One that was closed meanwhile has no text any more.
    let text = |entry: fs::DirEntry| fs::read_to_string(entry.path()).ok();
    let number = |text: String| text.lines().find_map(|line| line.strip_prefix(what)?.trim().parse().ok());
    all.filter_map(|entry| text(entry.ok()?)).filter_map(number).collect()
}
