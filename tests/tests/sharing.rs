//! Programs that know nothing of SO_REUSEPORT, of passed listeners, of steer: their workers share an address by the bind hook.

use std::{fs, net::SocketAddr, time::Duration};

use steer::control::api::{Event, Receipt};
use steer_tests::{
    bind_denied::{DeniedPort, effective},
    cgroups,
    machine::cgroup::Cgroup,
    netns, process,
    python::{self, PLAIN_SERVER, unaware_server as unaware},
    service::group,
    steer::Steer,
    traffic::{Traffic, counters_add_up},
    wait,
};

const SOON: Duration = Duration::from_secs(30);
const ADDRESS: &str = "127.0.0.1:8080";

/// A server that takes the listener at fd 3, says nothing, and answers as the plain one does.
fn passed() -> String {
    let (before, after) = PLAIN_SERVER.split_once("listener = ").expect("it makes a listener");
    let (_, after) = after.split_once("listener.listen(1024)\n").expect("it listens");
    format!("{before}listener = socket.socket(fileno=3)\n{after}")
}

fn run<'a>(namespace: &'a netns::Namespace, address: SocketAddr, source: &str, more: &[&str]) -> Steer<'a> {
    let listen = address.to_string();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let command = python::command(source, &[&ip, &port]);
    let mut arguments = vec!["--listen", &listen, "--workers", "2", "--settle", "5s"];
    arguments.extend(more);
    arguments.push("--");
    arguments.extend(command.iter().map(String::as_str));
    Steer::run(namespace, &arguments)
}

/// Why this kernel has no bind hook, where it refuses the programs: before Linux 5.13.
fn without_hook(namespace: &netns::Namespace) -> Option<String> {
    let binary = steer_tests::steer::binary();
    let check = namespace.inside(|| std::process::Command::new(binary).args(["check", "--json"]).output());
    let report: serde_json::Value = serde_json::from_slice(&check.expect("it runs").stdout).expect("JSON");
    let probes = report["probes"].as_array().expect("probes");
    let hook = probes.iter().find(|probe| probe["name"] == "bind hook").expect("it is tried");
    let detail = hook["detail"].as_str().unwrap_or_default();
    detail.contains("the kernel refused the program").then(|| detail.to_owned())
}

fn events(steer: &Steer<'_>, kind: &str) -> Vec<Event> {
    let events: Vec<Event> = steer.command(["events", "--json"]).succeeded().parse_lines();
    events.into_iter().filter(|event| event.kind == kind).collect()
}

/// Restarts all workers under load: nothing is lost, and both generations of each have answered. Returns how many generations have bound
/// the address themselves.
fn serves_through_restarts(steer: &Steer<'_>, address: SocketAddr) -> usize {
    assert_eq!(steer.status().groups[0].mode, "auto");
    let traffic = Traffic::start(&[address]);
    for _ in 0..3 {
        let receipts: Vec<Receipt> = steer.command(["restart", "web", "--json"]).succeeded().parse_lines();
        for receipt in &receipts {
            assert_eq!((receipt.outcome.as_str(), receipt.migrated), ("drained", 0), "{receipt:?}");
        }
        assert_eq!(receipts.len(), 2);
        traffic.more(50);
    }
    let tally = traffic.end();
    let status = steer.status();
    let counters = counters_add_up(&status.groups[0]);
    assert_eq!((counters.outcome.dropped, status.groups[0].strangers), (0, 0));
    assert!(tally.by_responder.len() >= 8, "4 generations of each have answered: {:?}", tally.by_responder);
    let [bound, inherited] = ["binds", "inherits"].map(|kind| events(steer, kind).len());
    assert_eq!(bound + inherited, 8, "each generation has shown which it serves");
    println!(
        "{address}: connections: {}, failed: {}, processes: {}, bound themselves: {bound}, runs: {}",
        tally.connections,
        tally.failed,
        tally.by_responder.len(),
        counters.runs
    );
    bound
}

