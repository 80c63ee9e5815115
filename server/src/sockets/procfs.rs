//! What `/proc` says of processes: what each is, who holds which socket.
//!
//! Everything here is a snapshot: a process can end, or fork, between two reads. What has gone is left out, never
//! an error. Processes of other users show no descriptors without CAP_SYS_PTRACE.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::{collections::HashSet, fs, io, os::fd::RawFd};

use server_common::looks::ProcessRecord;

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

    /// The same as a look has it.
    pub(crate) fn record(&self) -> ProcessRecord {
        let Self { pid, parent, session, .. } = *self;
        ProcessRecord { pid, parent, session, exit_state: u32::from(self.is_dead()) }
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
pub(super) fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
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

/// The path of a process's cgroup in the unified hierarchy; nothing where the process is gone, or there is no such hierarchy.
pub fn cgroup_of(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Whether a process runs this program, as daemons and their keepers do, also where an upgrade has replaced its file.
pub fn is_this_program(pid: u32) -> bool {
    let program = |pid: &str| {
        let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        Some(path.to_str()?.trim_end_matches(" (deleted)").to_owned())
    };
    program("self").is_some_and(|own| program(&pid.to_string()) == Some(own))
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

pub(super) fn parse_socket_link(target: &str) -> Option<u64> {
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
    fn this_process_is_seen() {
        let pid = std::process::id();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
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
