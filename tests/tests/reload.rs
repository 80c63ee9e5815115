//! `steer reload` and SIGHUP: what the file says comes to be, under load and without a loss; a file that is wrong changes nothing.

use std::{
    fs,
    net::TcpListener,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use steer::control::api::{Applies, GroupReload, GroupStatus, Reload, Status};
use steer_tests::{
    netns,
    output::Output,
    process,
    steer::{Steer, binary},
    traffic::{Traffic, counters_add_up},
    wait,
};

const SOON: Duration = Duration::from_secs(60);

/// A group at a port of both families, with these further keys and keys of its workers.
fn group(name: &str, port: u16, keys: &str, workers: &str) -> String {
    format!(
        "[[group]]\nname = \"{name}\"\nlisten = [\"127.0.0.1:{port}\", \"[::1]:{port}\"]\n{keys}\n\
         deadlines = {{ settle = \"0s\" }}\n[group.workers]\n{workers}\n"
    )
}

fn write(steer: &Steer<'_>, text: &str) {
    fs::write(steer.path("steer.toml"), text).expect("a file can be written in the temporary directory");
}

#[track_caller]
fn reload(steer: &Steer<'_>) -> Reload {
    steer.command(["reload", "--json"]).succeeded().parse()
}

fn of<'a>(reload: &'a Reload, name: &str) -> &'a GroupReload {
    let found = reload.reloaded.iter().find(|group| group.group.as_str() == name);
    found.unwrap_or_else(|| panic!("{name} is not in {reload:?}"))
}

fn group_of<'a>(status: &'a Status, name: &str) -> &'a GroupStatus {
    let found = status.groups.iter().find(|group| group.name.as_str() == name);
    found.unwrap_or_else(|| panic!("{name} is not in {status:?}"))
}

fn keys(reload: &GroupReload, applies: Applies) -> Vec<&str> {
    reload.changes.iter().filter(|change| change.applies == applies).map(|change| &change.key[..]).collect()
}

/// What of the status stays where nothing is changed: all but what load counts.
fn state(steer: &Steer<'_>) -> String {
    let status = steer.status();
    let group = |group: &GroupStatus| {
        let workers: Vec<_> = group
            .workers
            .iter()
            .map(|worker| {
                (worker.name.to_string(), worker.state.clone(), worker.pid, worker.generation, worker.weight)
            })
            .collect();
        format!("{} {:?} {} {} {workers:?}", group.name, group.listen, group.policy, group.epoch)
    };
    status.groups.iter().map(group).collect::<Vec<_>>().join("\n")
}

fn has_variable(pid: Option<u32>, variable: &str) -> bool {
    let pid = pid.expect("the worker runs");
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).expect("root may read it");
    environment.split('\0').any(|set| set == variable)
}