#[test]
fn an_unaware_program_is_restarted_and_nothing_is_lost() {
    for (name, address, more) in [
        ("share-ipv4", ADDRESS, &[][..]),
        ("share-ipv6", "[::1]:8080", &[]),
        ("share-user", "0.0.0.0:8080", &["--user", "65534"]),
    ] {
        netns::run(name, |namespace| {
            if let Some(reason) = without_hook(namespace) {
                return println!("not supported: {reason}");
            }
            let address: SocketAddr = address.parse().unwrap();
            let mut steer = run(namespace, address, &unaware(), more);
            let pid = steer.worker_pids()[0];
            let cgroup = cgroups::of(pid);
            assert_eq!(serves_through_restarts(&steer, address), 8);
            steer.stop(SOON);
            assert!(!cgroups::exists(&cgroup), "{cgroup} is left");
        });
    }
}

#[test]
fn a_program_that_takes_what_it_is_passed_binds_nothing() {
    netns::run("share-passed", |namespace| {
        let address: SocketAddr = ADDRESS.parse().unwrap();
        let mut steer = run(namespace, address, &passed(), &[]);
        assert_eq!(serves_through_restarts(&steer, address), 0);
        steer.stop(SOON);
    });
}

/// Ready by READY=1 in mode auto: what the program binds counts, and else what it was passed.
#[test]
fn a_program_that_says_ready_serves_what_it_has_bound() {
    let said = "import os, socket as s\n\
                s.socket(s.AF_UNIX, s.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n";
    for (name, source, bound) in [("share-notify-own", unaware(), 8), ("share-notify-passed", passed(), 0)] {
        netns::run(name, |namespace| {
            let address: SocketAddr = ADDRESS.parse().unwrap();
            let source =
                source.replace("while True:\n    connection", &format!("{said}while True:\n    connection"));
            assert!(source.contains(said));
            let mut steer = run(namespace, address, &source, &["--ready", "notify"]);
            assert_eq!(serves_through_restarts(&steer, address), bound);
            steer.stop(SOON);
        });
    }
}

/// A program that binds what its arguments say and prints what comes of it.
const BINDER: &str = r#"
import socket, sys
for text in sys.argv[1:]:
    address, port = text.rsplit(":", 1)
    one = socket.socket(socket.AF_INET)
    try:
        one.bind((address, int(port)))
        print(text, "bound", one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT), flush=True)
    except OSError as error:
        print(text, error.errno, flush=True)
"#;

#[test]
fn nobody_but_workers_and_no_other_port_is_shared() {
    netns::run("share-others", |namespace| {
        let address: SocketAddr = ADDRESS.parse().unwrap();
        let steer = run(namespace, address, &unaware(), &[]);
        let command = python::command(BINDER, &[ADDRESS, "127.0.0.1:8081"]);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let elsewhere = namespace.execute(words[0], &words[1..]);
        assert_eq!(elsewhere, format!("{ADDRESS} {}\n127.0.0.1:8081 bound 0\n", libc::EADDRINUSE));

        // A worker of another group: its own address is shared, that of the first is not, and another port is as it was.
        let [own, other] = ["127.0.0.1:8090", "127.0.0.1:8091"];
        let mut second = vec!["--listen", own, "--name", "api", "--workers", "1", "--"];
        let command = python::command(BINDER, &[own, ADDRESS, other]);
        second.extend(command.iter().map(String::as_str));
        let second = Steer::start(namespace, &steer_tests::steer::binary(), &second);
        let said = wait::until("a worker has bound", SOON, || {
            let said = second.messages();
            if said.contains(other) { Ok(said) } else { Err(said) }
        });
        let expected =
            [format!("{own} bound 1"), format!("{ADDRESS} {}", libc::EADDRINUSE), format!("{other} bound 0")];
        assert!(expected.iter().all(|line| said.contains(line)), "{expected:?} in {said}");
        assert_eq!(steer.status().groups[0].strangers, 0);
    });
}

/// Starts `steer run` in a cgroup.
fn foreground_in<'a>(namespace: &'a netns::Namespace, cgroup: &Cgroup, arguments: &[&str]) -> Steer<'a> {
    let mut steer = Steer::foreground(namespace, &steer_tests::steer::binary(), arguments);
    let enter = format!("echo $$ > {}; exec \"$0\" \"$@\"", cgroup.processes().display());
    steer.launcher = ["sh", "-euc", &enter].map(str::to_owned).to_vec();
    steer.start_daemon();
    steer
}

