//! The system call that a thread is blocked in, and which descriptors it waits for by it.

use std::{fs, os::fd::RawFd, path::Path};

/// How many descriptors of one `poll` are read, 8 bytes each.
const POLLED_MAX: u64 = 4096;

/// How many descriptors of one `select` are read, a bit each.
const SELECTED_MAX: u64 = 65_536;

/// What a thread is blocked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blocked {
    /// It waits for what comes to these descriptors, or for something else than sockets where there are none.
    For(Vec<RawFd>),
    /// It waits for bytes at this descriptor: for datagrams, or for what a client sends while it is served.
    Receives(RawFd),
    /// It waits for another thread, or for the lock that lets one process at a time accept.
    ForThread,
    /// It runs, or waits for something that it may wait for while it serves a client, or it may not be looked at.
    Untold,
}

/// What a system call waits for, by its number and arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// A connection at this descriptor.
    On(RawFd),
    /// Bytes at this descriptor.
    Receives(RawFd),
    /// An array of `struct pollfd` in the process's memory.
    Poll { address: u64, count: u64 },
    /// A `fd_set` in the process's memory: descriptors below `count`.
    Select { address: u64, count: u64 },
    /// Events of an epoll, whose `fdinfo` says more; children, signals, time.
    Elsewhere,
    /// Another thread.
    Thread,
}

/// What the thread behind `/proc/PID/task/TID/syscall` is blocked in.
pub(super) fn blocked(pid: u32, path: &Path) -> Blocked {
    let Some((text, wait)) = read(path) else { return Blocked::Untold };
    let awaited = match wait {
        Wait::On(descriptor) => Some(vec![descriptor]),
        Wait::Receives(descriptor) => return Blocked::Receives(descriptor),
        Wait::Poll { address, count } => memory(pid, address, count * POLLFD).map(|bytes| polled(&bytes)),
        Wait::Select { address: 0, .. } | Wait::Elsewhere => Some(Vec::new()),
        Wait::Select { address, count } => {
            memory(pid, address, count.div_ceil(64) * 8).map(|bytes| selected(&bytes, count))
        }
        Wait::Thread => return Blocked::ForThread,
    };
    match awaited {
        // The memory was that call's if the thread is in it still.
        Some(awaited) if read(path).is_some_and(|(again, _)| again == text) => Blocked::For(awaited),
        _ => Blocked::Untold,
    }
}

fn read(path: &Path) -> Option<(String, Wait)> {
    let text = fs::read_to_string(path).ok()?;
    let wait = parse_call(&text).and_then(|(number, arguments)| wait_of(number, arguments))?;
    Some((text, wait))
}

/// From `/proc/PID/task/TID/syscall`: number and arguments. Nothing of a thread that runs, or is blocked elsewhere (`-1`).
fn parse_call(text: &str) -> Option<(i64, [u64; 6])> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok().filter(|number| *number >= 0)?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, arguments))
}

fn wait_of(number: i64, [first, second, ..]: [u64; 6]) -> Option<Wait> {
    // The kernel takes the lower half of the register for a descriptor or a count of them.
    let (descriptor, count) = (first as u32 as RawFd, u64::from(first as u32));
    let poll = || {
        let count = u64::from(second as u32);
        (count <= POLLED_MAX).then_some(Wait::Poll { address: first, count })
    };
    let select = || (count <= SELECTED_MAX).then_some(Wait::Select { address: second, count });
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_poll => return poll(),
        libc::SYS_select => return select(),
        libc::SYS_pause | libc::SYS_epoll_wait => return Some(Wait::Elsewhere),
        _ => {}
    }
    match number {
        libc::SYS_accept | libc::SYS_accept4 => Some(Wait::On(descriptor)),
        libc::SYS_recvfrom | libc::SYS_recvmsg | libc::SYS_recvmmsg => Some(Wait::Receives(descriptor)),
        libc::SYS_ppoll => poll(),
        libc::SYS_pselect6 => select(),
        libc::SYS_epoll_pwait
        | libc::SYS_epoll_pwait2
        | libc::SYS_rt_sigsuspend
        | libc::SYS_rt_sigtimedwait
        | libc::SYS_wait4
        | libc::SYS_waitid
        | libc::SYS_nanosleep
        | libc::SYS_clock_nanosleep => Some(Wait::Elsewhere),
        libc::SYS_futex | libc::SYS_semop | libc::SYS_semtimedop => Some(Wait::Thread),
        _ => None,
    }
}

