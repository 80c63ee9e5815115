//! A Debian host: the daemon is a unit of its systemd, and so are the servers that are adopted.

use std::{fs, time::Duration};

use steer::control::api::{GroupStatus, Status};

use crate::{machine::Machine, netns::Namespace, output::Output, steer::binary, wait};

/// What gives the tree.
const HOW: &str = "cargo xtask servers --adopted";

/// The unit of the package.
const UNIT: &str = include_str!("../../server/packaging/steer.service");

/// How long a unit may take for anything in these tests.
const SOON: Duration = Duration::from_secs(60);

/// A host whose daemon has no group yet.
#[derive(Debug)]
pub struct Host {
    /// The system.
    pub machine: Machine,
}

impl Host {
    /// Boots the system, without the daemon.
    #[track_caller]
    pub fn boot(namespace: &Namespace) -> Self {
        let host = Self { machine: Machine::boot_given(namespace, HOW) };
        fs::copy(binary(), host.machine.path("/usr/bin/steer")).expect("the system's files can be written");
        host.machine.write("/etc/steer/steer.toml", "");
        host.machine.write("/etc/systemd/system/steer.service", UNIT);
        host.machine.execute(&["systemctl", "daemon-reload"]);
        host
    }

    /// Boots the system and starts the daemon.
    #[track_caller]
    pub fn start(namespace: &Namespace) -> Self {
        let host = Self::boot(namespace);
        host.systemctl(&["start", "steer"]);
        host
    }

    /// Writes units, by name, has systemd read them, and starts them.
    #[track_caller]
    pub fn add(&self, units: &[(&str, &str)]) {
        for (name, text) in units {
            self.machine.write(&format!("/etc/systemd/system/{name}"), text);
        }
        self.systemctl(&["daemon-reload"]);
    }

    /// Runs systemctl to a successful end.
    #[track_caller]
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        let output = self.machine.run(&[&["systemctl"], arguments].concat());
        assert_eq!(output.code, Some(0), "systemctl {arguments:?}: {output:?}\n{}", self.told());
        output.stdout.trim_end().to_owned()
    }

    /// Runs a command of steer to its end.
    #[track_caller]
    pub fn steer(&self, arguments: &[&str]) -> Output {
        self.machine.run(&[&["steer"], arguments].concat())
    }

    /// The same, to a successful end; its output.
    #[track_caller]
    pub fn does(&self, arguments: &[&str]) -> String {
        let output = self.steer(arguments);
        assert_eq!(output.code, Some(0), "steer {arguments:?}: {output:?}\n{}", self.told());
        output.stdout
    }

    /// The same, to a refusal with this code that has these words and a hint.
    #[track_caller]
    pub fn refuses(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.steer(arguments);
        println!("steer {}: {}", arguments.join(" "), output.stderr.trim_end().replace('\n', "; "));
        assert_eq!(output.code, Some(code), "{output:?}");
        for word in words.iter().chain(&["hint:"]) {
            assert!(output.stderr.contains(word), "{word:?} is not in {output:?}");
        }
    }

    /// A group as it is now.
    #[track_caller]
    pub fn group(&self, name: &str) -> GroupStatus {
        let status: Status = self.steer(&["status", "--json"]).succeeded().parse();
        let found = status.groups.into_iter().find(|group| group.name.as_str() == name);
        found.unwrap_or_else(|| panic!("there is no group {name}\n{}", self.told()))
    }

    /// Waits until a group is as it is wanted.
    #[track_caller]
    pub fn until(&self, what: &str, name: &str, is_so: impl Fn(&GroupStatus) -> bool) -> GroupStatus {
        wait::until(what, SOON, || {
            let group = self.group(name);
            if is_so(&group) { Ok(group) } else { Err(format!("{group:?}\n{}", self.told())) }
        })
    }

    /// Waits until this many workers of a group work, and no more are there.
    #[track_caller]
    pub fn until_working(&self, name: &str, count: usize) -> GroupStatus {
        self.until(&format!("{count} workers of {name} work"), name, |group| {
            group.workers.len() == count && group.workers.iter().all(|worker| worker.state == "working")
        })
    }

    /// The daemon's events and log, for messages.
    pub fn told(&self) -> String {
        format!("{}\n{}", self.steer(&["events", "-n", "60"]).stdout, self.machine.journal("steer"))
    }
}
