//! What `/proc` shows of one process's waiting: the sockets it holds, what its epolls have, what its threads are blocked in.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    mem::MaybeUninit,
    os::{fd::RawFd, unix::net::UnixDatagram},
    sync::OnceLock,
};

use rustix::{fs::readlinkat_raw, io::Errno};

use super::calls::{Blocked, blocked};
use crate::sockets::procfs;

/// How many threads of a process are looked at, each for some microseconds.
const THREADS_MAX: usize = 256;

/// How much of a link is read: more than a socket's or an epoll's has.
const LINK_MAX: usize = 64;

/// The descriptors of one process, those that matter here.
#[derive(Debug)]
pub(super) struct Descriptors {
    pub(super) pid: u32,
    /// The sockets that were asked for: descriptor and inode.
    pub(super) sockets: BTreeMap<RawFd, u64>,
    epolls: Vec<RawFd>,
    /// What is submitted to an io_uring shows nowhere.
    has_uring: bool,
}

/// A socket in an epoll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// Its number in the process as it was added; it can be another file's, or nobody's, by now.
    pub(super) descriptor: RawFd,
    pub(super) inode: u64,
    events: u32,
}

/// What the epolls of a process have.
#[derive(Debug, Default)]
pub(super) struct Registered {
    /// The epoll's descriptor, and a socket in it that something is awaited of.
    pub(super) targets: Vec<(RawFd, Target)>,
    /// An epoll did not show what it has.
    is_partial: bool,
}

/// What the threads of a process are blocked in.
#[derive(Debug, Default)]
pub(super) struct Threads {
    /// The descriptors that they wait for.
    pub(super) awaited: HashSet<RawFd>,
    /// All of them wait, and for something that is known.
    are_told: bool,
}

