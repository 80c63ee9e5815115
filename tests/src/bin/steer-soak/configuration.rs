//! The groups, and what the configuration's file says of them.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

/// What of a group stays as it is.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) listen: &'static [&'static str],
    /// Where clients connect.
    pub(crate) targets: &'static [&'static str],
    /// At rest.
    pub(crate) workers: u32,
    pub(crate) policy: &'static str,
    /// Keys of `[group.workers]` that stay.
    pub(crate) keys: &'static str,
}

/// The groups that are always there.
pub(crate) const GROUPS: [Group; 4] = [
    Group {
        name: "web",
        listen: &["127.0.0.1:8080", "[::1]:8080"],
        targets: &["127.0.0.1:8080", "[::1]:8080"],
        workers: 3,
        policy: "hash",
        keys: "",
    },
    Group {
        name: "own",
        listen: &["127.0.0.1:8081"],
        targets: &["127.0.0.1:8081"],
        workers: 2,
        policy: "hash",
        keys: "mode = \"own\"",
    },
    // A wildcard of both families.
    Group {
        name: "least",
        listen: &["[::]:8082"],
        targets: &["127.0.0.2:8082", "[::1]:8082"],
        workers: 3,
        policy: "least-loaded",
        keys: "",
    },
    // While its one worker is replaced, connections are held.
    Group {
        name: "held",
        listen: &["[::1]:8083"],
        targets: &["[::1]:8083"],
        workers: 1,
        policy: "hash",
        keys: "restart = \"replace\"",
    },
];

/// Comes and goes with reloads; nobody connects to it.
pub(crate) const EXTRA: Group =
    Group { name: "extra", listen: &["127.0.0.1:8090"], targets: &[], workers: 2, policy: "hash", keys: "" };

/// Where metrics and readiness are served.
pub(crate) const METRICS: &str = "127.0.0.1:9464";

/// What reloads change of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) workers: u32,
    pub(crate) policy: &'static str,
    /// A variable of the workers' environment.
    pub(crate) said: u64,
}

/// What the file says; by default what it says at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Configuration {
    /// The groups that differ from how they are at rest.
    pub(crate) groups: BTreeMap<&'static str, Keys>,
    pub(crate) has_extra: bool,
}

impl Group {
    pub(crate) fn targets(&self) -> Vec<SocketAddr> {
        self.targets.iter().map(|target| target.parse().expect("an address")).collect()
    }

    fn at_rest(&self) -> Keys {
        Keys { workers: self.workers, policy: self.policy, said: 0 }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, keys: Keys) -> fmt::Result {
        let Self { name, listen, keys: more, .. } = self;
        let Keys { workers, policy, said } = keys;
        writeln!(f, "[[group]]\nname = \"{name}\"\nlisten = {listen:?}\npolicy = \"{policy}\"")?;
        writeln!(f, "[group.workers]\ncount = {workers}\nenvironment = {{ SAID = \"{said}\" }}\n{more}")?;
        writeln!(f, "[group.deadlines]\nsettle = \"0s\"\n")
    }
}

impl Configuration {
    /// What it says of a group.
    pub(crate) fn keys(&self, name: &str) -> Keys {
        let at_rest = || {
            let group = GROUPS.iter().find(|group| group.name == name);
            group.unwrap_or_else(|| panic!("there is no group {name}")).at_rest()
        };
        self.groups.get(name).copied().unwrap_or_else(at_rest)
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[daemon]\nmetrics = \"{METRICS}\"\n")?;
        for group in &GROUPS {
            group.write(f, self.keys(group.name))?;
        }
        if self.has_extra { EXTRA.write(f, EXTRA.at_rest()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_one_that_is_taken() {
        let changed = Keys { workers: 4, policy: "source", said: 7 };
        let configuration = Configuration { groups: BTreeMap::from([("own", changed)]), has_extra: true };
        let directory = tempfile::tempdir().expect("a directory can be made");
        for (text, groups) in [(configuration.to_string(), 5), (Configuration::default().to_string(), 4)] {
            let path = directory.path().join("steer.toml");
            std::fs::write(&path, &text).expect("a file can be written");
            let read = steer::config::load(&path).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(read.groups.len(), groups);
        }
    }
}
