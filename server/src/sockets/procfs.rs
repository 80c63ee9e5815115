//! What `/proc` says of processes: who descends from whom, who holds which socket.
//!
//! Everything here is a snapshot: a process can end, or fork, between two reads. What has gone is left out, never
//! an error. Processes of other users show no descriptors without CAP_SYS_PTRACE.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::RawFd,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// The part of `/proc/PID/stat` that is used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The process.
    pub pid: u32,
    /// Its command's name, at most 15 bytes; may hold blanks and parentheses.
    pub command: String,
    /// `R`, `S`, `Z` and so on.
    pub state: char,
    /// Its parent, 0 where that is in another pid namespace.
    pub parent: u32,
    /// Its session: the pid of the session's leader, which may have ended.
    pub session: u32,
    /// When it started, in clock ticks since boot. With the pid it names one process for ever.
    pub start_time: u64,
    /// How it ended, as `wait(2)` has it, once it is dead; only whoever may trace it is told.
    pub status: i32,
}

impl Stat {
    /// Whether it is dead already and only waits to be reaped.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Reads the text of `/proc/PID/stat`; nothing where it is malformed.
pub fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(" (")?;
    // The name is whatever the process set: only the last parenthesis is certain to be the kernel's.
    let (command, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        pid: pid.parse().ok()?,
        command: command.to_owned(),
        state: fields.first()?.chars().next().filter(char::is_ascii_alphabetic)?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
        status: fields.get(49).and_then(|status| status.parse().ok()).unwrap_or_default(),
    })
}

/// What the kernel says of one process; nothing where there is none.
pub fn stat(pid: u32) -> Option<Stat> {
    // Names are bytes of the process's own choice, so not always UTF-8.
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&bytes))
}

/// When the process started, in clock ticks since boot; nothing where there is none.
pub fn start_time(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.start_time)
}

/// The effective user of a process, also of one that has ended and is not reaped yet; nothing where there is none.
pub fn user_of(pid: u32) -> Option<u32> {
    let bytes = fs::read(format!("/proc/{pid}/status")).ok()?;
    parse_user(&String::from_utf8_lossy(&bytes))
}