/// Programs of somebody else at a cgroup above, as systemd's of `SocketBindDeny=` are at the unit's: theirs and the bind hook both count.
#[test]
fn a_bind_that_programs_beside_the_hook_deny_stays_denied() {
    netns::run("share-beside", |namespace| {
        if let Some(reason) = without_hook(namespace) {
            return println!("not supported: {reason}");
        }
        let address: SocketAddr = ADDRESS.parse().unwrap();
        let cgroup = Cgroup::make();
        let denied = DeniedPort::attach(cgroup.path(), 8081);
        let tries = python::command(&format!("{BINDER}{}", unaware_at(address)), &["127.0.0.1:8081"]);
        let mut arguments = vec!["--listen", ADDRESS, "--workers", "2", "--settle", "5s", "--"];
        arguments.extend(tries.iter().map(String::as_str));
        let mut steer = foreground_in(namespace, &cgroup, &arguments);
        steer.until_working();
        let workers = cgroups::of(steer.worker_pids()[0]);
        let workers = cgroups::mount().join(workers.trim_start_matches('/'));
        assert_eq!(workers.parent(), Some(cgroup.path()));
        assert_eq!((effective(&workers), denied.attached()), ([2, 2], [1, 1]));
        assert_eq!(serves_through_restarts(&steer, address), 8);
        let said = steer.messages();
        let refused = format!("127.0.0.1:8081 {}\n", libc::EPERM);
        assert_eq!((said.matches(&refused).count(), said.contains("8081 bound")), (8, false), "{said}");
        steer.stop(SOON);
        assert_eq!(
            (effective(cgroup.path()), denied.attached()),
            ([1, 1], [1, 1]),
            "what is another's stays"
        );
    });
}

/// `SocketBindDeny=any` with some ports allowed denies port 0, by which the daemon's probe takes any: a program that binds its address
/// needs none.
#[test]
fn a_daemon_that_may_not_probe_says_so_and_does_without_where_it_can() {
    netns::run("share-unprobed", |namespace| {
        if let Some(reason) = without_hook(namespace) {
            return println!("not supported: {reason}");
        }
        let address: SocketAddr = ADDRESS.parse().unwrap();
        let cgroup = Cgroup::make();
        let _denied = DeniedPort::attach(cgroup.path(), 0);
        let told = ["cannot be probed: Operation not permitted", "hint: ", "SocketBindAllow=tcp"];
        let is_told = |said: &str| told.iter().all(|part| said.contains(part));
        let command = python::command(&unaware_at(address), &[]);
        let mut arguments = vec!["--listen", ADDRESS, "--workers", "2", "--settle", "5s", "--"];
        arguments.extend(command.iter().map(String::as_str));
        let mut steer = foreground_in(namespace, &cgroup, &arguments);
        steer.until_working();
        assert_eq!(serves_through_restarts(&steer, address), 8);
        assert!(is_told(&steer.messages()), "{}", steer.messages());
        steer.stop(SOON);
        // One that takes the listeners it is passed cannot be known to be ready.
        arguments.splice(0..0, ["--ready", "probe"]);
        let mut steer = foreground_in(namespace, &cgroup, &arguments);
        assert_eq!(steer.wait(SOON).code(), Some(1));
        assert!(is_told(&steer.messages()), "{}", steer.messages());
    });
}

/// The unaware server with its address in its text: its arguments are another program's.
fn unaware_at(address: SocketAddr) -> String {
    let given = "sys.argv[1], int(sys.argv[2])";
    let source = unaware();
    assert!(source.contains(given));
    source.replace(given, &format!("{:?}, {}", address.ip().to_string(), address.port()))
}

