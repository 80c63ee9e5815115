//! The fixtures keep what they promise: a test that builds on them shows what `steer` does, not what they do.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use steer_tests::{
    netns, nft, process, python,
    sockets::{TcpState, tcp_count},
    steer::Steer,
    wait,
};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn namespaces_are_apart_and_leave_no_name() {
    let names = || fs::read_dir("/run/netns").map_or(0, Iterator::count);
    let before = names();
    let host = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    netns::run("one", |one| {
        let _listener = TcpListener::bind("127.0.0.1:8080").unwrap();
        one.sysctl("net.ipv4.tcp_migrate_req", "1");
        netns::run("two", |two| {
            TcpListener::bind("127.0.0.1:8080").expect("the port is free in another namespace");
            assert_eq!(two.read_sysctl("net.ipv4.tcp_migrate_req"), "0");
            assert_eq!(one.read_sysctl("net.ipv4.tcp_migrate_req"), "1", "read from a thread outside of it");
            let inside = one.inside(|| TcpListener::bind("127.0.0.1:8080"));
            assert_eq!(inside.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        });
        let in_a_thread = thread::spawn(|| TcpListener::bind("127.0.0.1:8080")).join().unwrap();
        in_a_thread.expect_err("a thread that a body starts is in the body's namespace");
    });
    assert_eq!(names(), before);
    assert!(host.starts_with("  sl"), "the host's own namespace is as it was");
}

#[test]
fn every_address_of_the_prefixes_can_be_client_and_server() {
    netns::run("addresses", |_| {
        for (server, client) in
            [("127.1.2.3:80", "127.255.0.9:0"), ("[fd00:57ee:7::1]:80", "[fd00:57ee:7:0:9:8:7:6]:0")]
        {
            let listener = TcpListener::bind(server).unwrap();
            let _stream = connect_from(client, server);
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(peer.ip(), client.parse::<SocketAddr>().unwrap().ip());
        }
    });
}

#[test]
fn a_process_that_a_body_leaves_is_killed_and_fails_the_test() {
    let mut pid = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        netns::run("left", |namespace| {
            // The shell ends, so that what it started is nobody's child here.
            let printed = namespace.execute("sh", &["-c", "sleep 600 >/dev/null 2>&1 & echo $!"]);
            pid = printed.trim().parse().unwrap();
        });
    }));
    let message = message_of(outcome);
    assert!(
        message.contains("were left in network namespace left") && message.contains("sleep 600"),
        "{message}"
    );
    assert!(!is_alive(pid));
}

#[test]
fn a_wait_that_ends_at_its_deadline_tells_the_last_state() {
    let mut looks = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        wait::until("the moon is full", Duration::from_millis(20), || -> Result<(), String> {
            looks += 1;
            Err(format!("look {looks}"))
        });
    }));
    let message = message_of(outcome);
    assert!(message.starts_with("the moon is full: not within 20ms; last state: look "), "{message}");
    assert!(looks >= 2);
    assert_eq!(wait::until("at once", Duration::ZERO, || Ok(7)), 7);
}

#[test]
fn a_frozen_handshake_is_half_open_and_completes_when_thawed() {
    netns::run("freeze", |namespace| {
        for server in ["127.0.0.1:8080", "[::1]:8081"] {
            let server: SocketAddr = server.parse().unwrap();
            let listener = TcpListener::bind(server).unwrap();
            let before = TcpStream::connect(server).unwrap();
            listener.accept().unwrap();

            let frozen = nft::freeze_final_ack(namespace, server.port());
            let mut client = TcpStream::connect(server).expect("a SYN-ACK is all that a client waits for");
            wait::until("the final ACK is dropped", SOON, || at_least(1, frozen.dropped()));
            assert_eq!(tcp_count(server, TcpState::SynReceived), 1);
            client.write_all(b"hello").unwrap();
            wait::until("data is sent again and dropped again", SOON, || at_least(3, frozen.dropped()));
            assert_eq!(tcp_count(server, TcpState::SynReceived), 1, "data completes no frozen handshake");
            listener.set_nonblocking(true).unwrap();
            assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);

            frozen.thaw();
            listener.set_nonblocking(false).unwrap();
            let (mut accepted, peer) = listener.accept().unwrap();
            let mut data = [0; 5];
            accepted.read_exact(&mut data).unwrap();
            assert_eq!((peer, &data), (client.local_addr().unwrap(), b"hello"));
            assert_eq!(tcp_count(server, TcpState::SynReceived), 0);
            drop(before);
        }
    });
}