fn parse_user(text: &str) -> Option<u32> {
    // Real, effective, saved, of the file system.
    text.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The pids of all processes that this one can see.
fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Every living process whose session is the leader's or that descends from it, itself included, by pid.
///
/// A process that has left the session and whose parents have ended belongs to nobody any more and is missed.
/// The caller makes sure that the number still is the leader's, see [`start_time`].
pub fn process_tree(leader: u32) -> Vec<u32> {
    Processes::now().tree(leader)
}

/// All processes that this one can see, as they were at one look: for the trees of many workers. A look reads a file for
/// each process of the host.
#[derive(Debug, Clone, Default)]
pub struct Processes {
    by_pid: HashMap<u32, Stat>,
    children: HashMap<u32, Vec<u32>>,
    sessions: HashMap<u32, Vec<u32>>,
}

/// The last look that somebody else can make do with, and when it began.
static LAST: Mutex<Option<(Instant, Arc<Processes>)>> = Mutex::new(None);

impl Processes {
    /// Looks.
    pub fn now() -> Self {
        Self::of(pids().into_iter().filter_map(stat))
    }

    /// A look that has begun at this time or later, for whoever has to see what was there after something had happened. Where the last
    /// one did, that is it: of many processes that end at once not each takes a look of its own. It can block, as a look does.
    pub fn since(time: Instant) -> Arc<Self> {
        // A look is whole, whoever panicked; and who comes while one is taken waits for it.
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

    fn of(all: impl IntoIterator<Item = Stat>) -> Self {
        let mut processes = Self::default();
        for process in all {
            processes.children.entry(process.parent).or_default().push(process.pid);
            processes.sessions.entry(process.session).or_default().push(process.pid);
            processes.by_pid.insert(process.pid, process);
        }
        processes
    }

    /// [`process_tree`] at that look.
    pub fn tree(&self, leader: u32) -> Vec<u32> {
        let mut found = HashSet::new();
        let mut unseen = vec![leader];
        unseen.extend(self.sessions.get(&leader).into_iter().flatten());
        while let Some(pid) = unseen.pop() {
            if found.insert(pid) {
                unseen.extend(self.children.get(&pid).into_iter().flatten());
            }
        }
        let lives = |pid: &u32| self.by_pid.get(pid).is_some_and(|process| !process.is_dead());
        let mut tree: Vec<u32> = found.into_iter().filter(lives).collect();
        tree.sort_unstable();
        tree
    }
}

/// The process, its session, its parents and their sessions: the leader of a worker that the process belongs to
/// is among them. Empty where there is no such process.
pub fn lineage(pid: u32) -> Vec<u32> {
    // A bound, since parents can change under the walk; far beyond what a supervisor nests.
    const GENERATIONS_MAX: usize = 64;
    let mut lineage = Vec::new();
    let mut next = pid;
    for _ in 0..GENERATIONS_MAX {
        // Process 1 is everybody's ancestor and says nothing about whose process this is.
        let Some(process) = (next > 1).then(|| stat(next)).flatten() else { break };
        lineage.push(process.pid);
        // 0: in another pid namespace.
        if process.session != 0 && !lineage.contains(&process.session) {
            lineage.push(process.session);
        }
        next = process.parent;
    }
    lineage
}

/// The sockets that one process holds: descriptor and inode of each.
pub fn sockets_of(pid: u32) -> Vec<(RawFd, u64)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let socket = |entry: fs::DirEntry| {
        let descriptor = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((descriptor, parse_socket_link(target.to_str()?)?))
    };
    entries.flatten().filter_map(socket).collect()
}

fn parse_socket_link(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Fails where there is no room for the descriptors that a look takes, at a directory and at a file of it. The looks here then find
/// nothing, and whoever draws conclusions from that has to ask this first.
pub fn require_room() -> io::Result<()> {
    let _directory = fs::File::open("/proc/self/fd")?;
    fs::File::open("/proc/self/stat").map(drop)
}

/// The inodes of all sockets that any of the processes holds. One `readlink` for each of their descriptors: for
/// ten thousand connections a matter of 10 ms.
pub fn socket_inodes_of(pids: &[u32]) -> HashSet<u64> {
    pids.iter().flat_map(|&pid| sockets_of(pid)).map(|(_, inode)| inode).collect()
}

/// The processes that hold the socket with this inode, by pid; only those whose descriptors can be read.
///
/// Looks through every process: for error messages and for adoption, not for anything periodic.
pub fn who_holds(inode: u64) -> Vec<u32> {
    let mut holders = pids();
    holders.retain(|&pid| sockets_of(pid).iter().any(|&(_, held)| held == inode));
    holders.sort_unstable();
    holders
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd};

    use super::*;

    fn process(pid: u32, parent: u32, session: u32, state: char) -> Stat {
        Stat { pid, command: "x".to_owned(), state, parent, session, start_time: 1, status: 0 }
    }

    #[test]
    fn a_look_serves_those_who_asked_for_it_before_it_began_and_no_others() {
        let before = Instant::now();
        let (first, second) = (Processes::since(before), Processes::since(before));
        // Another test may have looked in between, and later.
        assert!(
            first.by_pid.contains_key(&std::process::id()) && second.by_pid.contains_key(&std::process::id())
        );
        let child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let (pid, started) = (child.id(), Instant::now());
        let _killed = Killed(child);
        assert!(Processes::since(started).by_pid.contains_key(&pid), "it began before {pid} was there");
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
    fn a_hostile_name_does_not_move_the_fields() {
        let text = "4242 (a) S 1 (b)) R) S 17 4242 4242 0 -1 4194560 132 0 0 0 1 2 0 0 20 0 1 0 987654 \
                    2433024 220 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!(stat.command, "a) S 1 (b)) R");
        assert_eq!((stat.pid, stat.state, stat.parent), (4242, 'S', 17));
        assert_eq!((stat.session, stat.start_time), (4242, 987_654));
    }

    #[test]
    fn malformed_text_is_nothing() {
        for text in
            ["", "1", "1 (x", "1 (x) ", "1 (x) S 1 2", "x (y) S 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1"]
        {
            assert_eq!(parse_stat(text), None, "{text}");
        }
        assert_eq!(parse_socket_link("socket:[99]"), Some(99));
        for link in ["pipe:[99]", "socket:99", "/socket:[1]", "socket:[]"] {
            assert_eq!(parse_socket_link(link), None, "{link}");
        }
    }

    #[test]
    fn a_tree_is_the_session_and_the_descendants() {
        let all = [
            process(1, 0, 1, 'S'),
            process(10, 1, 10, 'S'),  // the leader
            process(11, 10, 10, 'S'), // its child
            process(12, 11, 12, 'S'), // a grandchild with a session of its own
            process(13, 1, 10, 'S'),  // an orphan of the session
            process(14, 10, 10, 'Z'), // dead
            process(20, 1, 20, 'S'),  // somebody else
        ];
        let tree = |leader, all: &[Stat]| Processes::of(all.to_vec()).tree(leader);
        assert_eq!(tree(10, &all), [10, 11, 12, 13]);
        assert_eq!(tree(10, &all[2..]), [11, 12, 13], "the leader has ended");
        assert_eq!(tree(99, &all), [] as [u32; 0]);
    }

    #[test]
    fn this_process_is_seen() {
        let pid = std::process::id();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(process_tree(pid).contains(&pid));
        assert_eq!(lineage(pid)[0], pid);
        assert!(
            lineage(pid).contains(&std::os::unix::process::parent_id())
                || std::os::unix::process::parent_id() <= 1
        );
        let held = sockets_of(pid);
        let (_, inode) = held.iter().find(|(fd, _)| *fd == listener.as_raw_fd()).unwrap();
        assert!(who_holds(*inode).contains(&pid));
        assert!(socket_inodes_of(&[pid]).contains(inode));
    }
}
