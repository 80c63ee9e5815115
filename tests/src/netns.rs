//! A fresh network namespace per test.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::{process, wait};

/// The prefix of which every address can be bound and connected to on the namespace's `lo`, as all of `127.0.0.0/8` can.
pub const IPV6_PREFIX: &str = "fd00:57ee:7::/64";

/// How long a process may take to end that was told to before the test was over.
const ENDING: Duration = Duration::from_secs(5);

/// A network namespace without a name: nothing is left in `/run/netns`, and it ends with its last process and socket.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// The namespace, open: it lasts as long as this value.
    file: File,
}

/// Runs a test's body in a network namespace of its own, in a thread of its own; `name` is for messages.
///
/// The namespace has `lo` up, every address of 127.0.0.0/8 and [`IPV6_PREFIX`], and client ports from 1024. Threads and
/// processes that the body starts are in it too. It has a thread of its own because libtest gives its main thread to a
/// test where it runs one at a time, and a namespace that a thread has left cannot be undone for the next test.
///
/// A panic of the body is passed on. Processes that the body has left in the namespace are killed, and fail the test.
#[track_caller]
pub fn run<T: Send>(name: &str, body: impl FnOnce(&Namespace) -> T + Send) -> T {
    let outcome = thread::scope(|scope| {
        let in_namespace = || {
            let namespace = Namespace::unshare(name);
            let value = body(&namespace);
            (value, namespace)
        };
        thread::Builder::new().name(name.into()).spawn_scoped(scope, in_namespace).map(|thread| thread.join())
    });
    match outcome.expect("a thread can be started") {
        Ok((value, namespace)) => {
            drop(namespace);
            value
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Namespace {
    /// Moves the calling thread, and no other, into a new network namespace, and sets that up.
    fn unshare(name: &str) -> Self {
        // SAFETY: only CLONE_FILES can break what other code relies on (file descriptors of this thread); a network
        // namespace decides nothing but which network this thread's new sockets belong to.
        let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
        unshared.unwrap_or_else(|error| {
            panic!("making network namespace {name}: {error}\nhint: needs CAP_SYS_ADMIN: run `cargo xtask test` as root")
        });
        let file = File::open("/proc/thread-self/ns/net").expect("a thread can open its own namespace");
        let namespace = Self { name: name.into(), file };
        namespace.execute("ip", &["link", "set", "lo", "up"]);
        // A local route makes each address of the prefix ours for packets; binding to one that no interface has needs the
        // second as well.
        namespace.execute("ip", &["-6", "route", "add", "local", IPV6_PREFIX, "dev", "lo"]);
        namespace.sysctl("net.ipv6.ip_nonlocal_bind", "1");
        namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        namespace
    }

    /// The name given to [`run`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the closure in the namespace: in the calling thread if that is in it, else in a thread that enters it.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        if self.holds_this_thread() {
            return body();
        }
        let entered = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("entering network namespace {}: {error}", self.name));
            body()
        };
        thread::scope(|scope| scope.spawn(entered).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Writes a sysctl of the namespace, `net.ipv4.tcp_migrate_req`.
    ///
    /// `/proc/sys/net` shows the namespace of the thread that opens the file, not of the process: hence [`Self::inside`].
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = sysctl_path(key);
        let written = self.inside(|| fs::write(&path, value));
        written.unwrap_or_else(|error| panic!("writing {value:?} to {path}: {error}"));
    }

    /// Reads a sysctl of the namespace, without the newline.
    #[track_caller]
    pub fn read_sysctl(&self, key: &str) -> String {
        let path = sysctl_path(key);
        let text = self.inside(|| fs::read_to_string(&path));
        text.unwrap_or_else(|error| panic!("reading {path}: {error}")).trim_end().to_owned()
    }

    /// Runs a program in the namespace, to a successful end, and returns what it printed.
    #[track_caller]
    pub fn execute(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.inside(|| Command::new(program).args(arguments).output());
        let output = output.unwrap_or_else(|error| {
            panic!("running {program}: {error}\nhint: `cargo xtask test` installs what the tests need")
        });
        assert!(
            output.status.success(),
            "{program} {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The processes in the namespace, by pid, without this one (whose threads are in several).
    pub fn processes(&self) -> Vec<u32> {
        let own = self.file.metadata().expect("an open namespace has metadata");
        process::find(|process| {
            // Metadata through the link: that of the namespace. Unreadable where the process has just ended.
            fs::metadata(process.join("ns/net"))
                .is_ok_and(|other| (other.dev(), other.ino()) == (own.dev(), own.ino()))
        })
    }

    /// The processes that will be there until somebody ends them, in words. One that is ending is in its namespace for a moment more
    /// and shows no sign of it: it may have been sent SIGKILL and not have run since. So all get time to go.
    fn left(&self) -> Option<String> {
        let is_ending = |began: Instant| !thread::panicking() && began.elapsed() < wait::patient(ENDING);
        let began = Instant::now();
        let mut is_first = true;
        loop {
            // Before it is over, so that the last look comes after it.
            let may_end = is_ending(began);
            let left = self.processes();
            if left.is_empty() {
                return None;
            }
            let description = process::describe(&left);
            if !may_end {
                return Some(description);
            }
            if std::mem::take(&mut is_first) {
                println!("after the test there still are {description}");
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn holds_this_thread(&self) -> bool {
        let own = self.file.metadata().expect("an open namespace has metadata");
        let here = fs::metadata("/proc/thread-self/ns/net").expect("a thread can see its own namespace");
        (here.dev(), here.ino()) == (own.dev(), own.ino())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let Some(description) = self.left() else { return };
        process::kill_all("ending what a test left in its namespace", || self.processes());
        let message = format!("processes were left in network namespace {}: {description}", self.name);
        if thread::panicking() { eprintln!("{message}") } else { panic!("{message}") }
    }
}

/// Dots that are part of an interface's name do not occur in the tests.
fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}