impl Descriptors {
    /// Nothing where the process has ended. Fails where it does not show its descriptors.
    pub(super) fn of(pid: u32, inodes: &HashSet<u64>) -> io::Result<Option<Self>> {
        match Self::read(pid, inodes) {
            Ok(found) => Ok(Some(found)),
            Err(error) if has_ended(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(pid: u32, inodes: &HashSet<u64>) -> io::Result<Self> {
        let path = format!("/proc/{pid}/fd");
        // A link that is found from its directory takes three quarters of the time.
        let directory = File::open(&path)?;
        let mut found = Self { pid, sockets: BTreeMap::new(), epolls: Vec::new(), has_uring: false };
        let mut room = [MaybeUninit::uninit(); LINK_MAX];
        for entry in fs::read_dir(&path)? {
            let name = entry?.file_name();
            let Some(descriptor) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let link = match readlinkat_raw(&directory, &name, &mut room[..]) {
                Ok((link, _)) => &*link,
                // It has been closed.
                Err(Errno::NOENT) => continue,
                // Who may list a process's descriptors need not be allowed to see what they are.
                Err(errno) => return Err(errno.into()),
            };
            match link {
                b"anon_inode:[eventpoll]" => found.epolls.push(descriptor),
                b"anon_inode:[io_uring]" => found.has_uring = true,
                link => {
                    let inode = str::from_utf8(link).ok().and_then(procfs::parse_socket_link);
                    let wanted = inode.filter(|inode| inodes.contains(inode));
                    found.sockets.extend(wanted.map(|inode| (descriptor, inode)));
                }
            }
        }
        Ok(found)
    }

    /// Those of the sockets that an epoll of the process has. One within another is a descriptor of its own, and is looked at like it.
    pub(super) fn registered(&self) -> Registered {
        let mut registered = Registered::default();
        for &epoll in &self.epolls {
            match fs::read_to_string(format!("/proc/{}/fdinfo/{epoll}", self.pid)) {
                Ok(text) => {
                    let awaited = parse_targets(&text, socket_device())
                        .filter(|target| target.is_awaited() && self.holds(target.inode));
                    registered.targets.extend(awaited.map(|target| (epoll, target)));
                }
                Err(error) if has_ended(&error) => {}
                Err(_) => registered.is_partial = true,
            }
        }
        registered
    }

    fn holds(&self, inode: u64) -> bool {
        self.sockets.values().any(|held| *held == inode)
    }

    /// Whether a socket that is not seen to be waited for is indeed not waited for.
    pub(super) fn are_told(&self, registered: &Registered, threads: &Threads) -> bool {
        // Who has an epoll waits by it: its threads may be busy.
        let waits_by_epoll = !self.epolls.is_empty() && !registered.is_partial;
        !self.has_uring && (waits_by_epoll || threads.are_told)
    }
}

impl Target {
    /// Whether the epoll reports connections that come. A server that pauses leaves a socket there and asks for nothing; one that is in
    /// the middle of an EPOLLONESHOT event asks again when it is done.
    fn is_awaited(self) -> bool {
        const READABLE: i32 = libc::EPOLLIN | libc::EPOLLRDNORM | libc::EPOLLONESHOT;
        self.events & READABLE as u32 != 0
    }
}

impl Threads {
    /// Looks at the threads of a process.
    pub(super) fn of(process: &Descriptors) -> Self {
        let (pid, mut threads) = (process.pid, Self::default());
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return threads };
        let (mut all_told, mut any_told) = (true, false);
        for (entry, number) in entries.flatten().zip(0..) {
            let seen = match number {
                THREADS_MAX.. => Blocked::Untold,
                _ => blocked(pid, &entry.path().join("syscall")),
            };
            match seen {
                Blocked::For(descriptors) => {
                    threads.awaited.extend(descriptors);
                    any_told = true;
                }
                Blocked::Receives(descriptor) if process.sockets.contains_key(&descriptor) => {
                    threads.awaited.insert(descriptor);
                    any_told = true;
                }
                Blocked::ForThread => {}
                Blocked::Receives(_) | Blocked::Untold => all_told = false,
            }
            if number >= THREADS_MAX {
                break;
            }
        }
        threads.are_told = all_told && any_told;
        threads
    }
}

fn has_ended(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// From the `fdinfo` of an epoll: a line for each file that it has. Inode numbers are of a file system each, so sockets are told by
/// their device.
fn parse_targets(text: &str, device: Option<u64>) -> impl Iterator<Item = Target> + '_ {
    text.lines().filter_map(move |line| {
        let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
        let descriptor = words.next()?.parse().ok()?;
        let mut words = words.skip_while(|word| *word != "events:").skip(1);
        let events = u32::from_str_radix(words.next()?, 16).ok()?;
        let mut hexadecimal = |name: &str| {
            let word = words.find_map(|word| word.strip_prefix(name))?;
            u64::from_str_radix(word, 16).ok()
        };
        let inode = hexadecimal("ino:")?;
        let found = hexadecimal("sdev:")?;
        device.is_none_or(|device| device == found).then_some(Target { descriptor, inode, events })
    })
}

/// The device of all sockets' inodes, as the kernel writes it; nothing where no socket can be made.
fn socket_device() -> Option<u64> {
    static DEVICE: OnceLock<u64> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Some(*device);
    }
    let device = rustix::fs::fstat(UnixDatagram::unbound().ok()?).ok()?.st_dev;
    // `fstat` has it in another form than `s_dev`, which is 12 bits of major and 20 bits of minor number.
    let device = u64::from(rustix::fs::major(device)) << 20 | u64::from(rustix::fs::minor(device));
    Some(*DEVICE.get_or_init(|| device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoll_tells_what_it_has() {
        // Linux 6.18: a listener, an eventfd, a socket that is paused, one that is disarmed, and a file of another device.
        let text = "pos:\t0\nflags:\t02\nmnt_id:\t16\nino:\t2060\n\
                    tfd:        5 events:       19 data:                5  pos:0 ino:b63f sdev:8\n\
                    tfd:        7 events: 80000001 data: ffffffffffffffff  pos:0 ino:80c sdev:f\n\
                    tfd:        8 events:       18 data:                8  pos:0 ino:b640 sdev:8\n\
                    tfd:        9 events: 40000000 data:                9  pos:0 ino:b641 sdev:8\n\
                    tfd:       10 events:       19 data:                a  pos:0 ino:b63f sdev:20\n";
        let found: Vec<_> = parse_targets(text, Some(8)).collect();
        let of = |target: &Target| (target.descriptor, target.inode, target.is_awaited());
        assert_eq!(
            found.iter().map(of).collect::<Vec<_>>(),
            [(5, 0xb63f, true), (8, 0xb640, false), (9, 0xb641, true)]
        );
        assert_eq!(parse_targets(text, None).count(), 5);
    }

    #[test]
    fn what_does_not_read_is_left_out() {
        for text in [
            "",
            "tfd:",
            "tfd: x events: 19 data: 5  pos:0 ino:1 sdev:8",
            "tfd: 5 events: 19 data: 5",
            "tfd: 5 events: xyz data: 5  pos:0 ino:1 sdev:8",
            "tfd: 5 events: 19 data: 5  pos:0 ino:123456789abcdef01 sdev:8",
        ] {
            assert_eq!(parse_targets(text, None).count(), 0, "{text}");
        }
    }
}
