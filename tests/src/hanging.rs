//! A program on a file system that hangs: whoever executes it waits, and cannot be killed, until the file system answers.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tempfile::TempDir;

use crate::python;

/// A FUSE server by hand: one file, whose opens it leaves unanswered while it is told to. Looking at the file never hangs.
const SERVER: &str = include_str!("hanging.py");

/// The file system, mounted in the mount namespace of the thread that made it: [`crate::mounts::unshare`] first. Dropping it ends the
/// wait of all who wait.
#[derive(Debug)]
pub struct HangingProgram {
    directory: TempDir,
    server: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl HangingProgram {
    /// Mounts a file system with the sample worker in it, which does not hang yet.
    #[track_caller]
    pub fn sample(binary: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("steer-tests-").tempdir();
        let directory = directory.expect("a temporary directory can be made");
        let place = directory.path().display().to_string();
        let words =
            python::command(SERVER, &[&place, &format!("#!/bin/sh\nexec {} worker\n", binary.display())]);
        let mut server = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("running {}: {error}", words[0]));
        let stdin = server.stdin.take().expect("it is a pipe");
        let stdout = BufReader::new(server.stdout.take().expect("it is a pipe"));
        let mut hanging = Self { directory, server, stdin, stdout };
        hanging.expect("mounted");
        hanging
    }

    /// The program.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("worker")
    }

    /// Has it hang for all who execute it from now on.
    #[track_caller]
    pub fn hang(&mut self) {
        // In one write: the server takes what one read gives for a word.
        self.stdin.write_all(b"hang\n").expect("the server runs");
        self.expect("hangs from now on");
    }

    /// Waits until somebody waits for it.
    #[track_caller]
    pub fn until_somebody_waits(&mut self) {
        self.expect("somebody waits");
    }

    /// Lets all who wait for it go on, and nobody wait from now on.
    #[track_caller]
    pub fn go_on(&mut self) {
        self.stdin.write_all(b"go\n").expect("the server runs");
    }

    /// Reads a line, which is to be this.
    #[track_caller]
    fn expect(&mut self, wanted: &str) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the server prints text");
        assert_eq!(line.trim_end(), wanted, "of the server of {}", self.directory.path().display());
    }
}

impl Drop for HangingProgram {
    fn drop(&mut self) {
        // The kernel answers for a server that has ended. An error says that it has.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = rustix::mount::unmount(self.directory.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