#[test]
fn what_the_file_says_comes_to_be_and_nothing_is_lost() {
    netns::run("reload", |namespace| {
        let web = group("web", 8080, "", "count = 2");
        let mut steer = Steer::configured(namespace, &(web + &group("old", 8081, "", "count = 1")));
        let targets = ["127.0.0.1:8080", "[::1]:8080"].map(|target| target.parse().expect("an address"));
        let traffic = Traffic::start(&targets);
        assert!(reload(&steer).reloaded.is_empty(), "the file is as it was");
        // Set by hand, and never said in the file: it stays.
        steer.command(["weight", "web/1", "3"]).succeeded();
        let before = steer.status();

        let web = group(
            "web",
            8080,
            "policy = \"source\"",
            "count = 4\nweights = { 0 = 2, 3 = 5 }\nenvironment = { SAID = \"later\" }\nlimits = { nofile = 300 }\n\
             restart = \"surge\"\nstop_signal = \"INT\"",
        );
        write(
            &steer,
            &format!("[daemon]\naccess = [\"65534\"]\n{web}{}", group("api", 8082, "", "count = 1")),
        );
        let done = reload(&steer);
        assert_eq!(done.daemon[0].key, "access", "{done:?}");
        let (added, removed, changed) = (of(&done, "api"), of(&done, "old"), of(&done, "web"));
        assert_eq!(
            [added, removed, changed].map(|group| (&group.outcome[..], group.fault.as_deref())),
            [("added", None), ("removed", None), ("changed", None)]
        );
        assert_eq!(removed.receipts.len(), 1, "{removed:?}");
        assert_eq!(
            keys(changed, Applies::Now),
            ["policy", "workers.count", "workers.weights.0", "workers.weights.3", "workers.stop_signal"]
        );
        assert_eq!(
            keys(changed, Applies::NextGeneration),
            ["workers.environment.SAID", "workers.limits.nofile"]
        );
        assert_eq!(changed.restart.as_deref(), Some("steer restart web"));

        // What the answer says is so when it comes.
        let now = steer.status();
        let web = group_of(&now, "web");
        let weights: Vec<u32> = web.workers.iter().map(|worker| worker.weight).collect();
        assert_eq!((&web.policy[..], &weights[..]), ("source", &[2, 3, 1, 5][..]));
        let (old, first) = (&group_of(&before, "web").workers[0], &web.workers[0]);
        assert_eq!((old.pid, old.generation), (first.pid, first.generation), "nobody was restarted");
        assert!(!has_variable(first.pid, "SAID=later") && has_variable(web.workers[2].pid, "SAID=later"));
        assert_eq!(steer.command(["status", "old"]).code, Some(4));
        assert!(std::net::TcpStream::connect("127.0.0.1:8081").is_err(), "its address is free");
        steer.until_working();
        assert!(std::net::TcpStream::connect("127.0.0.1:8082").is_ok());
        traffic.forget_workers();
        steer.command(["restart", "web"]).succeeded();
        for worker in &group_of(&steer.status(), "web").workers {
            assert!(has_variable(worker.pid, "SAID=later"), "{worker:?}");
        }

        // SIGHUP does the same; a group comes back where it was.
        write(
            &steer,
            &(group("web", 8080, "policy = \"hash\"", "count = 2") + &group("old", 8081, "", "count = 1")),
        );
        process::signal(steer.pid(), Signal::HUP);
        let status = steer.until("the file is in force", SOON, |status| {
            let web = group_of(status, "web");
            let names: Vec<&str> = status.groups.iter().map(|group| group.name.as_str()).collect();
            web.workers.len() == 2 && web.policy == "hash" && names == ["old", "web"]
        });
        assert_eq!(group_of(&status, "web").workers[0].weight, 1);
        steer.until_working();
        assert!(reload(&steer).reloaded.is_empty(), "there is nothing left to do");
        let tally = traffic.end();
        counters_add_up(group_of(&steer.status(), "web"));
        steer.stop(SOON);
        println!("reload: connections: {}, failed: {}", tally.connections, tally.failed);
    });
}