#[test]
fn a_bind_to_another_address_is_told_with_what_to_write() {
    netns::run("share-elsewhere", |namespace| {
        let command = python::command(&unaware(), &["0.0.0.0", "8080"]);
        let mut arguments = vec!["--listen", ADDRESS, "--workers", "1", "--start-timeout", "2s", "--"];
        arguments.extend(command.iter().map(String::as_str));
        let steer = Steer::start(namespace, &steer_tests::steer::binary(), &arguments);
        steer.until_reachable();
        let told = wait::until("it is told", SOON, || {
            events(&steer, "bound-elsewhere").pop().ok_or_else(|| steer.messages())
        });
        let parts = ["tcp://0.0.0.0:8080", "tcp://127.0.0.1:8080", "hint: listen on tcp://0.0.0.0:8080"];
        assert!(parts.iter().all(|part| told.detail.contains(part)), "{told:?}");
    });
}

/// Waits for a file before it binds.
fn patient(file: &str) -> String {
    format!("import os, time\nwhile not os.path.exists({file:?}): time.sleep(0.01)\n{}", unaware())
}

#[test]
fn a_worker_that_binds_while_there_is_no_daemon_is_found_by_the_next() {
    netns::run("share-killed", |namespace| {
        let address: SocketAddr = ADDRESS.parse().unwrap();
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("go");
        fs::write(&file, "").unwrap();
        let command = python::command(&patient(&file.to_string_lossy()), &["127.0.0.1", "8080"]);
        let mut steer = Steer::configured(namespace, &group("web", ADDRESS, 2, &command, ""));
        let traffic = Traffic::start(&[address]);
        let before = steer.status();
        fs::remove_file(&file).unwrap();
        let mut restart = std::process::Command::new(steer_tests::steer::binary());
        restart.arg("--socket").arg(steer.socket()).args(["restart", "web/0"]);
        let mut restart = restart.spawn().expect("it runs");
        let started = wait::until("its successor is started", SOON, || {
            events(&steer, "started")
                .pop()
                .filter(|event| event.generation == Some(2))
                .ok_or_else(String::new)
        });
        steer.kill();
        restart.wait().expect("it ends with the daemon");
        fs::write(&file, "").unwrap();
        let pid = started.detail.strip_prefix("pid ").and_then(|pid| pid.parse().ok()).expect("a pid");
        wait::until("it has bound without a daemon", SOON, || {
            let [sockets, wanted] = [process::sockets(pid), 2];
            if sockets >= wanted { Ok(()) } else { Err(format!("{sockets} sockets")) }
        });
        traffic.more(50);
        steer.start_daemon();
        steer.until("it works", SOON, |status| {
            let worker = &status.groups[0].workers[0];
            // And the drain of the one before is over, so that the next restart can begin.
            (worker.generation, worker.pid, worker.drains.drained) == (2, Some(pid), 1)
        });
        // The hook that the second daemon attached serves the next.
        steer.command(["restart", "web"]).succeeded();
        let tally = traffic.end();
        assert_eq!(before.groups[0].mode, "auto");
        println!("share-killed: connections: {}, failed: {}", tally.connections, tally.failed);
        let cgroup = cgroups::of(steer.worker_pids()[0]);
        steer.stop(SOON);
        assert!(!cgroups::exists(&cgroup), "{cgroup} is left");
    });
}

#[test]
fn a_hook_that_somebody_detaches_is_attached_again_and_said() {
    netns::run("share-detached", |namespace| {
        let address: SocketAddr = ADDRESS.parse().unwrap();
        let command = python::command(&unaware(), &["127.0.0.1", "8080"]);
        let mut steer = Steer::configured(namespace, &group("web", ADDRESS, 2, &command, ""));
        let traffic = Traffic::start(&[address]);
        let pins = cgroups::hook_pins(steer.pins().expect("a service has pins"), "web");
        assert_eq!(pins.len(), 2, "{pins:?}");
        pins.iter().for_each(|pin| cgroups::detach(pin));
        let told = wait::until("it is attached again", SOON, || {
            let told = events(&steer, "mended").into_iter().find(|event| event.detail.contains("bind hook"));
            told.ok_or_else(|| steer.messages())
        });
        assert!(told.detail.contains("attached again"), "{told:?}");
        steer.command(["restart", "web"]).succeeded();
        let tally = traffic.end();
        println!("share-detached: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.stop(SOON);
    });
}
