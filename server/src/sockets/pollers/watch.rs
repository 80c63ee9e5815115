//! Whether an epoll still has a socket, asked with `kcmp(2)`.

use std::{fs, io, os::fd::RawFd};

use super::waits::Target;
use crate::sockets::procfs;

/// `KCMP_EPOLL_TFD` of linux/kcmp.h (Linux 4.13).
const KCMP_EPOLL_TFD: i32 = 7;

/// How many files one epoll can have under one descriptor before the answer is given up: one more for each that was added, duplicated
/// and closed.
const SAME_DESCRIPTOR_MAX: u32 = 8;

/// A socket in an epoll of a process that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// The process, that holds both.
    pub pid: u32,
    /// The socket's descriptor there.
    pub descriptor: RawFd,
    /// Its inode.
    pub inode: u64,
    /// The epoll's descriptor there.
    pub epoll: RawFd,
    /// The socket's descriptor when it was added to the epoll.
    pub target: RawFd,
}

/// What has become of a socket in an epoll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Still {
    /// The epoll has it.
    Polled,
    /// The epoll has it no more. Another epoll, or another process, may.
    NoMore,
    /// Something has been closed, or the process has ended, or may not be looked at: a [`look`](super::look) tells.
    Unknown,
}

/// `struct kcmp_epoll_slot`.
#[repr(C)]
struct Slot {
    epoll: u32,
    target: u32,
    /// Which of the files with this descriptor.
    offset: u32,
}

impl Watch {
    pub(super) fn new(pid: u32, descriptor: RawFd, epoll: RawFd, target: Target) -> Self {
        Self { pid, descriptor, inode: target.inode, epoll, target: target.descriptor }
    }

    /// Asks the kernel: some microseconds, however much the epoll has.
    ///
    /// That a server has paused by asking the epoll for no events does not show here.
    pub fn still_polled(&self) -> Still {
        for offset in 0..SAME_DESCRIPTOR_MAX {
            match self.compare(offset) {
                // After the comparison: what is the socket now was the socket then, for numbers of inodes are not used again.
                Ok(0) if self.is_the_socket() => return Still::Polled,
                Ok(0) => return Still::Unknown,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) && self.is_the_socket() => {
                    return Still::NoMore;
                }
                Err(_) => return Still::Unknown,
            }
        }
        Still::Unknown
    }

    /// 0 where the file in the epoll is the one behind the descriptor, another number where it is another file.
    fn compare(&self, offset: u32) -> io::Result<i64> {
        let slot = Slot { epoll: self.epoll as u32, target: self.target as u32, offset };
        // SAFETY: the kernel reads the slot, which outlives the call.
        let order = unsafe {
            libc::syscall(
                libc::SYS_kcmp,
                self.pid,
                self.pid,
                KCMP_EPOLL_TFD,
                libc::c_ulong::from(self.descriptor as u32),
                &raw const slot,
            )
        };
        if order < 0 { Err(io::Error::last_os_error()) } else { Ok(order) }
    }

    fn is_the_socket(&self) -> bool {
        let link = fs::read_link(format!("/proc/{}/fd/{}", self.pid, self.descriptor));
        link.is_ok_and(|link| link.to_str().and_then(procfs::parse_socket_link) == Some(self.inode))
    }
}
