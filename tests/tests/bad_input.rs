//! Bad input gets a clear error with both values, a hint and its exit code, and nobody else loses anything.

use std::{net::SocketAddr, path::Path, time::Duration};

use steer::control::api::Event;
use steer_tests::{
    netns,
    output::Output,
    python,
    python::ByHand,
    scripts::steer_without,
    service::{group, sample},
    skip::skip,
    sockets::{TcpState, tcp_count},
    steer::{Steer, binary},
    traffic::{Traffic, counters_add_up},
    wait,
};

const SOON: Duration = Duration::from_secs(30);
const ADDRESS: &str = "127.0.0.1:8080";

fn target() -> SocketAddr {
    ADDRESS.parse().expect("an address")
}

/// Panics unless the output is an error with these parts and a hint with that part, and nothing else on stdout.
#[track_caller]
fn says(output: &Output, code: i32, parts: &[&str], hint: &str) {
    let Output { stdout, stderr, .. } = output;
    assert_eq!(output.code, Some(code), "{stdout}{stderr}");
    assert_eq!(stdout, "");
    let line = |start: &str| stderr.lines().find(|line| line.starts_with(start));
    let error = line("error: ").unwrap_or_else(|| panic!("no error: {stderr}"));
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    let found = line("hint: ").unwrap_or_else(|| panic!("no hint: {stderr}"));
    assert!(found.contains(hint), "{hint:?} is not in {found:?}");
}

#[test]
fn a_group_that_is_refused_at_the_start_takes_the_groups_before_it_along() {
    netns::run("refused-second", |namespace| {
        let other = "127.0.0.1:8081";
        let taken = std::net::TcpListener::bind(other).expect("it is free");
        let groups = [("web", ADDRESS), ("api", other)]
            .map(|(name, address)| group(name, address, 1, &sample(&binary()), "ready = \"notify\""));
        let mut steer = Steer::service(namespace, &binary(), &groups.concat());
        steer.start_refused(5, &["tcp://127.0.0.1:8081"]);
        assert_eq!(tcp_count(target(), TcpState::Listen), 0, "nothing is left of the first");
        for left in [steer.pins().expect("it has pins").join("web"), steer.path("steer.sock.web.notify")] {
            assert!(!left.exists(), "{}", left.display());
        }
        drop(taken);
        steer.start_daemon();
        steer.until_working();
    });
}

/// Runs `BINARY run ARGUMENTS`, which is to be refused at once.
#[track_caller]
fn refused(namespace: &netns::Namespace, binary: &Path, arguments: &[&str]) -> Output {
    let mut steer = Steer::start(namespace, binary, arguments);
    let code = steer.wait(SOON).code();
    Output { code, stdout: steer.printed(), stderr: steer.messages() }
}

#[test]
fn what_a_running_daemon_is_asked_wrongly_changes_nothing() {
    netns::run("asked-wrongly", |namespace| {
        let steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", "2"]);
        let before = steer.status();
        let traffic = Traffic::start(&[target()]);

        let say = |arguments: &[&str], code, parts: &[&str], hint| {
            says(&steer.command(arguments), code, parts, hint);
        };
        let lists = "`steer status` lists";
        say(&["status", "api"], 4, &["no group api", "web"], lists);
        say(&["table", "api"], 4, &["no group api", "web"], lists);
        say(&["events", "api"], 4, &["no group api", "web"], lists);
        say(&["restart", "api"], 4, &["no group api", "web"], lists);
        say(&["scale", "api", "3"], 4, &["no group api", "web"], lists);
        say(&["restart", "web/2"], 4, &["no worker 2", "the group has 2"], lists);
        say(&["drain", "web/9"], 4, &["no worker 9", "the group has 2"], lists);
        say(&["undrain", "web/9"], 4, &["no worker 9", "the group has 2"], lists);
        say(&["scale", "web", "0"], 5, &["cannot scale to 0 workers", "a group has 1 to "], "`steer stop`");
        let room = "cannot scale to 255 workers: its 512 slots are enough for 254";
        say(&["scale", "web", "255"], 5, &[room], "`steer run --workers 255`");
        say(&["scale", "web", "1025"], 5, &["1025 workers: a group has 1 to 1024"], "two groups");
        say(&["drain", "web"], 2, &["\"web\" is no worker name"], "`steer status`");
        say(&["restart", "web", "--timeout", "5"], 2, &["'5'", "--timeout"], "500ms");
        say(&["call", "Nonsense"], 2, &["no method io.steer.Control.Nonsense"], "lists what there is");
        // The same socket, and the same address.
        let again = ["run", "--listen", "127.0.0.1:9090", "--workers", "1"];
        let pid = format!("(pid {})", steer.pid());
        let socket = steer.socket();
        say(&again, 5, &["a daemon already runs at", &socket.to_string_lossy(), &pid], "`steer stop`");
        let output = refused(namespace, &binary(), &["--listen", ADDRESS, "--workers", "1"]);
        says(&output, 5, &["tcp://127.0.0.1:8080", "steer"], "stop it first, or choose another address");

        let tally = traffic.end();
        assert_eq!(tally.moved, 0);
        let after = steer.status();
        let pids = |status: &steer::control::api::Status| -> Vec<_> {
            status.groups[0].workers.iter().map(|worker| (worker.pid, worker.generation)).collect()
        };
        assert_eq!(pids(&before), pids(&after));
        let counters = counters_add_up(&after.groups[0]);
        assert_eq!((counters.outcome.dropped, counters.outcome.held), (0, 0));
        println!(
            "asked wrongly: 15 times, connections: {}, failed: {}, moved: 0",
            tally.connections, tally.failed
        );
    });
}

