//! What is read, and in which order; `refused`, `mistaken` and `values` have what is not.

mod mistaken;
mod refused;
mod values;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use clap::ValueEnum;

use super::*;
use crate::{
    cli::arguments::{LogFormatName, ModeName, ReadyName, RestartName, WhenEmptyName},
    daemon::settings::{Deadlines, FlowSettings, Mode, Readiness, RestartKind, WhenEmpty},
    workers::limits::{Limit, Resource, UNLIMITED},
};

const EXAMPLE: &str = include_str!("../example.toml");

/// A group that is right, for what stands beside it.
const WEB: &str = "[[group]]\nname = \"web\"\nlisten = [\"0.0.0.0:80\"]\n[group.workers]\ncount = 2\n";

fn understood(texts: &[&str]) -> Result<Config, ConfigErrors> {
    let paths = ["/etc/steer/steer.toml", "/etc/steer/conf.d/10-a.toml", "/etc/steer/conf.d/20-b.toml"];
    let source = |(order, text): (usize, &&str)| Source::new(paths[order].into(), (*text).to_owned(), order);
    understand(&texts.iter().enumerate().map(source).collect::<Vec<_>>(), Vec::new())
}

#[track_caller]
fn refused(texts: &[&str]) -> String {
    let errors = understood(texts).unwrap_err();
    for error in errors.iter() {
        assert!(!error.message().is_empty() && !error.hint().is_empty(), "{error:?}");
    }
    errors.to_string()
}

#[test]
fn words_are_those_of_steer_run() {
    fn words<T: ValueEnum>() -> Vec<String> {
        T::value_variants()
            .iter()
            .map(|value| value.to_possible_value().unwrap().get_name().to_owned())
            .collect()
    }
    assert_eq!(LOG_FORMATS.map(|(word, _)| word).to_vec(), words::<LogFormatName>());
    assert_eq!(group::MODES.map(|(word, _)| word).to_vec(), words::<ModeName>());
    assert_eq!(group::RESTARTS.map(|(word, _)| word).to_vec(), words::<RestartName>());
    assert_eq!(group::READINESSES.map(|(word, _)| word).to_vec(), words::<ReadyName>());
    assert_eq!(group::WHEN_EMPTY.map(|(word, _)| word).to_vec(), words::<WhenEmptyName>());
}

