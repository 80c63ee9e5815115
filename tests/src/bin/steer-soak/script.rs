//! What an operator does, drawn from a seed: the same seed gives the same sequence, whatever comes of it.

use std::{collections::BTreeMap, time::Duration};

use steer_tests::drawn::Drawn;

use crate::configuration::{Configuration, EXTRA, GROUPS, Keys};

/// A `steer` command's words.
pub(crate) type Words = Vec<String>;

/// A worker, by its group and its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Victim {
    pub(crate) group: &'static str,
    pub(crate) index: u32,
}

/// One thing that an operator does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// What it is counted as.
    pub(crate) kind: &'static str,
    /// What the configuration's file says from now on, where that changes.
    pub(crate) file: Option<Configuration>,
    /// Commands, one after another, that all have to succeed.
    pub(crate) commands: Vec<Words>,
    /// What else happens. Where it strikes during a command, that is the first one, which is given once more afterwards.
    pub(crate) fate: Fate,
}

/// What befalls a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Undisturbed,
    /// The client of the first command is killed after so long.
    ClientKilled(Duration),
    /// The daemon is, and maybe a worker before the next daemon starts.
    DaemonKilled(Duration, Option<Victim>),
    WorkerKilled(Victim),
    /// The file is read because of a signal.
    HungUp,
}

/// Draws the steps, and knows how many workers each group has when one is over.
#[derive(Debug)]
pub(crate) struct Script {
    drawn: Drawn,
    kills_daemons: bool,
    pub(crate) counts: BTreeMap<&'static str, u32>,
    pub(crate) file: Configuration,
}

impl Script {
    pub(crate) fn new(seed: u64, kills_daemons: bool) -> Self {
        let counts = GROUPS.iter().map(|group| (group.name, group.workers)).collect();
        Self { drawn: Drawn::new(seed), kills_daemons, counts, file: Configuration::default() }
    }

    /// The next step.
    pub(crate) fn next(&mut self) -> Step {
        let mut step = match self.drawn.below(100) {
            0..20 => self.restart(),
            20..28 => self.canary(),
            28..42 => self.drain(),
            42..56 => self.scale(),
            56..63 => self.policy(),
            63..70 => self.weight(),
            70..82 => self.reload(),
            82..90 => self.read(),
            _ => Step::of("worker killed", vec![], Fate::WorkerKilled(self.victim())),
        };
        if step.commands.is_empty() || step.fate != Fate::Undisturbed {
            return step;
        }
        let after = self.instant();
        if self.kills_daemons && self.drawn.below(2) == 0 {
            // One that stays, whatever is under way.
            let victim = Victim { index: 0, ..self.victim() };
            step.fate = Fate::DaemonKilled(after, (self.drawn.below(4) == 0).then_some(victim));
        } else if self.drawn.below(8) == 0 {
            step.fate = Fate::ClientKilled(after);
        }
        step
    }

    /// Back to how everything was at the start.
    pub(crate) fn rest(&mut self) -> Step {
        self.file = Configuration::default();
        let mut commands = vec![words(&["reload"])];
        for group in &GROUPS {
            self.counts.insert(group.name, group.workers);
            commands.push(words(&["scale", group.name, &group.workers.to_string()]));
            commands.push(words(&["policy", group.name, group.policy]));
            let weigh = |index: u32| words(&["weight", &format!("{}/{index}", group.name), "1"]);
            commands.extend((0..group.workers).map(weigh));
            if self.kills_daemons {
                // Of a process that it has not started itself, a daemon holds less.
                commands.push(words(&["restart", group.name]));
            }
        }
        Step { file: Some(self.file.clone()), ..Step::of("rest", commands, Fate::Undisturbed) }
    }

