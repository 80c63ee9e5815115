//! `steer run` as somebody tries it who has read nothing: it works, or says in one line what to write.

use std::{net::SocketAddr, time::Duration};

use steer::control::api::Event;
use steer_tests::{
    cgroups, netns, process,
    python::{self, unaware_server},
    service::group,
    steer::{Steer, binary},
    traffic::Traffic,
    wait,
};

const SOON: Duration = Duration::from_secs(30);

fn start<'a>(namespace: &'a netns::Namespace, listen: &str, source: &str, words: &[&str]) -> Steer<'a> {
    let command = python::command(source, words);
    let mut arguments = vec!["--listen", listen, "--workers", "2", "--start-timeout", "5s", "--"];
    arguments.extend(command.iter().map(String::as_str));
    Steer::start(namespace, &binary(), &arguments)
}

fn until_told(steer: &Steer<'_>, kind: &str, part: &str) -> Event {
    steer.until_reachable();
    wait::until(kind, SOON, || {
        let events: Vec<Event> = steer.command(["events", "--json"]).succeeded().parse_lines();
        let told = events.iter().find(|event| event.kind == kind && event.detail.contains(part)).cloned();
        told.ok_or_else(|| format!("{events:#?}"))
    })
}

#[test]
fn a_program_that_binds_ipv4_only_is_followed_there() {
    netns::run("first-follow", |namespace| {
        let mut steer = start(namespace, ":8080", &unaware_server(), &["0.0.0.0", "8080"]);
        let is_there = |steer: &Steer<'_>| {
            let output = steer.command(["status", "--json"]);
            output.code == Some(0) && output.stdout.contains("tcp://0.0.0.0:8080")
        };
        wait::until("the group is at the other address", SOON, || {
            if is_there(&steer) { Ok(()) } else { Err(steer.messages()) }
        });
        steer.until_working();
        let address: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let traffic = Traffic::start(&[address]);
        steer.command(["restart", "web"]).succeeded();
        let tally = traffic.end();
        println!("first-follow: connections: {}, failed: {}", tally.connections, tally.failed);
        assert!(
            steer.messages().contains("the program listens at tcp://0.0.0.0:8080, and so does the group")
        );
        steer.stop(SOON);
    });
}

/// `localhost` names two addresses. Node, for one, binds one of them.
#[test]
fn a_program_that_binds_one_address_of_a_name_is_enough() {
    netns::run("first-one-of", |namespace| {
        for (ip, other) in [("127.0.0.1", "::1"), ("::1", "127.0.0.1")] {
            let mut steer = start(namespace, "localhost:8080", &unaware_server(), &[ip, "8080"]);
            let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 8080);
            let listens = |address: SocketAddr| format!("\"tcp://{address}\"");
            wait::until("the group is at the one address", SOON, || {
                let output = steer.command(["status", "--json"]);
                let is_there = |ip| output.stdout.contains(&listens(address(ip)));
                if is_there(ip) && !is_there(other) { Ok(()) } else { Err(steer.messages()) }
            });
            steer.until_working();
            let traffic = Traffic::start(&[address(ip)]);
            steer.command(["restart", "web"]).succeeded();
            assert_eq!(traffic.end().failed, 0);
            steer.stop(SOON);
        }
    });
}

#[test]
fn a_program_that_never_serves_ends_the_command_with_what_it_said() {
    netns::run("first-never", |namespace| {
        let mut steer = start(namespace, "127.0.0.1:8080", "raise SystemExit('no such file: app.conf')", &[]);
        assert_eq!(steer.wait(SOON).code(), Some(1), "{}", steer.messages());
        let said = steer.messages();
        let has = |part: &str| assert!(said.lines().any(|line| line.contains(part)), "{part} in {said}");
        has("web/0: no such file: app.conf");
        has("error: no worker of web was ever ready: ended (exit 1)");
        has("the last that it has printed: \"no such file: app.conf\"");
        has("hint: ");
        assert!(steer.processes().is_empty(), "{}", process::describe(&steer.processes()));
    });
}

