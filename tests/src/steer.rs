//! A running `steer` in a test's namespace, and its command line.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use steer::control::api::Status;
use tempfile::TempDir;

use crate::{cgroups, netns::Namespace, output::Output, process, receipts::tcp_counters, wait};

/// How long the daemon and all its first workers may take to work.
const START: Duration = Duration::from_secs(30);
/// How long one command may take: far beyond each deadline that a test sets.
const COMMAND: Duration = Duration::from_secs(120);
/// How long the last status may take, of a daemon that may be at fault.
const STATUS: Duration = Duration::from_secs(5);
/// Set, to the instance's directory, in the environment of the daemon, which its workers inherit.
const MARK: &str = "STEER_TESTS_INSTANCE";

/// A foreground daemon with one group: `steer run`.
///
/// When dropped it is killed, and so is every process that descends from it, by the mark in their environment; the temporary
/// directory goes. At a panic its output and last status are printed first.
#[derive(Debug)]
pub struct Steer<'a> {
    namespace: &'a Namespace,
    binary: PathBuf,
    directory: TempDir,
    daemon: Option<Child>,
    command: &'static str,
    /// After the command and its socket.
    pub arguments: Vec<String>,
    /// What starts the daemon, and becomes it: a program with its arguments, before those of `steer`.
    pub launcher: Vec<String>,
    /// Set for the daemon, and so for its workers.
    pub environment: Vec<(String, OsString)>,
    /// What the daemon has as stderr; a file, which [`Self::messages`] reads, where this is nothing.
    pub stderr: Option<OwnedFd>,
    /// Its pins, where it makes some.
    pins: Option<PathBuf>,
}

/// The binary under test: `STEER_BIN`, which `cargo xtask test` sets, or `steer` in the target directory of this test.
#[track_caller]
pub fn binary() -> PathBuf {
    let beside = || {
        // target/release/deps/test-0123456789abcdef
        let test = env::current_exe().ok()?;
        Some(test.parent()?.parent()?.join("steer"))
    };
    let binary = env::var_os("STEER_BIN").map(PathBuf::from).or_else(beside).expect("a test has a path");
    assert!(
        binary.exists(),
        "{} is not there\nhint: run `cargo xtask test`, or cargo build --release",
        binary.display()
    );
    binary
}

impl<'a> Steer<'a> {
    /// Starts `steer run --socket ... ARGUMENTS` in the namespace and waits until every worker is `working`.
    #[track_caller]
    pub fn run<A: AsRef<str>>(namespace: &'a Namespace, arguments: &[A]) -> Self {
        let steer = Self::start(namespace, &binary(), arguments);
        steer.until_working();
        steer
    }

    /// Starts `steer daemon --socket ... --config FILE` in the namespace with what the file says, and waits until every worker is
    /// `working`.
    #[track_caller]
    pub fn configured(namespace: &'a Namespace, configuration: &str) -> Self {
        Self::configured_in(namespace, configuration, &[])
    }

    /// [`Self::configured`], with these variables in the daemon's environment.
    #[track_caller]
    pub fn configured_in(
        namespace: &'a Namespace,
        configuration: &str,
        environment: &[(String, OsString)],
    ) -> Self {
        let steer = Self::started_in(namespace, configuration, environment);
        steer.until_working();
        steer
    }

    /// [`Self::configured`], but waits for nothing.
    #[track_caller]
    pub fn started(namespace: &'a Namespace, configuration: &str) -> Self {
        Self::started_in(namespace, configuration, &[])
    }

    #[track_caller]
    fn started_in(namespace: &'a Namespace, configuration: &str, environment: &[(String, OsString)]) -> Self {
        let mut steer = Self::service(namespace, &binary(), configuration);
        steer.environment = environment.to_vec();
        steer.start_daemon();
        steer
    }

    /// `BINARY daemon --socket ... --config FILE --pins ...` in the namespace, with what the file says; not started.
    #[track_caller]
    pub fn service(namespace: &'a Namespace, binary: &Path, configuration: &str) -> Self {
        let mut steer = Self::not_started(namespace, binary, "daemon");
        let path = steer.path("steer.toml");
        fs::write(&path, configuration).expect("a file can be made in the temporary directory");
        // One bpffs is everybody's: a name that no other test has.
        let name = steer.directory.path().file_name().expect("a temporary directory has a name");
        let pins = Path::new("/sys/fs/bpf").join(name);
        let [path, pins_said] = [&path, &pins].map(|path| path.to_string_lossy().into_owned());
        steer.arguments = ["--config", &path, "--pins", &pins_said].map(str::to_owned).to_vec();
        steer.pins = Some(pins);
        steer
    }