/// The size of `struct pollfd`: descriptor, events, and what the kernel answers.
const POLLFD: u64 = 8;

fn polled(bytes: &[u8]) -> Vec<RawFd> {
    const READABLE: i16 = libc::POLLIN | libc::POLLRDNORM;
    let (entries, _) = bytes.as_chunks::<{ POLLFD as usize }>();
    let read = |&[a, b, c, d, e, f, _, _]: &[u8; POLLFD as usize]| {
        let (descriptor, events) = (RawFd::from_ne_bytes([a, b, c, d]), i16::from_ne_bytes([e, f]));
        // A negative one is passed over by the kernel.
        (descriptor >= 0 && events & READABLE != 0).then_some(descriptor)
    };
    entries.iter().filter_map(read).collect()
}

fn selected(bytes: &[u8], count: u64) -> Vec<RawFd> {
    let (words, _) = bytes.as_chunks::<8>();
    let is_set = |descriptor: &RawFd| {
        let word = words.get(*descriptor as usize / 64).copied().map_or(0, u64::from_ne_bytes);
        word >> (*descriptor as u32 % 64) & 1 == 1
    };
    (0..count.min(SELECTED_MAX) as RawFd).filter(is_set).collect()
}

/// Reads another process's memory; nothing where not all of it is there.
fn memory(pid: u32, address: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0_u8; usize::try_from(length).ok()?];
    if bytes.is_empty() {
        return Some(bytes);
    }
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: the kernel writes to no more than the buffer of ours, and checks the other process's address.
    let read = unsafe { libc::process_vm_readv(pid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    (usize::try_from(read) == Ok(bytes.len())).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_reads_as_the_kernel_writes_it() {
        let accept = format!("{} 0x3 0x0 0x0 0x80000 0x0 0x0 0x7ffc1b20 0x7f33\n", libc::SYS_accept4);
        let (number, arguments) = parse_call(&accept).unwrap();
        assert_eq!(arguments, [3, 0, 0, 0x80000, 0, 0]);
        assert_eq!(wait_of(number, arguments), Some(Wait::On(3)));
        for text in
            ["running\n", "-1 0x7ffc1b20 0x7f33\n", "", "43", "43 0x3 0x0", "43 3 0 0 0 0 0", "x 0x3 0x0"]
        {
            assert_eq!(parse_call(text), None, "{text}");
        }
    }

    #[test]
    fn counts_beyond_what_is_read_are_not_told() {
        let poll = |count| wait_of(libc::SYS_ppoll, [4096, count, 0, 0, 0, 0]);
        assert_eq!(poll(POLLED_MAX), Some(Wait::Poll { address: 4096, count: POLLED_MAX }));
        assert_eq!(poll(POLLED_MAX + 1), None);
        let select = |count| wait_of(libc::SYS_pselect6, [count, 4096, 0, 0, 0, 0]);
        assert_eq!(select(SELECTED_MAX), Some(Wait::Select { address: 4096, count: SELECTED_MAX }));
        assert_eq!(select(SELECTED_MAX + 1), None);
        assert_eq!(wait_of(libc::SYS_read, [3, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn sets_of_descriptors_read() {
        let entry = |descriptor: i32, events: i16| {
            [&descriptor.to_ne_bytes()[..], &events.to_ne_bytes(), &[0, 0]].concat()
        };
        let array = [entry(7, libc::POLLIN), entry(-1, libc::POLLIN), entry(8, libc::POLLOUT)].concat();
        assert_eq!(polled(&array), [7]);
        let set = [(1_u64 << 3 | 1 << 63).to_ne_bytes(), 1_u64.to_ne_bytes()].concat();
        assert_eq!(selected(&set, 65), [3, 63, 64]);
        assert_eq!(selected(&set, 64), [3, 63], "what is above the count is not in it");
        assert_eq!(selected(&[], 65), [0; 0]);
    }

    #[test]
    fn memory_that_is_not_there_is_nothing() {
        let here = [1_u8, 2, 3];
        let pid = std::process::id();
        assert_eq!(memory(pid, here.as_ptr() as u64, 3).as_deref(), Some(&here[..]));
        assert_eq!(memory(pid, 0, 3), None);
        assert_eq!(memory(pid, u64::MAX, 3), None);
    }
}
