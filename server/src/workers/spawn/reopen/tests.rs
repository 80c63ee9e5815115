//! What a worker does to its descriptors is not seen at the daemon's, and both reach the same file.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::net::UnixListener,
};

use rustix::pipe::{PipeFlags, pipe_with};

use super::*;

/// Nothing is lost.
fn opened(stdout: &impl AsFd, stderr: &impl AsFd, journal: &Path) -> [File; 2] {
    let lost = |failure| panic!("{failure}");
    both(stdout.as_fd(), stderr.as_fd(), journal, &lost).unwrap().map(File::from)
}

fn is_blocking(fd: &impl AsFd) -> bool {
    !fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

fn refuse_to_block(fd: &impl AsFd) {
    fcntl_setfl(fd, fcntl_getfl(fd).unwrap() | OFlags::NONBLOCK).unwrap();
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

/// What is said of each that could not be opened anew.
fn lost(stdout: &impl AsFd, stderr: &impl AsFd) -> Vec<String> {
    let failures = std::cell::RefCell::new(Vec::new());
    let tell = |failure| failures.borrow_mut().push(failure);
    for mut file in both(stdout.as_fd(), stderr.as_fd(), Path::new("/x"), &tell).unwrap().map(File::from) {
        file.write_all(b"taken, and gone").unwrap();
    }
    failures.into_inner()
}

#[test]
fn a_pipe_is_opened_anew_for_each_worker() {
    let (read, own) = pipe();
    let [mut first, _] = opened(&own, &own, Path::new("/x"));
    let [mut second, _] = opened(&own, &own, Path::new("/x"));
    assert!(is_blocking(&first) && is_blocking(&second));
    refuse_to_block(&first);
    assert!(is_blocking(&own) && is_blocking(&second), "it is the first's own");
    first.write_all(b"one ").unwrap();
    second.write_all(b"two ").unwrap();
    rustix::io::write(&own, b"own").unwrap();
    drop((first, second, own));
    let mut text = String::new();
    File::from(read).read_to_string(&mut text).unwrap();
    assert_eq!(text, "one two own");
}

#[test]
fn a_daemon_that_does_not_block_has_workers_that_do() {
    let (_read, own) = pipe();
    refuse_to_block(&own);
    assert!(opened(&own, &own, Path::new("/x")).iter().all(is_blocking));
}

#[test]
fn nobody_writes_over_another_in_a_file() {
    let mut own = tempfile::tempfile().unwrap();
    own.write_all(b"before ").unwrap();
    let [mut stdout, mut stderr] = opened(&own, &own, Path::new("/x"));
    stdout.write_all(b"a long line of the worker ").unwrap();
    own.write_all(b"own ").unwrap();
    stderr.write_all(b"end").unwrap();
    let mut text = String::new();
    own.seek(SeekFrom::Start(0)).unwrap();
    own.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before a long line of the worker own end");
}

#[test]
fn stdout_and_stderr_may_be_two() {
    let (read, own) = pipe();
    let mut file = tempfile::tempfile().unwrap();
    let [mut stdout, mut stderr] = opened(&own, &file, Path::new("/x"));
    stdout.write_all(b"out").unwrap();
    stderr.write_all(b"error").unwrap();
    drop((stdout, own));
    let (mut out, mut error) = (String::new(), String::new());
    File::from(read).read_to_string(&mut out).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut error).unwrap();
    assert_eq!((out.as_str(), error.as_str()), ("out", "error"));
}

#[test]
fn what_cannot_be_opened_anew_is_lost_and_said() {
    let (socket, _peer) = UnixStream::pair().unwrap();
    let (read, deserted) = pipe();
    drop(read);
    let said = lost(&socket, &deserted);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("the daemon's stdout for them: it is a socket"), "{said:?}");
    assert!(said[1].contains("stderr for them: nobody reads the pipe"), "{said:?}");
    assert_eq!(lost(&socket, &socket).len(), 1, "once for both");
}

#[test]
fn the_journal_gets_a_stream_of_its_own_for_each_worker() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stdout");
    let journal = UnixListener::bind(&path).unwrap();
    let own = UnixStream::connect(&path).unwrap();
    let (mut of_own, _) = journal.accept().unwrap();
    let [mut stdout, stderr] = opened(&own, &own, &path);
    let (mut of_worker, _) = journal.accept().unwrap();
    assert!(is_blocking(&stdout));
    stdout.write_all(b"<3>line\n").unwrap();
    drop((&stderr).write_all(b"error\n"));
    shutdown(&stdout, rustix::net::Shutdown::Both).unwrap();
    let mut text = String::new();
    of_worker.read_to_string(&mut text).unwrap();
    assert_eq!(text, "steer\n\n30\n1\n0\n0\n0\n<3>line\nerror\n");
    (&own).write_all(b"own").unwrap();
    drop(own);
    text.clear();
    of_own.read_to_string(&mut text).unwrap();
    assert_eq!(text, "own");
}

#[test]
fn the_stream_that_the_service_manager_names_is_known_by_its_inode() {
    let (socket, other) = UnixStream::pair().unwrap();
    let stat = fstat(&socket).unwrap();
    let said = format!("{}:{}", stat.st_dev, stat.st_ino);
    assert!(is_stream_said(socket.as_fd(), &said));
    assert!(!is_stream_said(other.as_fd(), &said));
    assert!(!is_stream_said(socket.as_fd(), "9:x"));
}
