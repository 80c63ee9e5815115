//! Settings key by key: which are different, and how they read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

use crate::{
    config::DaemonSettings,
    control::api::{Applies, KeyChange},
    daemon::settings::{GroupSettings, Readiness, RestartKind, WhenEmpty},
};

/// What of a group that can change is different, in the order of the keys of its file.
pub(super) fn changes(old: &GroupSettings, new: &GroupSettings) -> Vec<KeyChange> {
    use Applies::{NextGeneration, Now};
    let mut changes = Vec::new();
    let mut compare = |key: &str, of: &dyn Fn(&GroupSettings) -> Option<String>, applies| {
        changes.extend(change(key.to_owned(), of(old), of(new), applies));
    };
    compare("policy", &|group| Some(group.policy.to_string()), Now);
    compare("policy, connection IDs", &|group| group.policy.connection_ids(), NextGeneration);
    compare("when_empty", &|group| Some(when_empty(group)), Now);
    compare("workers.count", &|group| Some(group.workers.to_string()), Now);
    for index in union(old.weights.keys(), new.weights.keys()) {
        compare(&format!("workers.weights.{index}"), &|group| Some(group.weight(*index).to_string()), Now);
    }
    compare(
        "workers.command",
        &|group| group.command.as_ref().map(|words| format!("{words:?}")),
        NextGeneration,
    );
    compare("workers.user", &|group| group.user.clone(), NextGeneration);
    let directory = |group: &GroupSettings| Some(group.directory.as_ref()?.display().to_string());
    compare("workers.directory", &directory, NextGeneration);
    changes.extend(variables(&old.environment, &new.environment));
    let limits = |group: &GroupSettings| {
        group.limits.iter().map(|(resource, limit)| (resource.name(), limit.to_string())).collect()
    };
    let (before, after): (BTreeMap<&str, String>, BTreeMap<&str, String>) = (limits(old), limits(new));
    for name in union(before.keys(), after.keys()) {
        let key = format!("workers.limits.{name}");
        changes.extend(change(key, before.get(name).cloned(), after.get(name).cloned(), NextGeneration));
    }
    let mut compare = |key: &str, of: &dyn Fn(&GroupSettings) -> String, applies| {
        changes.extend(change(key.to_owned(), Some(of(old)), Some(of(new)), applies));
    };
    let restarts = |group: &GroupSettings| format!("{:?}", group.adopt.as_ref().map(|adopt| &adopt.restart));
    compare("adopt.restart", &restarts, Now);
    let hold = |group: &GroupSettings| group.deadlines.hold.map_or_else(|| "for ever".to_owned(), duration);
    compare("deadlines.hold", &hold, Now);
    compare("workers.ready", &ready, NextGeneration);
    compare("workers.restart", &restart, Now);
    compare("workers.stop_signal", &|group| group.stop_signal.to_string(), Now);
    compare("deadlines.start", &|group| duration(group.deadlines.start), Now);
    compare("deadlines.drain", &|group| duration(group.deadlines.drain), Now);
    compare("deadlines.settle", &|group| duration(group.deadlines.settle), Now);
    compare("deadlines.stop", &|group| duration(group.deadlines.stop), Now);
    changes
}

/// What of the daemon's own that can change is different.
pub(super) fn daemon_changes(old: &DaemonSettings, new: &DaemonSettings) -> Vec<KeyChange> {
    let access = |daemon: &DaemonSettings| (!daemon.access.is_empty()).then(|| daemon.access.join(", "));
    change("access".to_owned(), access(old), access(new), Applies::Now).into_iter().collect()
}

fn change(key: String, before: Option<String>, after: Option<String>, applies: Applies) -> Option<KeyChange> {
    (before != after).then_some(KeyChange { key, before, after, applies })
}

/// The variables that are set, unset, or set to something else. Their values may be secrets.
fn variables(old: &[(String, String)], new: &[(String, String)]) -> Vec<KeyChange> {
    let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (old.iter().cloned().collect(), new.iter().cloned().collect());
    let one = |name: &String| {
        let (was, is) = (before.get(name), after.get(name));
        let word = match (was, is) {
            (Some(was), Some(is)) if was == is => return None,
            (Some(_), Some(_)) => "(another value)",
            _ => "(a value)",
        };
        Some(KeyChange {
            key: format!("workers.environment.{name}"),
            before: was.map(|_| "(a value)".to_owned()),
            after: is.map(|_| word.to_owned()),
            applies: Applies::NextGeneration,
        })
    };
    union(before.keys(), after.keys()).into_iter().filter_map(one).collect()
}

fn union<'a, T: Ord>(
    one: impl Iterator<Item = &'a T>,
    other: impl Iterator<Item = &'a T>,
) -> BTreeSet<&'a T> {
    one.chain(other).collect()
}

pub(super) fn listen(group: &GroupSettings) -> String {
    group.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn mode(group: &GroupSettings) -> String {
    group.mode.as_str().to_owned()
}

pub(super) fn user(group: &GroupSettings) -> String {
    group.user.clone().unwrap_or_else(|| "the daemon's own".to_owned())
}

pub(super) fn sockets(group: &GroupSettings) -> String {
    group.sockets.map_or_else(|| "as many as its CPUs ask for".to_owned(), |count| count.to_string())
}

pub(super) fn seed(group: &GroupSettings) -> String {
    group
        .seed
        .map_or_else(|| "drawn at random".to_owned(), |[first, second]| format!("{first:016x}{second:016x}"))
}

fn when_empty(group: &GroupSettings) -> String {
    match group.when_empty {
        WhenEmpty::Hold => "hold",
        WhenEmpty::Refuse => "refuse",
    }
    .to_owned()
}

fn ready(group: &GroupSettings) -> String {
    match group.ready {
        Readiness::Notify => "notify",
        Readiness::Listener => "listener",
        Readiness::Probe => "probe",
        Readiness::Any => "whichever shows first",
    }
    .to_owned()
}

fn restart(group: &GroupSettings) -> String {
    match group.restart {
        RestartKind::Surge => "surge",
        RestartKind::Replace => "replace",
    }
    .to_owned()
}

/// As it can be written.
pub(super) fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let with = |number: u128, unit: &dyn Display| format!("{number}{unit}");
    match milliseconds {
        whole if whole > 0 && whole % 3_600_000 == 0 => with(whole / 3_600_000, &"h"),
        whole if whole > 0 && whole % 60_000 == 0 => with(whole / 60_000, &"m"),
        whole if whole % 1_000 == 0 => with(whole / 1_000, &"s"),
        other => with(other, &"ms"),
    }
}
