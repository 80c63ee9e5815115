//! Containers as the kernel shows them, made by the test: a program in a cgroup that has an engine's name for one.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::Signal;

use crate::{machine::cgroup::Cgroup, process, python};

/// So that each has an id of its own.
static MADE: AtomicU32 = AtomicU32::new(0);

/// What stands for an engine's command line: it knows the names that are files in the directory of its argument, each with an id in it.
const ENGINE: &str = r#"#!/bin/sh
[ "$1 $2 $3 $5" = "container inspect --format --" ] || exit 125
for file in NAMES/*; do
    name=${file##*/}
    read -r id < "$file"
    if [ "$6" = "$name" ] || [ "$6" = "$id" ]; then
        case "$4" in *Name*) echo "/$name";; *) echo "$id";; esac
        exit 0
    fi
done
exit 125
"#;

/// Where a test's containers are, and an engine that knows their names.
#[derive(Debug)]
pub struct Engine {
    directory: tempfile::TempDir,
    cgroup: Cgroup,
}

/// A container that runs. Dropping it kills its program.
#[derive(Debug)]
pub struct Container {
    /// As engines make it.
    pub id: String,
    program: Child,
}

impl Engine {
    /// Makes it.
    #[track_caller]
    pub fn make() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::Builder::new().prefix("steer-tests-").tempdir();
        let directory = directory.expect("a temporary directory can be made");
        let names = directory.path().join("names");
        fs::create_dir(&names).expect("a directory can be made");
        let program = directory.path().join("podman");
        fs::write(&program, ENGINE.replace("NAMES", &names.to_string_lossy()))
            .expect("a file can be written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it can be made executable");
        Self { directory, cgroup: Cgroup::make() }
    }

    /// A search path on which it comes first.
    pub fn path(&self) -> String {
        format!("{}:/usr/bin:/bin", self.directory.path().display())
    }

    /// Has a container of this name run a program in Python, in the network namespace of the calling thread. One that had the name has it no
    /// more.
    #[track_caller]
    pub fn run(&self, name: &str, digit: char, source: &str, arguments: &[&str]) -> Container {
        // Other tests have containers too: short ids, which are the first twelve digits, differ.
        let number =
            u64::from(std::process::id()) << 8 | u64::from(MADE.fetch_add(1, Ordering::Relaxed) & 0xff);
        let id = format!("{digit}{number:011x}{}", String::from(digit).repeat(52));
        let directory = self.cgroup.path().join(format!("libpod-{id}.scope"));
        fs::create_dir_all(&directory).expect("a cgroup can be made");
        fs::write(self.directory.path().join("names").join(name), format!("{id}\n"))
            .expect("a file is written");
        let words = python::command(source, arguments);
        let mut command = Command::new("sh");
        command.args(["-euc", "echo $$ > \"$0\"; exec \"$@\""]).arg(directory.join("cgroup.procs"));
        let program = command.args(words).stdin(Stdio::null()).spawn().expect("sh runs");
        Container { id, program }
    }
}

impl Container {
    /// Its program.
    pub fn pid(&self) -> u32 {
        self.program.id()
    }

    /// Stops it, as an engine does: by SIGTERM.
    #[track_caller]
    pub fn stop(mut self) {
        process::signal(self.pid(), Signal::TERM);
        self.program.wait().expect("it is this process's child");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