#[test]
fn an_address_of_a_plain_socket_is_refused_and_its_owner_named() {
    netns::run("plain-socket", |namespace| {
        let source = python::PLAIN_SERVER.replace("listener.setsockopt", "0 and listener.setsockopt");
        let plain = ByHand::start(&source, &["127.0.0.1", "8080"]);
        wait::until("it listens", SOON, || {
            let listening = tcp_count(target(), TcpState::Listen);
            if listening == 1 { Ok(()) } else { Err(format!("{listening} of 1")) }
        });
        let traffic = Traffic::start(&[target()]);
        let pid = format!("pid {}", plain.pid());
        let user = "user 0";
        for wanted in [ADDRESS, "0.0.0.0:8080"] {
            let output = refused(namespace, &binary(), &["--listen", wanted, "--workers", "1"]);
            let parts = [&*format!("tcp://{wanted}"), "127.0.0.1:8080", &pid, user];
            says(&output, 5, &parts, "does not set SO_REUSEPORT");
        }
        let tally = traffic.end();
        println!("plain socket: connections: {}, failed: {}", tally.connections, tally.failed);
    });
}

#[test]
fn a_missing_capability_is_named() {
    let place = tempfile::tempdir().unwrap();
    netns::run("capabilities", |namespace| {
        let binary = steer_without(place.path(), "net_bind_service");
        let output = refused(namespace, &binary, &["--listen", "127.0.0.1:80", "--workers", "1"]);
        says(
            &output,
            5,
            &["tcp://127.0.0.1:80", "below 1024", "CAP_NET_BIND_SERVICE"],
            "AmbientCapabilities",
        );
        // CAP_SYS_ADMIN includes it.
        let binary = steer_without(place.path(), "bpf,sys_admin");
        let output = refused(namespace, &binary, &["--listen", ADDRESS, "--workers", "1"]);
        says(&output, 5, &["the steering program", "Operation not permitted"], "CAP_BPF");
        let binary = steer_without(place.path(), "chown");
        let own = ["--listen", ADDRESS, "--workers", "1", "--mode", "own", "--user", "65534"];
        let output = refused(namespace, &binary, &own);
        says(&output, 5, &["tcp://127.0.0.1:8080", "to user 65534"], "CAP_CHOWN");
        assert_eq!(tcp_count(target(), TcpState::Listen), 0, "nothing is left of the refused");
    });
}

