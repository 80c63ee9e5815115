//! Processes by pidfd: a handle that no reuse of the number can redirect, and what can be taken through it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use thiserror::Error;

use super::procfs;

/// A process that could not be opened, or that did not give a descriptor.
#[derive(Debug, Error)]
pub enum PidfdError {
    /// `pidfd_open` failed; ESRCH: there is no such process.
    #[error("cannot open process {pid}")]
    Open {
        /// The process.
        pid: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// `pidfd_getfd` failed; EBADF: the process has no such descriptor (any more); EPERM: it may not be traced.
    #[error("cannot take descriptor {descriptor} of another process")]
    Take {
        /// Its number in that process.
        descriptor: RawFd,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl PidfdError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Take { source, .. } if source.raw_os_error() == Some(libc::EPERM) => {
                Some("taking a descriptor of another user's process needs CAP_SYS_PTRACE")
            }
            _ => None,
        }
    }
}

/// A pidfd of the process (Linux 5.3); it is closed on exec and readable once the process has ended.
pub fn open(pid: u32) -> Result<OwnedFd, PidfdError> {
    let error = |source| PidfdError::Open { pid, source };
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| error(io::Error::from_raw_os_error(libc::ESRCH)))?;
    rustix::process::pidfd_open(raw, PidfdFlags::empty()).map_err(|errno| error(errno.into()))
}

/// What `PIDFD_GET_INFO` fills in: `struct pidfd_info` of linux/pidfd.h in its first size, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: the exit status is asked for, and is there.
const INFO_EXIT: u64 = 1 << 3;

/// The wait status of a process that has ended and was reaped, whoever's child it was; nothing until then. Linux 6.15; before
/// that it fails.
pub fn exit_status(pidfd: impl AsFd) -> io::Result<Option<i32>> {
    let mut info = Info { mask: INFO_EXIT, ..Info::default() };
    const { assert!(size_of::<Info>() == 64) };
    let request = rustix::ioctl::opcode::read_write::<Info>(0xff, 11);
    // SAFETY: the kernel writes as much of the structure as the request says that it has.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), u64::from(request), &raw mut info) };
    match result {
        0 => Ok((info.mask & INFO_EXIT != 0).then_some(info.exit_code)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A duplicate of the descriptor `descriptor` of the process behind `pidfd` (Linux 5.6), closed on exec.
///
/// Both then refer to one open file: the other process goes on with its own, and a listener stays open until
/// both are closed. Needs the right to trace that process: the same user, or CAP_SYS_PTRACE.
pub fn take_fd(pidfd: impl AsFd, descriptor: RawFd) -> Result<OwnedFd, PidfdError> {
    rustix::process::pidfd_getfd(pidfd, descriptor, PidfdGetfdFlags::empty())
        .map_err(|errno| PidfdError::Take { descriptor, source: errno.into() })
}

/// Whether descriptors of the process behind `pidfd` can be taken, whichever it has.
pub fn may_take(pidfd: impl AsFd) -> bool {
    match take_fd(pidfd, 0) {
        Err(PidfdError::Take { source, .. }) => source.raw_os_error() == Some(libc::EBADF),
        taken => taken.is_ok(),
    }
}

/// The first process of `pids` that holds the socket with this inode, and its descriptor there.
pub fn find_listener(pids: &[u32], inode: u64) -> Option<(u32, RawFd)> {
    pids.iter().find_map(|&pid| {
        procfs::sockets_of(pid).into_iter().find(|&(_, held)| held == inode).map(|(fd, _)| (pid, fd))
    })
}

/// Descriptors of the sockets with these inodes, each taken from the first process of `pids` that holds it. Those that none holds, or that
/// cannot be taken, are left out.
pub fn take_sockets(pids: &[u32], inodes: &[u64]) -> Vec<OwnedFd> {
    let take = |&inode: &u64| {
        let (pid, descriptor) = find_listener(pids, inode)?;
        take_fd(open(pid).ok()?, descriptor).ok()
    };
    inodes.iter().filter_map(take).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        os::{fd::AsRawFd, unix::fs::MetadataExt},
    };

    use super::*;
    use crate::sockets::options;

    #[test]
    fn a_listener_is_found_by_inode_and_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = std::fs::metadata(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap().ino();
        let pid = std::process::id();
        assert_eq!(find_listener(&[pid], inode), Some((pid, listener.as_raw_fd())));
        let taken = take_fd(open(pid).unwrap(), listener.as_raw_fd()).unwrap();
        assert_eq!(options::socket_cookie(&taken).unwrap(), options::socket_cookie(&listener).unwrap());
    }

    #[test]
    fn what_is_not_there_is_said() {
        assert!(matches!(open(0), Err(PidfdError::Open { pid: 0, .. })));
        assert!(matches!(open(u32::MAX), Err(PidfdError::Open { .. })));
        let this = open(std::process::id()).unwrap();
        assert!(matches!(take_fd(this, 1_000_000), Err(PidfdError::Take { descriptor: 1_000_000, .. })));
    }
}