#[test]
fn one_client_can_be_frozen_while_others_connect() {
    netns::run("freeze-one", |namespace| {
        for (server, frozen_client, other) in [
            ("127.0.0.1:8080", "127.0.0.7:0", "127.0.0.8:0"),
            ("[fd00:57ee:7::1]:8080", "[fd00:57ee:7::7]:0", "[fd00:57ee:7::8]:0"),
        ] {
            let listener = TcpListener::bind(server).unwrap();
            let ip: IpAddr = frozen_client.parse::<SocketAddr>().unwrap().ip();
            let frozen = nft::freeze_final_ack_from(namespace, 8080, ip);
            let mut first = connect_from(frozen_client, server);
            let _second = connect_from(other, server);
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(peer.ip(), other.parse::<SocketAddr>().unwrap().ip());
            drop(frozen);
            first.write_all(b"x").unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), ip);
        }
    });
}

/// A program with the command line of `steer`: a daemon with two workers, in sessions of their own, and `status`, `stop`.
const FAKE_STEER: &str = r#"
import json, os, signal, subprocess, sys, time
arguments = sys.argv[1:]
if arguments[0] == "run":
    directory = os.path.dirname(arguments[2])
    if "--broken" in arguments:
        print("error: no such option: --broken", file=sys.stderr)
        sys.exit(2)
    workers = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2)]
    json.dump([worker.pid for worker in workers], open(directory + "/workers", "w"))
    open(directory + "/asked", "w").write("0")
    def stop(*_):
        os.remove(directory + "/daemon")
        for worker in workers:
            worker.kill()
            worker.wait()
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    json.dump(os.getpid(), open(directory + "/daemon.new", "w"))
    os.rename(directory + "/daemon.new", directory + "/daemon")
    print("up", file=sys.stderr, flush=True)
    while True:
        signal.pause()
directory = os.path.dirname(arguments[1])
if not os.path.exists(directory + "/daemon"):
    print("error: no daemon", file=sys.stderr)
    sys.exit(3)
if arguments[2] == "stop":
    os.kill(json.load(open(directory + "/daemon")), signal.SIGTERM)
    print("{}")
if arguments[2] == "status":
    asked = int(open(directory + "/asked").read())
    open(directory + "/asked", "w").write(str(asked + 1))
    states = ["working", "working" if asked >= 2 else "starting"]
    worker = lambda index: {
        "name": "web/%d" % index, "state": states[index], "pid": json.load(open(directory + "/workers"))[index],
        "generation": 1, "slot": index, "weight": 1, "share": 0.5, "queue": 0, "connections": 0, "selected": 0,
        "migrated_in": 0, "migrated_out": 0, "restarts": 0, "message": None}
    zeros = lambda *names: {name: 0 for name in names}
    print(json.dumps({"schema": 1, "groups": [{
        "name": "web", "listen": ["tcp://127.0.0.1:80"], "policy": "hash", "mode": "inherit", "restart": "surge",
        "when_empty": "hold", "holding": False, "held": 0, "epoch": 1, "workers": [worker(0), worker(1)], "strangers": 0,
        "counters": {"runs": 0, "asked": zeros("connection", "segment", "datagram", "migration"),
                     "outcome": zeros("first_choice", "further_choice", "held", "dropped")}}]}))