    #[track_caller]
    fn not_started(namespace: &'a Namespace, binary: &Path, command: &'static str) -> Self {
        let directory = tempfile::Builder::new().prefix("steer-tests-").tempdir();
        let directory = directory.expect("a temporary directory can be made");
        Self {
            namespace,
            binary: binary.to_owned(),
            directory,
            daemon: None,
            command,
            arguments: Vec::new(),
            launcher: Vec::new(),
            environment: Vec::new(),
            stderr: None,
            pins: None,
        }
    }

    /// Starts `BINARY run --socket ... ARGUMENTS` in the namespace, and waits for nothing.
    #[track_caller]
    pub fn start<A: AsRef<str>>(namespace: &'a Namespace, binary: &Path, arguments: &[A]) -> Self {
        let mut steer = Self::foreground(namespace, binary, arguments);
        steer.start_daemon();
        steer
    }

    /// `BINARY run --socket ... ARGUMENTS` in the namespace; not started.
    #[track_caller]
    pub fn foreground<A: AsRef<str>>(namespace: &'a Namespace, binary: &Path, arguments: &[A]) -> Self {
        let mut steer = Self::not_started(namespace, binary, "run");
        steer.arguments = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        steer
    }

    /// Starts the daemon again, with the same arguments and the same socket, after it was killed or has ended. Waits for
    /// nothing: see [`Self::until_working`].
    #[track_caller]
    pub fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "the daemon still runs");
        let open = |name| File::options().create(true).append(true).open(self.path(name));
        let stdout = open("stdout").expect("a file can be made in the temporary directory");
        let stderr: OwnedFd = match &self.stderr {
            Some(given) => given.try_clone().expect("a descriptor can be duplicated"),
            None => open("stderr").expect("a file can be made in the temporary directory").into(),
        };
        let own = self.binary.to_string_lossy().into_owned();
        let words: Vec<&String> = self.launcher.iter().chain([&own]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args([self.command, "--socket"])
            .arg(self.socket())
            .args(&self.arguments)
            .env(MARK, self.directory.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Of a service manager that may run the tests.
            .env_remove("NOTIFY_SOCKET")
            .env_remove("STEER_SOCKET")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        let child = self.namespace.inside(|| command.spawn());
        let child = child.unwrap_or_else(|error| panic!("running {}: {error}", self.binary.display()));
        self.daemon = Some(child);
    }

    /// Waits until `steer status` answers and all workers of all groups are `working`; returns that status. Fails as soon as
    /// the daemon has ended, with its messages.
    #[track_caller]
    pub fn until_working(&self) -> Status {
        self.until("all workers work", START, |status| {
            let mut workers = status.groups.iter().flat_map(|group| &group.workers).peekable();
            workers.peek().is_some() && workers.all(|worker| worker.state == "working")
        })
    }

    /// Waits until this many workers are `working`, which may take long where there are many.
    #[track_caller]
    pub fn until_all_work(&self, count: usize, deadline: Duration) -> Status {
        self.until("all workers work", deadline, |status| {
            let workers = status.groups.iter().flat_map(|group| &group.workers);
            workers.filter(|worker| worker.state == "working").count() == count
        })
    }

    /// Waits until the status is as wanted, and returns it. Panics at the deadline with the last status.
    #[track_caller]
    pub fn until(&self, what: &str, deadline: Duration, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        wait::until(what, deadline, || {
            assert!(self.is_running(), "{what}: the daemon has ended: {}", self.messages());
            let output = self.command(["status", "--json"]);
            if output.code != Some(0) {
                return Err(format!("{output:?}; the daemon's messages: {}", self.messages()));
            }
            let status = output.parse::<Status>();
            if wanted(&status) { Ok(status) } else { Err(output.stdout) }
        })
    }

    /// The status of every group.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.command(["status", "--json"]).succeeded().parse()
    }

    /// Runs `steer --socket ... ARGUMENTS` to its end.
    #[track_caller]
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        // Files, not pipes: a command that prints much while nobody reads would wait for ever, and our wait is for its end.
        let [stdout, stderr] = [(), ()].map(|()| {
            tempfile::tempfile_in(self.directory.path())
                .expect("a file can be made in the temporary directory")
        });
        let share = |file: &File| file.try_clone().expect("a file descriptor can be duplicated");
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(self.socket()).args(arguments).env(MARK, self.directory.path());
        command.stdin(Stdio::null()).stdout(share(&stdout)).stderr(share(&stderr));
        let child = self.namespace.inside(|| command.spawn());
        let mut child = child.unwrap_or_else(|error| panic!("running {command:?}: {error}"));
        let ended = process::wait_for(&mut child, COMMAND);
        let (stdout, stderr) = (read_from_start(stdout), read_from_start(stderr));
        let Some(status) = ended else {
            process::signal(child.id(), Signal::KILL);
            child.wait().expect("a killed child can be waited for");
            panic!("{command:?}: not within {COMMAND:?}; printed so far: {stdout}{stderr}");
        };
        Output { code: status.code(), stdout, stderr }
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.path("steer.sock")
    }

    /// A file in the instance's temporary directory, for scripts and what they write.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The daemon's process.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon was started").id()
    }

    /// What the daemon, and the workers through it, have printed to stderr so far.
    pub fn messages(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// What the daemon, and the workers through it, have printed to stdout so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.path("stdout")).unwrap_or_default()
    }

    /// Kills the daemon with SIGKILL, and nothing else: its workers live on until this value is dropped.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon was started");
        daemon.kill().expect("our child can be killed");
        daemon.wait().expect("our child can be waited for");
    }

    /// Sends the daemon a signal and waits for its end; panics at the deadline.
    #[track_caller]
    pub fn end_with(&mut self, signal: Signal, deadline: Duration) -> ExitStatus {
        process::signal(self.pid(), signal);
        self.wait(deadline)
    }

    /// Runs `steer stop` and waits for the daemon's end; panics if either fails, or if a worker is left.
    #[track_caller]
    pub fn stop(&mut self, deadline: Duration) -> Output {
        let output = self.command(["stop", "--json"]).succeeded();
        let status = self.wait(deadline);
        assert!(status.success(), "the daemon ended with {status} after `steer stop`");
        let left = process::describe(&self.processes());
        assert!(left.is_empty(), "`steer stop` has left {left}");
        output
    }

    /// Waits for the daemon's end; panics at the deadline.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let daemon = self.daemon.as_mut().expect("the daemon was started");
        let Some(status) = process::wait_for(daemon, deadline) else {
            panic!("the daemon has not ended within {deadline:?}; its messages: {}", self.messages());
        };
        self.daemon = None;
        status
    }

    /// Every process that the daemon or a worker of it has started and that is there, the daemon itself included.
    pub fn processes(&self) -> Vec<u32> {
        process::with_variable(MARK, &self.directory.path().to_string_lossy())
    }

    /// Also those of the namespace that have no environment: a process has none yet for a moment of its exec.
    fn processes_and_those_in_exec(&self) -> Vec<u32> {
        let in_exec = self.namespace.processes().into_iter().filter(|pid| process::is_in_exec(*pid));
        self.processes().into_iter().chain(in_exec).collect()
    }

    /// Waits until `steer status` answers, whatever it says.
    #[track_caller]
    pub fn until_reachable(&self) -> Status {
        self.until("the daemon answers", START, |_| true)
    }

    /// What it says of its groups to people; nothing where it does not answer soon.
    fn last_status(&self) -> String {
        let mut command = Command::new(&self.binary);
        command.arg("--socket").arg(self.socket()).arg("status").stdin(Stdio::null());
        let Ok(mut asking) = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
            return String::new();
        };
        if process::wait_for(&mut asking, STATUS).is_none() {
            let _ = asking.kill();
        }
        asking
            .wait_with_output()
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    }

    /// Where its pins are.
    pub fn pins(&self) -> Option<&Path> {
        self.pins.as_deref()
    }

    /// Looks without reaping, which would need to change the child.
    pub fn is_running(&self) -> bool {
        let Some(daemon) = &self.daemon else { return false };
        process::has_not_ended(daemon)
    }
}

impl Drop for Steer<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- stdout of the daemon\n{}--- stderr of the daemon\n{}",
                self.printed(),
                self.messages()
            );
            eprintln!("--- processes of the instance: {}", process::describe(&self.processes()));
            eprintln!("--- status\n{}--- TCP of the namespace: {}", self.last_status(), tcp_counters());
        }
        if let Some(mut daemon) = self.daemon.take() {
            // First, or it would start again what is killed below. An error says that it has ended already.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        process::kill_all("ending all processes of the instance", || self.processes_and_those_in_exec());
        if let Some(pins) = &self.pins {
            // Gone already, where the daemon has ended its groups.
            let _ = fs::remove_dir_all(pins);
        }
        cgroups::sweep();
    }
}

/// The file's offset is shared with the process that wrote it: reading starts at 0 by position.
fn read_from_start(mut file: File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind().expect("a file can be rewound");
    file.read_to_string(&mut text).expect("a command prints UTF-8");
    text
}
