//! What an instance holds while nothing is under way.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use steer_tests::{
    footprint::{Footprint, bpf_numbers, threads},
    process,
    steer::Steer,
    wait,
};

/// A thread that has done what blocks ends when it had nothing to do for 10 s (the runtime's `thread_keep_alive`).
const THREADS_IDLE: Duration = Duration::from_secs(11);
const SOON: Duration = Duration::from_secs(60);

/// How a measure is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    /// The same in every sample.
    Exactly,
    /// The same in the first and the last sample, for which what comes and goes by itself is waited for.
    AtBothEnds,
    /// No more than so much above what it was, in KiB, by medians.
    Growth(u64),
}

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) judged: Judged,
}

/// The daemon remembers 4,096 events, each twice and of up to 300 bytes or so; on the way there it grows.
const DAEMON_GROWTH: u64 = 4_096;
/// It keeps descriptors.
const KEEPER_GROWTH: u64 = 256;

/// All of them, in the order of [`Sample::values`].
pub(crate) const MEASURES: [Measure; 12] = {
    use Judged::{AtBothEnds, Exactly, Growth};
    const fn of(name: &'static str, judged: Judged) -> Measure {
        Measure { name, judged }
    }
    [
        of("daemon: descriptors", Exactly),
        of("daemon: BPF maps", Exactly),
        of("daemon: BPF programs", Exactly),
        of("daemon: threads", AtBothEnds),
        of("daemon: memory", Growth(DAEMON_GROWTH)),
        of("keeper: descriptors", Exactly),
        of("keeper: threads", Exactly),
        of("keeper: memory", Growth(KEEPER_GROWTH)),
        of("processes", Exactly),
        of("workers: BPF maps", Exactly),
        of("listeners", Exactly),
        of("files and pins", Exactly),
    ]
};

/// What was found at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Whether threads without work had ended.
    pub(crate) is_at_an_end: bool,
    pub(crate) values: [u64; MEASURES.len()],
}

impl Sample {
    /// Of an instance that does nothing but serve; at an end, once threads without work have ended.
    pub(crate) fn take(steer: &Steer<'_>, is_at_an_end: bool) -> Self {
        if is_at_an_end {
            until_threads_rest(steer.pid());
        }
        let processes = steer.processes();
        let keepers = steer.keepers();
        let &[keeper] = &keepers[..] else {
            panic!("{} keepers: {}", keepers.len(), process::describe(&processes))
        };
        let (daemon, kept) = (Footprint::settled(steer.pid()), Footprint::settled(keeper));
        let workers = processes.iter().filter(|pid| ![steer.pid(), keeper].contains(pid));
        let worker_maps: usize = workers.map(|pid| bpf_numbers(*pid, "map_id:").len()).sum();
        let pins = steer.pins().map(files).unwrap_or_default();
        let values = [
            daemon.descriptors as u64,
            daemon.maps as u64,
            daemon.programs as u64,
            threads(steer.pid()) as u64,
            daemon.resident,
            kept.descriptors as u64,
            threads(keeper) as u64,
            kept.resident,
            processes.len() as u64,
            worker_maps as u64,
            listeners(),
            pins + files(&steer.path("")),
        ];
        Self { is_at_an_end, values }
    }
}

/// Waits until no thread has come or gone for as long as one may do nothing.
fn until_threads_rest(pid: u32) {
    let (mut last, mut since) = (threads(pid), Instant::now());
    wait::until("threads without work end", SOON, || {
        let now = threads(pid);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() >= THREADS_IDLE { Ok(()) } else { Err(format!("{now} threads")) }
    });
}

/// Files in a directory and below.
fn files(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files(&entry.path()),
        _ => 1,
    };
    entries.map(count).sum()
}

/// Listening sockets of the calling thread's network namespace.
fn listeners() -> u64 {
    const LISTEN: &str = "0A";
    let of = |family: &str| {
        // Of the thread: the process's other threads are in other namespaces.
        let path = format!("/proc/thread-self/net/{family}");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {path}: {error}"));
        text.lines().filter(|line| line.split_whitespace().nth(3) == Some(LISTEN)).count() as u64
    };
    of("tcp") + of("tcp6")
}
