//! steer, installed from its Debian package in a [`Machine`](crate::machine::Machine).

use std::{fs, time::Duration};

use steer::{
    control::api::Status,
    load::{FourTuple, Tally, four_tuples},
};

use crate::{
    load::Load,
    machine::{self, Machine},
    netns::Namespace,
    wait,
};

/// Set by `cargo xtask dist --try`: a package; one that is newer.
const PACKAGES: [&str; 2] = ["STEER_PACKAGE", "STEER_PACKAGE_NEWER"];

/// What sets them, and the tree.
const HOW: &str = "cargo xtask dist --try";

/// How long the unit or the workers may take for what they do in moments.
const SOON: Duration = Duration::from_secs(40);

/// Connections that have to succeed before something is done, and after it.
const CONNECTIONS: u64 = 2_000;

/// One group, whose workers are not root.
pub const CONFIGURATION: &str = "\
[[group]]
name = \"web\"
listen = [\"127.0.0.1:80\"]
[group.workers]
count = 2
user = \"www-data\"
";

/// A system with the package installed.
#[derive(Debug)]
pub struct Packaged {
    /// The system.
    pub machine: Machine,
}

/// A worker's process.
pub type Worker = (String, Option<u32>, u64);

impl Packaged {
    /// Boots a system and installs the package, and nothing more.
    #[track_caller]
    pub fn install(namespace: &Namespace) -> Self {
        let packaged = Self { machine: Machine::boot_given(namespace, HOW) };
        packaged.unpack(PACKAGES[0]);
        packaged
    }

    /// The same, and starts the daemon with [`CONFIGURATION`] and a drop-in for its unit, if that is not empty.
    #[track_caller]
    pub fn start(namespace: &Namespace, drop_in: &str) -> Self {
        Self::install(namespace).started(CONFIGURATION, drop_in)
    }

    /// Starts the daemon of what is installed.
    #[track_caller]
    pub fn started(self, configuration: &str, drop_in: &str) -> Self {
        let packaged = self;
        packaged.write("/etc/steer/steer.toml", configuration);
        if !drop_in.is_empty() {
            packaged.write("/etc/systemd/system/steer.service.d/test.conf", drop_in);
            packaged.machine.execute(&["systemctl", "daemon-reload"]);
        }
        let started = packaged.machine.run(&["systemctl", "restart", "steer"]);
        assert_eq!(started.code, Some(0), "{started:?}\n{}", packaged.machine.journal("steer"));
        packaged.until_working();
        packaged
    }

    /// Installs the newer package over it.
    #[track_caller]
    pub fn upgrade(&self) {
        self.unpack(PACKAGES[1]);
    }

    #[track_caller]
    fn unpack(&self, package: &str) {
        fs::copy(machine::given(package, HOW), self.machine.path("/var/cache/steer.deb"))
            .expect("the system's files can be written");
        self.machine.execute(&["dpkg", "--install", "/var/cache/steer.deb"]);
    }

    /// Writes a file of the system.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        self.machine.write(path, text);
    }

    /// The daemon's pid, as the system has it; 0 where there is none.
    #[track_caller]
    pub fn daemon(&self) -> u32 {
        self.machine.property("steer", "MainPID").parse().expect("a pid is a number")
    }

    /// Waits until another daemon than this one runs and says that it is ready.
    #[track_caller]
    pub fn until_succeeded(&self, before: u32) {
        wait::until("another daemon is ready", SOON, || {
            let now = (self.daemon(), self.machine.property("steer", "ActiveState"));
            if now.0 != 0 && now.0 != before && now.1 == "active" { Ok(()) } else { Err(format!("{now:?}")) }
        });
    }

    /// Waits until all workers are `working`, and returns them.
    #[track_caller]
    pub fn until_working(&self) -> Vec<Worker> {
        wait::until("all workers work", SOON, || {
            let output = self.machine.run(&["steer", "status", "--json"]);
            let Ok(status) = serde_json::from_str::<Status>(&output.stdout) else {
                return Err(format!("{output:?}\n{}", self.machine.journal("steer")));
            };
            let workers: Vec<_> = status.groups.iter().flat_map(|group| &group.workers).collect();
            if workers.is_empty() || workers.iter().any(|worker| worker.state != "working") {
                return Err(output.stdout);
            }
            Ok(workers
                .iter()
                .map(|worker| (worker.name.to_string(), worker.pid, worker.generation))
                .collect())
        })
    }

    /// Loads the group while something is done, from well before until well after it.
    #[track_caller]
    pub fn under_load(&self, change: impl FnOnce()) -> Tally {
        let load = Load::start(pool(), 16);
        load.wait_for(CONNECTIONS);
        change();
        load.wait_for(CONNECTIONS);
        load.end()
    }
}

fn pool() -> Vec<FourTuple> {
    let server = "127.0.0.1:80".parse().expect("an address");
    let clients: Vec<_> = (1..=8).map(|number| [127, 1, 0, number].into()).collect();
    four_tuples(&clients, 20_000..20_064, &[server])
}
