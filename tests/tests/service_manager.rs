//! What the daemon says to a service manager, and what of a service manager's reaches the workers.

use std::{ffi::OsString, fs, os::unix::net::UnixDatagram, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use steer_tests::{
    netns::{self, Namespace},
    process,
    steer::{Steer, binary},
    wait,
};

const SOON: Duration = Duration::from_secs(30);

/// What the daemon is given: it is fed twice as often.
const WATCHDOG: Duration = Duration::from_millis(1_000);

const CONFIGURATION: &str = "\
[[group]]
name = \"web\"
listen = [\"127.0.0.1:8080\"]
workers = { count = 2 }
[[group]]
name = \"api\"
listen = [\"127.0.0.1:8081\"]
workers = { count = 1 }
deadlines = { settle = \"0ms\" }
";

/// What a service manager sets, and its workers are not to see.
const OWN: [(&str, &str); 4] = [
    ("INVOCATION_ID", "0123456789abcdef0123456789abcdef"),
    ("JOURNAL_STREAM", "8:12345"),
    ("RUNTIME_DIRECTORY", "/run/steer"),
    ("SYSTEMD_EXEC_PID", "1"),
];

/// The service manager's end of NOTIFY_SOCKET.
struct Manager {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
    environment: Vec<(String, OsString)>,
    configuration: String,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket can be bound");
        socket.set_read_timeout(Some(SOON)).expect("a limit can be set");
        let mut environment: Vec<(String, OsString)> =
            OWN.map(|(name, value)| (name.to_owned(), value.into())).into();
        environment.push(("NOTIFY_SOCKET".to_owned(), path.into()));
        environment.push(("WATCHDOG_USEC".to_owned(), WATCHDOG.as_micros().to_string().into()));
        Self { socket, directory, environment, configuration: CONFIGURATION.to_owned() }
    }

    fn start<'a>(&self, namespace: &'a Namespace) -> Steer<'a> {
        Steer::configured_in(namespace, &self.configuration, &self.environment)
    }

    /// The next message: its lines.
    #[track_caller]
    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the daemon says something");
        String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned).collect()
    }

    /// Reads until a message has the line, and returns that message and how many came before it.
    #[track_caller]
    fn until(&self, line: &str) -> (Vec<String>, usize) {
        (0..1_000)
            .map(|before| (self.next(), before))
            .find(|(message, _)| message.iter().any(|found| found == line))
            .unwrap_or_else(|| panic!("{line} never came"))
    }

    /// Forgets what has come so far.
    fn forget(&self) {
        self.socket.set_nonblocking(true).expect("it can be set");
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).expect("it can be set");
    }
}

#[test]
fn the_daemon_says_when_it_is_ready_how_it_is_and_that_it_ends() {
    netns::run("service-manager", |namespace| {
        let manager = Manager::new();
        let mut steer = manager.start(namespace);
        manager.until("READY=1");
        let status = steer.status();
        assert!(status.groups.iter().all(|group| group.epoch > 0), "{status:?}");
        manager.until("STATUS=2 groups, 3 of 3 workers working");
        for _ in 0..3 {
            assert_eq!(manager.next(), ["WATCHDOG=1", "STATUS=2 groups, 3 of 3 workers working"]);
        }
        steer.stop(SOON);
        manager.until("STOPPING=1");
        println!("service manager: ready, status, watchdog and stopping were said");
    });
}

#[test]
fn a_daemon_that_does_nothing_does_not_feed_the_watchdog() {
    netns::run("watchdog", |namespace| {
        let manager = Manager::new();
        let mut steer = manager.start(namespace);
        manager.until("READY=1");
        process::freeze(steer.pid());
        manager.forget();
        manager.socket.set_read_timeout(Some(WATCHDOG * 2)).expect("a limit can be set");
        let said = manager.socket.recv(&mut [0; 4096]);
        assert!(said.is_err(), "a stopped daemon has said something");
        process::signal(steer.pid(), rustix::process::Signal::CONT);
        manager.socket.set_read_timeout(Some(SOON)).expect("a limit can be set");
        manager.until("WATCHDOG=1");
        steer.stop(SOON);
        println!("watchdog: nothing said for {:?} while stopped", WATCHDOG * 2);
    });
}

#[test]
fn a_service_manager_that_does_not_listen_holds_nothing_up() {
    netns::run("deaf", |namespace| {
        let manager = Manager::new();
        let mut steer = manager.start(namespace);
        // Nothing is read: what fits into the queue is 10 datagrams by default, and it is a datagram every 500 ms.
        wait::until("the queue is full", SOON, || {
            let messages = steer.messages();
            if messages.contains("cannot tell the service manager") { Ok(()) } else { Err(messages) }
        });
        assert_eq!(steer.status().groups.len(), 2);
        steer.stop(SOON);
        println!("deaf: the daemon went on");
    });
}

#[test]
fn workers_see_nothing_of_the_service_manager_and_have_their_own_limits() {
    // Less than the hard limit, to which the daemon raises its own.
    const SOFT: u64 = 777;
    netns::run("inherited", |namespace| {
        let mut manager = Manager::new();
        let limit = manager.directory.path().join("limit");
        let binary = binary();
        // The sample worker raises its limit, too: what it begins with is written down before.
        let script = format!("ulimit -Sn > {}; exec {} worker", limit.display(), binary.display());
        manager.configuration =
            CONFIGURATION.replace("count = 1", &format!("count = 1, command = [\"sh\", \"-c\", {script:?}]"));
        let before = getrlimit(Resource::Nofile);
        let soft =
            |current| setrlimit(Resource::Nofile, Rlimit { current, ..before }).expect("it is lowered");
        soft(Some(SOFT));
        let mut steer = manager.start(namespace);
        soft(before.current);

        let status = steer.status();
        let pids = status.groups.iter().flat_map(|group| &group.workers).filter_map(|worker| worker.pid);
        let pids: Vec<u32> = pids.collect();
        assert_eq!(pids.len(), 3, "{status:?}");
        for pid in pids {
            let environment = fs::read_to_string(format!("/proc/{pid}/environ")).expect("root may read it");
            for (name, value) in &manager.environment {
                let variable = format!("{name}={}", value.to_string_lossy());
                assert!(!environment.split('\0').any(|found| found == variable), "{variable} is passed on");
            }
            assert!(environment.contains("NOTIFY_SOCKET="), "it has one of its own: {environment}");
        }
        let of_worker = fs::read_to_string(limit).expect("the worker has written it");
        let limits = fs::read_to_string(format!("/proc/{}/limits", steer.pid())).expect("root may read it");
        let of_daemon =
            limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("there is one");
        let of_daemon = of_daemon.split_whitespace().next().expect("it has a value");
        assert_eq!(of_worker.trim(), SOFT.to_string());
        assert_eq!(Some(of_daemon), before.maximum.map(|limit| limit.to_string()).as_deref());
        println!("inherited: the worker's limit {}, the daemon's {of_daemon}", of_worker.trim());
        steer.stop(SOON);
    });
}