#[test]
fn the_example_has_every_key_and_says_the_defaults() {
    // What is commented out is a key too: a line that begins with a lower-case word and an equals sign.
    let all: String = EXAMPLE
        .lines()
        .map(|line| {
            let key = line.strip_prefix("# ").filter(|rest| {
                rest.split_once(" = ")
                    .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
            });
            format!("{}\n", key.unwrap_or(line))
        })
        .collect();
    let with_all = understood(&[&all]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(with_all.groups[0].user.as_deref(), Some("www-data"));
    let document = DeTable::parse(&all).unwrap();
    let group = document.get_ref()["group"].get_ref()[0].get_ref().as_table().unwrap();
    let tables = [
        ("", document.get_ref()),
        ("daemon", document.get_ref()["daemon"].get_ref().as_table().unwrap()),
        ("group", group),
        ("group.workers", group["workers"].get_ref().as_table().unwrap()),
        ("group.flows", group["flows"].get_ref().as_table().unwrap()),
        ("group.deadlines", group["deadlines"].get_ref().as_table().unwrap()),
    ];
    let mut written = BTreeSet::new();
    for (name, table) in tables {
        written.extend(table.keys().map(|key| format!("{name}.{key}")));
    }
    // A group that adopts is another one: it has no workers to say anything of.
    let is_beside = |key: &&keys::Key| key.table == "group.adopt" || key.name == "adopt";
    let known = keys::KEYS.iter().filter(|key| key.name != "*" && !is_beside(key));
    let known = known.map(|key| format!("{}.{}", key.table, key.name));
    assert_eq!(written, known.collect());

    let adopts: String =
        EXAMPLE.lines().filter_map(|line| Some(format!("{}\n", line.strip_prefix("#   ")?))).collect();
    let adopting = understood(&[&adopts]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(adopting.groups[0].mode, Mode::Adopt);
    assert_eq!(adopting.groups[0].deadlines, Deadlines::of_adopted());
    for key in keys::of("group.adopt") {
        assert!(adopts.contains(&format!("{} = ", key.name)), "{}", key.name);
    }

    let mut example = understood(&[EXAMPLE]).unwrap();
    let bare = WEB.replace("count = 2", "count = 4");
    assert_eq!(example.groups, understood(&[&bare]).unwrap().groups);
    assert_eq!(example.daemon.socket.take().unwrap(), Path::new(crate::control::DEFAULT_SOCKET));
    assert_eq!(example.daemon, DaemonSettings::default());
}

#[test]
fn the_readme_has_a_configuration_and_its_error() {
    let readme = include_str!("../../../../README.md");
    let block = |kind: &str| {
        let (_, rest) = readme.split_once("## Configure it").unwrap();
        let (_, rest) = rest.split_once(&format!("```{kind}\n")).unwrap();
        rest.split_once("```").unwrap().0
    };
    let text = block("toml");
    assert_eq!(understood(&[text]).unwrap_or_else(|errors| panic!("{errors}")).groups.len(), 1);
    assert_eq!(refused(&[&text.replace("\"2m\"", "\"2\"")]), block("text"));
}

#[test]
fn every_example_of_a_hint_is_right() {
    for table in ["daemon", "group.workers", "group.flows", "group.deadlines"] {
        for key in keys::of(table).filter(|key| key.name != "count") {
            let header = if table == "group.workers" { String::new() } else { format!("[{table}]\n") };
            // The sample worker binds nothing.
            let command = if key.name == "sockets" { "command = [\"app\"]\n" } else { "" };
            let text = format!("{WEB}{header}{command}{}\n", key.example);
            assert!(understood(&[&text]).is_ok(), "{}", refused(&[&text]));
        }
    }
    let is_table = |name| matches!(name, "workers" | "adopt" | "flows" | "deadlines");
    for key in keys::of("group").filter(|key| !is_table(key.name) && !matches!(key.name, "name" | "listen")) {
        let text = WEB.replace("name =", &format!("{}\nname =", key.example));
        assert!(understood(&[&text]).is_ok(), "{}", refused(&[&text]));
    }
}

#[test]
fn everything_that_is_said_arrives() {
    let Config { daemon, groups, files } = understood(&["\
        [daemon]\nsocket = \"/run/s\"\naccess = [\"alice\", \"1001\"]\n\
        metrics = \"[::1]:9464\"\nlog_format = \"json\"\n\
        [[group]]\nname = \"api\"\nlisten = [\"tcp://127.0.0.1:80\", \"udp://[::1]:80\"]\npolicy = \"source:ipv4=24,ipv6=64\"\n\
        seed = \"00000000000000010000000000000002\"\nwhen_empty = \"refuse\"\n\
        [group.workers]\ncount = 0x10\nweights = { 15 = 0, 1 = 3, 0 = 1 }\n\
        limits = { stack = \"unlimited\", core = [0, \"unlimited\"], nofile = 0x400 }\ncommand = [\"srv\", \"-v\"]\nuser = \"nobody\"\ndirectory = \"/srv\"\n\
        environment = { B = \"2\", A = \"\" }\nmode = \"own\"\nsockets = 3\nready = \"notify\"\nrestart = \"replace\"\nstop_signal = \"QUIT\"\n\
        [group.flows]\nmax = 1000\nidle = \"1500ms\"\n\
        [group.deadlines]\nstart = \"1s\"\ndrain = \"2s\"\nsettle = \"300ms\"\nstop = \"4m\"\n"])
    .unwrap();
    assert_eq!(
        daemon,
        DaemonSettings {
            socket: Some("/run/s".into()),
            access: vec!["alice".into(), "1001".into()],
            metrics: Some(MetricsAddress::Tcp("[::1]:9464".parse().unwrap())),
            log_format: LogFormat::Json,
        }
    );
    assert_eq!(files, [Path::new("/etc/steer/steer.toml")]);
    let expected = GroupSettings {
        name: "api".parse().unwrap(),
        listen: vec!["127.0.0.1:80".parse().unwrap(), "udp://[::1]:80".parse().unwrap()],
        workers: 16,
        weights: [(1, 3), (15, 0)].into(),
        policy: "source:ipv4=24,ipv6=64".parse().unwrap(),
        mode: Mode::Own,
        sockets: Some(3),
        restart: RestartKind::Replace,
        ready: Readiness::Notify,
        when_empty: WhenEmpty::Refuse,
        adopt: None,
        command: Some(vec!["srv".into(), "-v".into()]),
        user: Some("nobody".into()),
        directory: Some("/srv".into()),
        environment: vec![("A".into(), String::new()), ("B".into(), "2".into())],
        limits: vec![
            (Resource::named("core").unwrap(), Limit { soft: 0, hard: UNLIMITED }),
            (Resource::NOFILE, Limit { soft: 1024, hard: 1024 }),
            (Resource::named("stack").unwrap(), Limit { soft: UNLIMITED, hard: UNLIMITED }),
        ],
        stop_signal: libc::SIGQUIT,
        seed: Some([1, 2]),
        flows: FlowSettings { max: 1000, idle: Duration::from_millis(1500) },
        deadlines: Deadlines {
            start: Duration::from_secs(1),
            drain: Duration::from_secs(2),
            settle: Duration::from_millis(300),
            stop: Duration::from_secs(240),
            hold: None,
        },
    };
    assert_eq!(groups, [expected]);
}

#[test]
fn further_files_are_read_in_order_of_name() {
    let place = tempfile::tempdir().unwrap();
    let main = place.path().join("steer.toml");
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
    let group = |number: u16| WEB.replace("web", &format!("g{number}")).replace(":80", &format!(":{number}"));
    write("steer.toml", &group(1));
    let names = |config: Config| config.groups.iter().map(|group| group.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(load(&main).unwrap()), ["g1"]);
    fs::create_dir(place.path().join("conf.d")).unwrap();
    write("conf.d/20-b.toml", &group(2));
    write("conf.d/10-z.toml", &group(3));
    write("conf.d/3.toml", &(group(4) + &group(5)));
    for ignored in ["conf.d/.20-b.toml", "conf.d/20-b.toml~", "conf.d/README"] {
        write(ignored, "this is no TOML");
    }
    let config = load(&main).unwrap();
    let files = config.files.iter().map(|path| path.strip_prefix(place.path()).unwrap().to_str().unwrap());
    assert_eq!(
        files.collect::<Vec<_>>(),
        ["steer.toml", "conf.d/10-z.toml", "conf.d/20-b.toml", "conf.d/3.toml"]
    );
    assert_eq!(names(config), ["g1", "g3", "g2", "g4", "g5"]);
}