#[test]
fn a_program_that_is_not_ready_in_time_is_told_of_with_its_last_lines() {
    let source = "import time\nfor number in range(5): print(number, flush=True)\ntime.sleep(600)";
    netns::run("first-silent", |namespace| {
        let mut steer = start(namespace, "127.0.0.1:8080", source, &[]);
        assert_eq!(steer.wait(SOON).code(), Some(1), "{}", steer.messages());
        let said = steer.messages();
        let told = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(told.contains("was not ready within 5000 ms"), "{said}");
        assert!(told.ends_with("the last that it has printed: \"2\", \"3\", \"4\""), "{said}");
    });
}

#[test]
fn a_program_that_listens_at_another_port_is_told_of() {
    netns::run("first-port", |namespace| {
        let steer = start(namespace, "127.0.0.1:8080", &unaware_server(), &["127.0.0.1", "3000"]);
        let told = until_told(&steer, "bound-elsewhere", "3000");
        let parts = ["tcp://127.0.0.1:3000", "tcp://127.0.0.1:8080", "hint: listen on tcp://127.0.0.1:3000"];
        assert!(parts.iter().all(|part| told.detail.contains(part)), "{told:?}");
    });
}

#[test]
fn a_program_that_cannot_run_twice_is_told_of_and_runs_with_paths_of_its_own() {
    let locked = format!(
        "import fcntl, sys\nlock = open(sys.argv.pop(), 'w')\n\
         try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n\
         except OSError: sys.exit('it runs already')\n{}",
        unaware_server()
    );
    let place = tempfile::tempdir().unwrap();
    netns::run("first-twice", |namespace| {
        let path = |name: &str| place.path().join(name).to_string_lossy().into_owned();
        let shared = path("lock");
        let steer = start(namespace, "127.0.0.1:8080", &locked, &["127.0.0.1", "8080", &shared]);
        let told = until_told(&steer, "start-failed", "two of this program cannot run at once");
        assert!(told.detail.contains("{worker}") && told.detail.contains("replace"), "{told:?}");
        drop(steer);

        let own = path("{group}-{worker}-{generation}.lock");
        let mut steer = start(namespace, "127.0.0.1:8080", &locked, &["127.0.0.1", "8080", &own]);
        steer.until_working();
        steer.command(["restart", "web"]).succeeded();
        for name in ["web-0-1.lock", "web-1-2.lock"] {
            assert!(place.path().join(name).exists(), "{name}");
        }
        steer.stop(SOON);
    });
}

/// As in a container: its cgroup is there, and cannot be written to.
#[test]
fn where_there_can_be_no_hook_the_failed_start_and_the_check_say_why() {
    netns::run("first-read-only", |namespace| {
        let command = python::command(&unaware_server(), &["127.0.0.1", "8080"]);
        let mut steer =
            Steer::service(namespace, &binary(), &group("web", "127.0.0.1:8080", 1, &command, ""));
        let script = format!("mount -o remount,bind,ro {} && exec \"$@\"", cgroups::mount().display());
        steer.launcher = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
        steer.start_daemon();
        let told = until_told(&steer, "start-failed", "set SO_REUSEPORT on this host");
        assert!(told.detail.contains("Read-only file system"), "{told:?}");
        let binary = binary().to_string_lossy().into_owned();
        let words = ["unshare", "--mount", "sh", "-c", &script, "sh", &binary, "check"];
        let checked = namespace.inside(|| std::process::Command::new(words[0]).args(&words[1..]).output());
        let said = String::from_utf8(checked.expect("it runs").stdout).expect("text");
        let line = said.lines().find(|line| line.contains("bind hook")).expect("it is tried");
        assert!(line.starts_with("warn") && line.contains("set SO_REUSEPORT"), "{line}");
    });
}

#[test]
fn a_program_that_leaves_its_cgroup_is_told_of() {
    let leaving = format!(
        "import os, sys\nwith open(sys.argv.pop(), 'w') as procs: procs.write(str(os.getpid()))\n{}",
        unaware_server()
    );
    netns::run("first-cgroup", |namespace| {
        let procs = cgroups::own_procs().to_string_lossy().into_owned();
        let steer = start(namespace, "127.0.0.1:8080", &leaving, &["127.0.0.1", "8080", &procs]);
        let told = until_told(&steer, "left-cgroup", "bind hook");
        assert!(told.detail.contains("SO_REUSEPORT"), "{told:?}");
    });
}