"#;

#[test]
fn a_daemon_is_awaited_and_all_its_processes_end_with_the_fixture() {
    let directory = tempfile::tempdir().unwrap();
    let fake = python::script(directory.path(), "steer", FAKE_STEER);
    netns::run("steer", |namespace| {
        let mut steer = Steer::start(namespace, &fake, &["--workers", "2"]);
        let status = steer.until_working();
        let pids: Vec<u32> = status.groups[0].workers.iter().map(|worker| worker.pid.unwrap()).collect();
        assert_eq!(steer.messages(), "up\n");
        let mut processes = steer.processes();
        processes.sort_unstable();
        let mut expected = vec![pids[0], pids[1], steer.pid()];
        expected.sort_unstable();
        assert_eq!(processes, expected);
        assert_eq!(namespace.processes().len(), 3, "what the fixture starts is in the namespace");

        steer.kill();
        assert!(pids.iter().all(|pid| is_alive(*pid)), "killing the daemon leaves its workers");
        let kept = steer.path("").to_owned();
        drop(steer);
        assert!(!pids.iter().any(|pid| is_alive(*pid)) && !kept.exists());

        let mut again = Steer::start(namespace, &fake, &["--workers", "2"]);
        again.until_working();
        again.stop(SOON);
        again.start_daemon();
        again.until_working();
        assert!(again.end_with(Signal::TERM, SOON).success());
        assert!(again.processes().is_empty());
    });
}

#[test]
fn a_daemon_that_ends_fails_the_wait_at_once_with_its_messages() {
    let directory = tempfile::tempdir().unwrap();
    let fake = python::script(directory.path(), "steer", FAKE_STEER);
    netns::run("broken", |namespace| {
        let steer = Steer::start(namespace, &fake, &["--broken"]);
        let message = message_of(catch_unwind(AssertUnwindSafe(|| {
            steer.until_working();
        })));
        assert!(message.contains("the daemon has ended: error: no such option: --broken"), "{message}");
        let output = steer.command(["status", "--json"]).exited(3);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", "error: no daemon\n"));
    });
}

#[test]
fn a_panic_ends_the_daemon_and_its_workers_too() {
    let directory = tempfile::tempdir().unwrap();
    let fake = python::script(directory.path(), "steer", FAKE_STEER);
    let mut pids = Vec::new();
    let message = message_of(catch_unwind(AssertUnwindSafe(|| {
        netns::run("panic", |namespace| {
            let steer = Steer::start(namespace, &fake, &["--workers", "2"]);
            steer.until_working();
            pids = steer.processes();
            panic!("the test's own failure");
        });
    })));
    assert_eq!(message, "the test's own failure");
    assert_eq!(pids.len(), 3);
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
}

#[test]
fn the_end_of_a_child_is_awaited_with_a_bound() {
    let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    assert_eq!(process::wait_for(&mut child, Duration::from_millis(20)), None);
    process::signal(child.id(), Signal::TERM);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(process::wait_for(&mut child, SOON).and_then(|status| status.signal()), Some(15));
}

fn connect_from(client: &str, server: &str) -> TcpStream {
    let [client, server] = [client, server].map(|address| address.parse::<SocketAddr>().expect("an address"));
    let socket = Socket::new(Domain::for_address(client), Type::STREAM, None).expect("a socket");
    socket.bind(&client.into()).expect("the client's address");
    socket.connect(&server.into()).expect("a connection");
    socket.into()
}

fn at_least(wanted: u64, found: u64) -> Result<(), String> {
    if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted}")) }
}

/// A zombie that its parent has not yet waited for is not alive.
fn is_alive(pid: u32) -> bool {
    fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).is_ok_and(|bytes| !bytes.is_empty())
}

fn message_of<T>(outcome: thread::Result<T>) -> String {
    let panic = outcome.err().expect("a panic");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).expect("a panic with a message")
}