#[test]
fn what_is_written_wrongly_is_told_before_anything_starts() {
    netns::run("written-wrongly", |namespace| {
        let say = |arguments: &[&str], code, parts: &[&str], hint| {
            says(&refused(namespace, &binary(), arguments), code, parts, hint);
        };
        let listen = ["--listen", ADDRESS, "--workers"];
        let with = |more: &[&'static str]| [&listen[..], more].concat();
        say(
            &["--listen", "somewhere:80", "--workers", "1"],
            2,
            &["\"somewhere:80\" is no listen address"],
            "tcp://",
        );
        say(&["--listen", "sctp://1.2.3.4:5", "--workers", "1"], 2, &["neither tcp nor udp"], "tcp://");
        say(&with(&["0"]), 2, &["'0'", "--workers"], "--help");
        say(&with(&["1025"]), 2, &["--workers 1025 is too many", "1 to 1024"], "two groups");
        say(&with(&["1", "--user", "no-such-user"]), 4, &["no user \"no-such-user\""], "useradd");
        say(&with(&["1", "--", "/no/such/program"]), 4, &["no program \"/no/such/program\""], "whole path");
        say(&with(&["1", "--", "no-such-program", "-v"]), 4, &["no program \"no-such-program\""], "PATH");
        let absent = "203.0.113.7:80";
        say(
            &["--listen", absent, "--workers", "1"],
            1,
            &["tcp://203.0.113.7:80", "no interface"],
            "`ip address`",
        );
        assert_eq!(tcp_count(target(), TcpState::Listen), 0);
    });
}

#[test]
fn a_daemon_that_is_not_there_is_told_from_one_that_is() {
    netns::run("unreachable", |namespace| {
        let mut steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", "1"]);
        let socket = steer.socket().to_string_lossy().into_owned();
        steer.stop(SOON);
        for arguments in [&["status"][..], &["restart", "web"], &["stop"], &["call", "Info"]] {
            says(&steer.command(arguments), 3, &["cannot reach the daemon at", &socket], "`steer run`");
        }
    });
}

/// Own mode: a program that is refused, under a group that goes on.
fn refused_at_restart(name: &str, setup: &str, parts: &[&str]) {
    netns::run(name, |namespace| {
        // The first generation is a plain server; the next are as the setup makes them.
        let source = format!(
            "import os\nif os.environ['STEER_GENERATION'] != '1':\n  pass\n{}\n{}",
            indented(setup),
            python::PLAIN_SERVER
        );
        let command = python::command(&source, &["127.0.0.1", "8080"]);
        let mut arguments = vec!["--listen", ADDRESS, "--workers", "1", "--mode", "own", "--"];
        arguments.extend(command.iter().map(String::as_str));
        let steer = Steer::run(namespace, &arguments);
        let old = steer.status().groups[0].workers[0].clone();
        let traffic = Traffic::start(&[target()]);
        let output = steer.command(["restart", "web/0"]);
        says(&output, 1, parts, "");
        assert!(output.stderr.contains("generation 1 goes on working"), "{}", output.stderr);
        let now = steer.status().groups[0].workers[0].clone();
        assert_eq!((now.pid, now.generation, now.state.as_str()), (old.pid, 1, "working"));
        let events: Vec<Event> = steer.command(["events", "--json"]).succeeded().parse_lines();
        assert!(events.iter().any(|event| event.kind == "start-failed" && event.generation == Some(2)));
        let tally = traffic.end();
        let counters = counters_add_up(&steer.status().groups[0]);
        assert_eq!(counters.outcome.dropped, 0);
        println!("{name}: connections: {}, failed: {}", tally.connections, tally.failed);
    });
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[test]
fn a_worker_whose_user_cannot_join_the_group_is_told_which_can() {
    let parts = ["exit 1", "ran as user 65534", "of user 0", "--user 65534"];
    refused_at_restart("other-user", "os.setuid(65534)", &parts);
}

#[test]
fn a_listener_of_another_owner_is_refused_with_both() {
    // It gives its socket away once it listens: then the kernel has no say any more.
    let setup = "import socket\n\
                 listen = socket.socket.listen\n\
                 socket.socket.listen = lambda own, backlog: (listen(own, backlog), os.fchown(own.fileno(), 65534, -1))\n\
                 own_bind = socket.socket.bind\n\
                 socket.socket.bind = lambda own, address: own_bind(own, address)";
    let parts = ["belongs to user 65534", "the group to user 0", "run the worker as user 0"];
    refused_at_restart("other-owner", setup, &parts);
}

#[test]
fn an_mptcp_listener_is_refused_with_the_way_out_for_go() {
    let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled");
    if !enabled.as_ref().is_ok_and(|value| value.trim() == "1") {
        return skip(&format!("net.mptcp.enabled is {enabled:?}"));
    }
    let setup = "import socket\n\
                 plain = socket.socket\n\
                 socket.socket = lambda family: plain(family, socket.SOCK_STREAM, 262)";
    let parts = ["tcp://127.0.0.1:8080", "MPTCP", "GODEBUG=multipathtcp=0"];
    refused_at_restart("mptcp", setup, &parts);
}
