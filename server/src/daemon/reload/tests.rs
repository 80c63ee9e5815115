//! Plans: that each leads from the one configuration to the other, and what cannot be.

use std::{path::Path, time::Duration};

use proptest::{
    collection::{btree_map, btree_set},
    prelude::*,
    sample::select,
};

use super::{keys, plan::*};
use crate::{
    config::{Config, DaemonSettings},
    control::api::{Applies, KeyChange},
    daemon::{
        rules::{reconfiguration, rules},
        settings::{Deadlines, FlowSettings, GroupSettings, Mode, Readiness, RestartKind, WhenEmpty},
    },
    engine::{
        event::{Command, Event},
        group::Group,
    },
    policy::WEIGHT_DEFAULT,
    workers::limits::{Limit, Resource},
};

const SOCKET: &str = "/run/steer/steer.sock";

fn one_of<T: Clone + std::fmt::Debug + 'static>(values: &[T]) -> impl Strategy<Value = T> {
    select(values.to_vec())
}

fn option_of(values: &[&'static str]) -> impl Strategy<Value = Option<String>> {
    prop::option::of(one_of(values).prop_map(str::to_owned))
}

/// Settings of a group; what it has for life differs seldom, and only if asked for.
fn group(name: &'static str, port: u16, lives: bool) -> impl Strategy<Value = GroupSettings> {
    let often = move |common: usize| {
        if lives { prop_oneof![9 => Just(0), 1 => Just(common)].boxed() } else { Just(0).boxed() }
    };
    let life = (often(1), often(1), prop::option::of(often(1)));
    let weights = btree_map(0u32..3, 0u32..4, 0..3);
    let numbers = (1u32..4, weights, one_of(&["hash", "source", "cpu"]), any::<bool>(), any::<bool>());
    let words = (
        option_of(&["/bin/a", "/bin/b"]),
        option_of(&["root", "nobody"]),
        option_of(&["/", "/srv"]),
        btree_map(one_of(&["A", "B"]), one_of(&["1", "2"]), 0..3),
    );
    let rest = (
        btree_map(one_of(&["core", "nofile"]), 1u64..3, 0..3),
        any::<bool>(),
        one_of(&[libc::SIGTERM, libc::SIGINT]),
        (1u64..3, 1u64..3, 0u64..2, 1u64..3),
    );
    (life, numbers, words, rest).prop_map(move |(life, numbers, words, rest)| {
        let (moved, own, seed) = life;
        let (workers, weights, policy, replace, hold) = numbers;
        let (command, user, directory, environment) = words;
        let (limits, notify, stop_signal, deadlines) = rest;
        let own = own == 1;
        let mode = if own { Mode::Own } else { Mode::Inherit };
        let [start, drain, settle, stop] =
            [deadlines.0, deadlines.1, deadlines.2, deadlines.3].map(Duration::from_secs);
        GroupSettings {
            name: name.parse().unwrap(),
            listen: vec![format!("127.0.0.1:{}", port + moved as u16).parse().unwrap()],
            workers,
            weights: weights
                .into_iter()
                .filter(|&(index, weight)| index < workers && weight != WEIGHT_DEFAULT)
                .collect(),
            policy: policy.parse().unwrap(),
            mode,
            sockets: None,
            restart: if replace { RestartKind::Replace } else { RestartKind::Surge },
            ready: if notify { Readiness::Notify } else { Readiness::default_for(mode, false, true) },
            when_empty: if hold { WhenEmpty::Hold } else { WhenEmpty::Refuse },
            adopt: None,
            command: command.map(|program| vec![program]),
            user,
            directory: directory.map(Into::into),
            environment: environment
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            limits: limits
                .into_iter()
                .map(|(name, value)| (Resource::named(name).unwrap(), Limit { soft: value, hard: value }))
                .collect(),
            stop_signal,
            seed: seed.map(|seed| [7, seed as u64]),
            flows: FlowSettings::default(),
            deadlines: Deadlines { start, drain, settle, stop, hold: None },
        }
    })
}

fn config(lives: bool) -> impl Strategy<Value = Config> {
    let groups = (group("a", 1000, lives), group("b", 1001, lives), group("c", 1003, lives));
    let access = btree_set(one_of(&["alice", "bob"]), 0..3);
    (groups, btree_set(0usize..3, 1..4), access).prop_map(|((a, b, c), chosen, access)| Config {
        daemon: DaemonSettings {
            access: access.into_iter().map(str::to_owned).collect(),
            ..DaemonSettings::default()
        },
        groups: [a, b, c]
            .into_iter()
            .enumerate()
            .filter(|(at, _)| chosen.contains(at))
            .map(|(_, group)| group)
            .collect(),
        files: vec![],
    })
}

/// Takes one key over, by its name.
fn follow(group: &mut GroupSettings, KeyChange { key, .. }: &KeyChange, new: &GroupSettings) {
    let parts: Vec<&str> = key.split('.').collect();
    let put = |pairs: &mut Vec<(String, String)>, name: &str| {
        pairs.retain(|(other, _)| other != name);
        pairs.extend(new.environment.iter().find(|(other, _)| other == name).cloned());
        pairs.sort();
    };
    match parts[..] {
        ["policy"] => group.policy = new.policy,
        ["when_empty"] => group.when_empty = new.when_empty,
        ["workers", "count"] => group.workers = new.workers,
        ["workers", "weights", index] => {
            let index = index.parse().unwrap();
            group.weights.remove(&index);
            group.weights.extend(new.weights.get(&index).map(|weight| (index, *weight)));
        }
        ["workers", "command"] => group.command = new.command.clone(),
        ["workers", "user"] => group.user = new.user.clone(),
        ["workers", "directory"] => group.directory = new.directory.clone(),
        ["workers", "environment", name] => put(&mut group.environment, name),
        ["workers", "limits", name] => {
            let resource = Resource::named(name).unwrap();
            group.limits.retain(|(other, _)| *other != resource);
            group.limits.extend(new.limits.iter().find(|(other, _)| *other == resource));
            group.limits.sort_by_key(|(resource, _)| resource.name());
        }
        ["workers", "ready"] => group.ready = new.ready,
        ["workers", "restart"] => group.restart = new.restart,
        ["workers", "stop_signal"] => group.stop_signal = new.stop_signal,
        ["deadlines", "start"] => group.deadlines.start = new.deadlines.start,
        ["deadlines", "drain"] => group.deadlines.drain = new.deadlines.drain,
        ["deadlines", "settle"] => group.deadlines.settle = new.deadlines.settle,
        ["deadlines", "stop"] => group.deadlines.stop = new.deadlines.stop,
        _ => panic!("an unknown key {key}"),
    }
}

/// Carries a plan out, on settings alone.
fn carry_out(old: &Config, plan: &Plan) -> Vec<GroupSettings> {
    let mut groups: Vec<GroupSettings> =
        old.groups.iter().filter(|group| !plan.removed.contains(&group.name)).cloned().collect();
    for change in &plan.changed {
        let group = groups.iter_mut().find(|group| group.name == change.new.name).unwrap();
        assert_eq!(*group, change.old);
        for key in &change.keys {
            assert_ne!(key.before, key.after, "{key:?}");
            follow(group, key, &change.new);
        }
        // What is kept of a seed is no change of it.
        group.seed = change.new.seed;
    }
    groups.extend(plan.added.iter().cloned());
    sorted(groups)
}

fn sorted(mut groups: Vec<GroupSettings>) -> Vec<GroupSettings> {
    groups.sort_by(|one, other| one.name.cmp(&other.name));
    groups
}

/// Whether something differs that a group has for life, or an address is to change hands.
fn is_impossible(old: &Config, new: &Config) -> bool {
    let has =
        |config: &Config, group: &GroupSettings| config.groups.iter().any(|other| other.name == group.name);
    let mut pairs = new.groups.iter().flat_map(|after| old.groups.iter().map(move |before| (before, after)));
    pairs.any(|(before, after)| {
        if before.name != after.name {
            return !has(new, before) && !has(old, after) && before.listen == after.listen;
        }
        let both_own = before.mode == Mode::Own && after.mode == Mode::Own;
        before.listen != after.listen
            || before.mode != after.mode
            || (after.seed.is_some() && before.seed != after.seed)
            || (both_own && before.user != after.user)
    })
}

/// A group of the engine that has these settings.
fn begun(settings: &GroupSettings) -> Group {
    let mut group = Group::new(rules(settings, settings.seed.unwrap_or([1, 2])));
    group.handle(0, Event::Tick);
    group
}

/// The same, with a seed for every group: what has one may leave it out later, and not the other way round.
fn seeded(mut config: Config) -> Config {
    config.groups.iter_mut().for_each(|group| group.seed = Some([7, 0]));
    config
}

proptest! {
    #[test]
    fn a_plan_leads_from_the_one_to_the_other((old, new) in (config(false).prop_map(seeded), config(false))) {
        let plan = plan(&old, &new, Path::new(SOCKET)).unwrap();
        let expected = taken_over(&old, new.clone());
        prop_assert_eq!(carry_out(&old, &plan), sorted(expected.groups.clone()));
        prop_assert_eq!(plan.daemon.is_empty(), old.daemon == new.daemon);
        // From there on, there is nothing to do.
        prop_assert_eq!(super::plan::plan(&expected, &new, Path::new(SOCKET)), Ok(Plan::default()));
        prop_assert_eq!(super::plan::plan(&old, &old, Path::new(SOCKET)), Ok(Plan::default()));
    }

    #[test]
    fn what_cannot_be_is_refused_and_nothing_else((old, new) in (config(true), config(true))) {
        match plan(&old, &new, Path::new(SOCKET)) {
            Ok(_) => prop_assert!(!is_impossible(&old, &new)),
            Err(refusals) => {
                prop_assert!(is_impossible(&old, &new), "{refusals:?}");
                for Refusal { before, after, hint, .. } in refusals {
                    prop_assert!(before != after && !hint.is_empty());
                }
            }
        }
    }

    #[test]
    fn the_engine_comes_to_be_as_if_it_had_begun_so((old, new) in (group("a", 1000, false), group("a", 1000, false))) {
        let (mut group, wanted) = (begun(&old), begun(&GroupSettings { seed: old.seed, ..new.clone() }));
        let change = reconfiguration(&old, &new, None);
        let mut expected = rules(&new, [1, 2]);
        // What the change says of rules is what a group begins with.
        let conduct = &change.conduct;
        (expected.weights, expected.replace, expected.hold) = (conduct.weights.clone(), conduct.replace, conduct.hold);
        (expected.start, expected.drain, expected.limits) = (conduct.start, conduct.drain, conduct.limits);
        prop_assert_eq!(expected, rules(&new, [1, 2]));
        prop_assert_eq!(group.check_reconfiguration(&change), Ok(()));
        group.handle(1, Event::Command { operation: 1, command: Command::Reconfigure(Box::new(change)) });
        let weights = |group: &Group| -> Vec<(u32, u32)> {
            let workers = group.workers().into_iter().filter(|worker| worker.index < new.workers);
            workers.map(|worker| (worker.index, worker.weight)).collect()
        };
        prop_assert_eq!((weights(&group), group.policy()), (weights(&wanted), wanted.policy()));
        // What was set by hand stays where the file says what it said.
        let by_hand = reconfiguration(&new, &new, None);
        prop_assert_eq!((by_hand.policy, by_hand.weights.len(), by_hand.workers), (None, 0, None));
    }
}

/// One group with these keys.
fn read(keys: &str, workers: &str) -> Config {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("steer.toml");
    let text = format!("[[group]]\nname = 'web'\n{keys}\n[group.workers]\n{workers}\n");
    std::fs::write(&file, text).unwrap();
    crate::config::load(&file).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn a_refusal_has_both_values_and_the_way_out() {
    let old = read("listen = ['127.0.0.1:80']", "count = 2\nmode = 'own'\nuser = 'alice'");
    let seed = "seed = '00000000000000010000000000000002'";
    let new = read(
        &format!("listen = ['127.0.0.1:81', '[::1]:81']\n{seed}"),
        "count = 2\nmode = 'own'\nsockets = 4",
    );
    let refused = |old: &Config, new: &Config, socket: &str| {
        let refusals = plan(old, new, Path::new(socket)).unwrap_err();
        let line =
            |it: Refusal| format!("{}: {}: {} -> {} ({})", it.whose, it.key, it.before, it.after, it.hint);
        refusals.into_iter().map(line).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(refused(&old, &new, SOCKET), @r"
    web: listen: tcp://127.0.0.1:80 -> tcp://127.0.0.1:81, tcp://[::1]:81 (its addresses are a group's for life: add a group of another name, and remove web with a later reload)
    web: workers.user: alice -> the daemon's own (in mode own the kernel lets sockets of one user only into a group: add a group of another name, and remove web with a later reload)
    web: workers.sockets: as many as its CPUs ask for -> 4 (the sockarray is of one size for the group's life: add a group of another name, and remove web with a later reload)
    web: seed: drawn at random -> 00000000000000010000000000000002 (another seed would move every connection's worker: add a group of another name, and remove web with a later reload)
    ");
    let mut moved = old.clone();
    moved.groups[0].name = "api".parse().unwrap();
    insta::assert_snapshot!(refused(&old, &moved, SOCKET), @r"
    api: listen: tcp://127.0.0.1:80 of the group web, which goes -> tcp://127.0.0.1:80 of the group api, which comes (keep the name web, or remove it with one reload and add api with the next)
    ");
    let mut elsewhere = old.clone();
    elsewhere.daemon.socket = Some("/run/other.sock".into());
    insta::assert_snapshot!(refused(&old, &elsewhere, SOCKET), @r#"
    daemon: socket: "/run/steer/steer.sock" -> "/run/other.sock" (start the daemon again for another socket)
    "#);
    // Where the command line says where it is, the file does not.
    assert_eq!(plan(&old, &elsewhere, Path::new("/run/given.sock")), Ok(Plan::default()));
    let inherit = read("listen = ['127.0.0.1:80']", "count = 2");
    insta::assert_snapshot!(refused(&old, &inherit, SOCKET), @r"
    web: workers.mode: own -> inherit (listeners of both modes do not go together: add a group of another name, and remove web with a later reload)
    ");
}

#[test]
fn a_change_reads_as_it_is_written() {
    let old = read(
        "listen = ['127.0.0.1:80']",
        "count = 2\nenvironment = { KEY = 'secret', OLD = '', SAME = '1' }\nlimits = { core = 0 }\nuser = 'alice'",
    );
    let new = read(
        "listen = ['127.0.0.1:80']\npolicy = 'least-loaded'\nwhen_empty = 'refuse'\ndeadlines = { drain = '90s', settle = '0s', stop = '2m' }",
        "count = 3\nweights = { 2 = 0 }\ncommand = ['srv', '-v']\nenvironment = { KEY = 'other', NEW = '', SAME = '1' }\n\
         limits = { core = 'unlimited', nofile = [1, 2] }\ndirectory = '/srv'\nrestart = 'replace'\nstop_signal = 'INT'",
    );
    let line = |change: KeyChange| {
        let value = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let mark = if change.applies == Applies::Now { "" } else { " *" };
        format!("{}: {} -> {}{mark}", change.key, value(change.before), value(change.after))
    };
    let changes = keys::changes(&old.groups[0], &new.groups[0]);
    assert!(changes.iter().all(|change| !format!("{change:?}").contains("secret")));
    insta::assert_snapshot!(changes.into_iter().map(line).collect::<Vec<_>>().join("\n"), @r#"
    policy: hash -> least-loaded
    when_empty: hold -> refuse
    workers.count: 2 -> 3
    workers.weights.2: 1 -> 0
    workers.command: - -> ["srv", "-v"] *
    workers.user: alice -> - *
    workers.directory: - -> /srv *
    workers.environment.KEY: (a value) -> (another value) *
    workers.environment.NEW: - -> (a value) *
    workers.environment.OLD: (a value) -> - *
    workers.limits.core: 0 -> unlimited *
    workers.limits.nofile: - -> [1, 2] *
    workers.ready: notify -> whichever shows first *
    workers.restart: surge -> replace
    workers.stop_signal: 15 -> 2
    deadlines.drain: 30s -> 90s
    deadlines.settle: 1s -> 0s
    deadlines.stop: 5s -> 2m
    "#);
}