#[test]
fn a_file_that_is_wrong_or_cannot_be_changes_nothing() {
    netns::run("reload-bad", |namespace| {
        let right = group("web", 8080, "policy = \"hash\"", "count = 2");
        let steer = Steer::configured(namespace, &right);
        // What could be changed is in each of them, too.
        let web = |more: &str| group("web", 8080, "policy = \"source\"", &format!("count = 3\n{more}"));
        let before = state(&steer);
        let refused = |text: &str, code: i32| -> Output {
            write(&steer, text);
            let output = steer.command(["reload"]);
            assert_eq!(output.code, Some(code), "{output:?} to {text}");
            assert_eq!(state(&steer), before, "{text}");
            assert!(output.stdout.is_empty() && output.stderr.contains("hint: "), "{output:?}");
            output
        };
        let wrong = [
            "this is no TOML".to_owned(),
            String::new(),
            web("threads = 2"),
            web("user = 5"),
            web("").replace("count = 3", "count = 0"),
            web("").replace("source", "random"),
            web("weights = { 9 = 1 }"),
            web("limits = { nofile = \"much\" }"),
            web("").clone() + &web(""),
            web("").replace("127.0.0.1:8080", "sctp://127.0.0.1:8080"),
            web("").replace("source", "quic-cid"),
            web("[group.flows]\nmax = 9999999"),
            web("[group.flows]\nidle = \"3s\""),
            web("").replace("settle", "setle"),
        ];
        for text in &wrong {
            let Output { stderr, .. } = refused(text, 78);
            assert!(stderr.starts_with("error: "), "{stderr}");
            assert!(text.is_empty() || stderr.contains("\n --> ") || stderr.contains("\n  --> "), "{stderr}");
        }
        fs::remove_file(steer.path("steer.toml")).expect("it is there");
        assert_eq!(steer.command(["reload"]).code, Some(78));

        let taken = TcpListener::bind("127.0.0.1:8083").expect("the port is free");
        let with_udp = |text: String| text.replace("127.0.0.1:8080", "udp://127.0.0.1:8080");
        let cannot = [
            (web("").replace("8080", "8090"), 5, "listen"),
            (with_udp(web("")), 5, "listen"),
            (with_udp(web("[group.flows]\nidle = \"3s\"")), 5, "flows.idle"),
            (web("mode = \"own\""), 5, "workers.mode"),
            (web("").replace("policy", "seed = \"00000000000000010000000000000002\"\npolicy"), 5, "seed"),
            (web("user = \"no-such-user\""), 4, "no-such-user"),
            (web("command = [\"/nonexistent/program\"]"), 4, "/nonexistent/program"),
            (format!("[daemon]\naccess = [\"no-such-user\"]\n{}", web("")), 4, "no-such-user"),
            (web("") + &group("api", 8083, "", "count = 1"), 5, "127.0.0.1:8083"),
            (web("") + &group("api", 8084, "", "count = 1\nuser = \"no-such-user\""), 4, "no-such-user"),
            (web("").replace("\"web\"", "\"www\""), 5, "of the group web, which goes"),
        ];
        for (text, code, named) in &cannot {
            let Output { stderr, .. } = refused(text, *code);
            assert!(stderr.contains(named), "{stderr}");
        }
        drop(taken);
        // What a refused reload has opened is closed again.
        TcpListener::bind("127.0.0.1:8084").expect("the port is free");

        write(&steer, &wrong[3]);
        process::signal(steer.pid(), Signal::HUP);
        wait::until("the log says what is wrong", SOON, || {
            let messages = steer.messages();
            let is_said = messages.contains("stays as it was") && messages.contains("user = 5\n");
            if is_said { Ok(()) } else { Err(messages) }
        });
        assert_eq!(state(&steer), before);
        write(&steer, &right);
        assert!(reload(&steer).reloaded.is_empty());
        println!("reload-bad: wrong: {}, impossible: {}", wrong.len() + 1, cannot.len());
    });
}

#[test]
fn two_at_once_are_carried_out_one_after_another() {
    netns::run("reload-twice", |namespace| {
        let steer = Steer::configured(namespace, &group("web", 8080, "", "count = 4"));
        write(&steer, &group("web", 8080, "policy = \"source\"", "count = 1"));
        let start = || {
            let mut command = Command::new(binary());
            command.arg("--socket").arg(steer.socket()).args(["reload", "--json"]).stdout(Stdio::piped());
            command.spawn().expect("it can be run")
        };
        let both = [start(), start(), start()].map(|child| child.wait_with_output().expect("it ends"));
        let changed = both.iter().filter(|output| {
            assert!(output.status.success(), "{output:?}");
            let answer: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
            let groups = answer["reloaded"].as_array().expect("a list");
            assert!(groups.len() <= 1, "{answer}");
            groups.len() == 1
        });
        assert_eq!(changed.count(), 1, "one has changed what there was to change");
        let status = steer.status();
        assert_eq!((status.groups[0].workers.len(), &status.groups[0].policy[..6]), (1, "source"));
    });
}

#[test]
fn a_daemon_without_a_configuration_says_so() {
    netns::run("reload-none", |namespace| {
        let steer = Steer::run(namespace, &["--listen", "127.0.0.1:8080", "--workers", "1"]);
        let Output { stderr, .. } = steer.command(["reload"]).exited(5);
        assert!(
            stderr.contains("started by `steer run`") && stderr.contains("steer daemon --config"),
            "{stderr}"
        );
    });
}
