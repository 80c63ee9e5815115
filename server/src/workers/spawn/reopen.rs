//! Opens anew, for a worker, what this process has as stdout and stderr.
//!
//! A worker never gets this process's own open file description: what belongs to one is common to all who have it. A worker that sets
//! O_NONBLOCK on a shared one, as programs of Node.js do, would have this process's log fail with EAGAIN, and one that shuts down
//! the journal's socket would end it.

use std::{
    io::{self, Write as _},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::Once,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, Stat, fcntl_getfl, fcntl_setfl, fstat, open},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, getpeername, shutdown, socket_with,
        sockopt,
    },
};

/// Where the journal takes what services print.
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// What the service manager gives such a socket, so that a reader that falls behind for a moment stops nobody.
const JOURNAL_SEND_BUFFER: usize = 8 << 20;

/// How the journal is told of a stream: identifier, unit (whose the connecting process is), priority (LOG_DAEMON and LOG_INFO), that a
/// line may begin with a level (`<3>`), and that nothing is forwarded to syslog, kmsg and the console. It is what the
/// service manager says of its services, so that workers' lines look as they would in its stream.
const JOURNAL_HEADER: &[u8] = b"steer\n\n30\n1\n0\n0\n0\n";

/// Descriptors of a worker's own for its stdout and stderr, of the files that this process's own are.
///
/// Where one cannot be opened anew, it is /dev/null, and the log says so, once. That is a socket that is not the journal's, a pipe without
/// reader, a file that this process may not open (any more). Not a pipe that this process would read: after its end nobody
/// would, and the worker would stand still as soon as it is full. No worker waits for a daemon.
///
/// Waits for no reader, but for a file system that does not answer.
pub(super) fn stdout_and_stderr() -> io::Result<[OwnedFd; 2]> {
    both(io::stdout().as_fd(), io::stderr().as_fd(), Path::new(JOURNAL), &|failure| {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                "what workers print is lost: {failure} (hint: give the daemon a file, a pipe, a terminal or the journal as \
                 stdout and stderr)"
            );
        });
    })
}

fn both(
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
    journal: &Path,
    tell: &dyn Fn(String),
) -> io::Result<[OwnedFd; 2]> {
    let one = |own: BorrowedFd<'_>, name: &str| match anew(own, journal) {
        Ok(opened) => Ok(opened),
        Err(error) => {
            tell(format!("cannot open the daemon's {name} for them: {error}"));
            Ok::<_, io::Error>(open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
        }
    };
    let first = one(stdout, "stdout")?;
    // One where they are one: the journal has then one stream of lines in their order, as a shell's `2>&1` has.
    let second = if is_same(stdout, stderr)? { first.try_clone()? } else { one(stderr, "stderr")? };
    Ok([first, second])
}

fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<bool> {
    let [one, other] = [fstat(one)?, fstat(other)?].map(|Stat { st_dev, st_ino, .. }| (st_dev, st_ino));
    Ok(one == other)
}

/// Another open file description of the same file.
fn anew(own: BorrowedFd<'_>, journal: &Path) -> io::Result<OwnedFd> {
    match FileType::from_raw_mode(fstat(own)?.st_mode) {
        FileType::Socket if is_of_journal(own, journal) => stream_to_journal(journal),
        // ENXIO, as opening its link would say.
        FileType::Socket => Err(io::Error::other("it is a socket, which cannot be opened again")),
        FileType::Fifo => {
            let opened = reopen(own)?;
            // Only a pipe with a name is refused (ENXIO) where nobody reads it: a worker that prints there would die of SIGPIPE.
            let mut polled = [PollFd::new(&opened, PollFlags::OUT)];
            poll(&mut polled, Some(&Timespec::default()))?;
            match polled[0].revents().contains(PollFlags::ERR) {
                true => Err(io::Error::other("nobody reads the pipe")),
                false => Ok(opened),
            }
        }
        FileType::RegularFile => {
            // Two descriptions of a file each have an offset: without this one would write over what the other has written.
            let flags = fcntl_getfl(own)?;
            if !flags.contains(OFlags::APPEND) {
                fcntl_setfl(own, flags | OFlags::APPEND)?;
            }
            reopen(own)
        }
        _ => reopen(own),
    }
}

fn reopen(own: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // A pipe with a name and without reader would have the opening wait for one: with O_NONBLOCK that is ENXIO. A terminal does
    // not become this process's.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = open(format!("/proc/self/fd/{}", own.as_raw_fd()), flags, Mode::empty())?;
    fcntl_setfl(&opened, fcntl_getfl(&opened)? - OFlags::NONBLOCK)?;
    Ok(opened)
}

/// Whether it is a stream to the journal. JOURNAL_STREAM tells of one of stdout and stderr only, and both can be streams.
fn is_of_journal(own: BorrowedFd<'_>, journal: &Path) -> bool {
    let peer = getpeername(own).ok().flatten().and_then(|peer| SocketAddrUnix::try_from(peer).ok());
    let is_peer = SocketAddrUnix::new(journal).is_ok_and(|journal| peer == Some(journal));
    is_peer || std::env::var("JOURNAL_STREAM").is_ok_and(|said| is_stream_said(own, &said))
}

/// Whether it is the socket that this value of JOURNAL_STREAM, `DEVICE:INODE`, tells of.
fn is_stream_said(own: BorrowedFd<'_>, said: &str) -> bool {
    fstat(own).is_ok_and(|stat| said == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// A new stream to the journal, which has all of its lines under this process's unit.
fn stream_to_journal(journal: &Path) -> io::Result<OwnedFd> {
    // A journal that takes no connection just now is not waited for.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(journal)?)?;
    shutdown(&socket, rustix::net::Shutdown::Read)?;
    if sockopt::set_socket_send_buffer_size_force(&socket, JOURNAL_SEND_BUFFER) == Err(Errno::PERM) {
        // As much as every process may have.
        let _ = sockopt::set_socket_send_buffer_size(&socket, JOURNAL_SEND_BUFFER);
    }
    let mut stream = UnixStream::from(socket);
    stream.write_all(JOURNAL_HEADER)?;
    stream.set_nonblocking(false)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests;