    fn group(&mut self) -> &'static str {
        GROUPS[self.drawn.index(GROUPS.len())].name
    }

    fn victim(&mut self) -> Victim {
        let group = self.group();
        Victim { group, index: self.drawn.below(u64::from(self.counts[group])) as u32 }
    }

    fn worker(&mut self) -> String {
        let Victim { group, index } = self.victim();
        format!("{group}/{index}")
    }

    fn restart(&mut self) -> Step {
        let whom = if self.drawn.below(3) == 0 { self.group().to_owned() } else { self.worker() };
        Step::of("restart", vec![words(&["restart", &whom])], Fate::Undisturbed)
    }

    fn canary(&mut self) -> Step {
        let surging: Vec<&str> =
            GROUPS.iter().filter(|group| group.keys.is_empty()).map(|group| group.name).collect();
        let group = surging[self.drawn.index(surging.len())];
        let command = words(&["restart", &format!("{group}/0"), "--canary", "50%", "--hold", "100ms"]);
        Step::of("canary", vec![command], Fate::Undisturbed)
    }

    fn drain(&mut self) -> Step {
        let worker = self.worker();
        let commands = vec![words(&["drain", &worker]), words(&["undrain", &worker])];
        Step::of("drain and undrain", commands, Fate::Undisturbed)
    }

    fn scale(&mut self) -> Step {
        let group = self.group();
        let workers = 1 + self.drawn.below(5) as u32;
        self.counts.insert(group, workers);
        Step::of("scale", vec![words(&["scale", group, &workers.to_string()])], Fate::Undisturbed)
    }

    fn policy(&mut self) -> Step {
        let policy = self.drawn.one_of(&["hash", "source", "least-loaded", "cpu"]);
        let command = words(&["policy", self.group(), policy]);
        Step::of("policy", vec![command], Fate::Undisturbed)
    }

    fn weight(&mut self) -> Step {
        let (worker, weight) = (self.worker(), 1 + self.drawn.below(5));
        let mut command = words(&["weight", &worker, &weight.to_string()]);
        if self.drawn.below(4) == 0 {
            command.extend(words(&["--over", "500ms"]));
        }
        Step::of("weight", vec![command], Fate::Undisturbed)
    }

    fn reload(&mut self) -> Step {
        let group = self.group();
        let keys = Keys {
            workers: 1 + self.drawn.below(4) as u32,
            policy: self.drawn.one_of(&["hash", "source", "least-loaded"]),
            said: self.drawn.below(1_000),
        };
        // What was set by hand stays where the file says of it what it said.
        if self.file.keys(group).workers != keys.workers {
            self.counts.insert(group, keys.workers);
        }
        self.file.groups.insert(group, keys);
        if self.drawn.below(4) == 0 {
            self.file.has_extra = !self.file.has_extra;
        }
        let (commands, fate) = match self.drawn.below(3) {
            0 => (vec![], Fate::HungUp),
            _ => (vec![words(&["reload"])], Fate::Undisturbed),
        };
        Step { file: Some(self.file.clone()), ..Step::of("reload", commands, fate) }
    }

    fn read(&mut self) -> Step {
        let (group, worker) = (self.group(), self.worker());
        let readings = [
            words(&["status", "--json"]),
            words(&["status", group]),
            words(&["table", group]),
            words(&["events", "--json"]),
            words(&["metrics"]),
            words(&["policy", group]),
            words(&["weight", &worker, "3", "--dry-run"]),
            words(&["call", "io.steer.Control.Info"]),
        ];
        if self.drawn.below(4) == 0 {
            // It has no end of its own.
            let after = self.instant();
            return Step::of("follow", vec![words(&["events", "--follow"])], Fate::ClientKilled(after));
        }
        Step::of("read", readings.to_vec(), Fate::Undisturbed)
    }

    /// Somewhere in a command's life, which is some milliseconds to some tenths of a second, or after it.
    fn instant(&mut self) -> Duration {
        Duration::from_micros(self.drawn.below(150_000))
    }

    /// Whether the group that comes and goes is there.
    pub(crate) fn has_extra(&self) -> bool {
        self.file.has_extra
    }

    /// How many workers there are in all.
    pub(crate) fn workers(&self) -> u32 {
        self.counts.values().sum::<u32>() + if self.has_extra() { EXTRA.workers } else { 0 }
    }
}

impl Step {
    fn of(kind: &'static str, commands: Vec<Words>, fate: Fate) -> Self {
        Self { kind, file: None, commands, fate }
    }

    /// Whether the first command has an end only because its client is killed.
    pub(crate) fn is_endless(&self) -> bool {
        self.kind == "follow"
    }
}

fn words(words: &[&str]) -> Words {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn steps(seed: u64, kills_daemons: bool) -> Vec<Step> {
        let mut script = Script::new(seed, kills_daemons);
        (0..500).map(|_| script.next()).collect()
    }

    #[test]
    fn a_seed_is_a_sequence_and_each_has_everything() {
        assert_eq!(steps(7, true), steps(7, true));
        assert_ne!(steps(7, true), steps(8, true));
        let kinds: BTreeSet<&str> = steps(7, true).iter().map(|step| step.kind).collect();
        assert_eq!(kinds.len(), 10, "{kinds:?}");
        let daemon_dies = |step: &Step| matches!(step.fate, Fate::DaemonKilled(..));
        assert!(steps(7, true).iter().any(daemon_dies) && !steps(7, false).iter().any(daemon_dies));
        let with_worker = |step: &Step| matches!(step.fate, Fate::DaemonKilled(_, Some(_)));
        assert!(steps(7, true).iter().any(with_worker));
    }

    #[test]
    fn a_rest_is_the_same_every_time() {
        let (mut used, mut new) = (Script::new(3, true), Script::new(4, true));
        for _ in 0..100 {
            used.next();
        }
        assert_eq!(used.rest(), new.rest());
        assert_eq!((used.workers(), &used.counts), (new.workers(), &new.counts));
    }
}
