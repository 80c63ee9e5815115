//! A worker that misbehaves ends in a clear receipt or error, and nothing is lost.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use steer::control::api::{Event, Receipt, WorkerStatus};
use steer::load::Tally;
use steer_tests::{
    netns,
    output::Output,
    process, scripts,
    service::group,
    steer::Steer,
    traffic::{Traffic, counters_add_up},
    wait,
};

const SOON: Duration = Duration::from_secs(30);
const ADDRESS: &str = "127.0.0.1:8080";

fn target() -> SocketAddr {
    ADDRESS.parse().expect("an address")
}

/// A group of two whose workers are the sample worker, with `flags` where the condition holds.
fn run<'a>(
    namespace: &'a netns::Namespace,
    place: &Path,
    condition: &str,
    flags: &str,
    more: &[&str],
) -> Steer<'a> {
    let worker = scripts::sample_worker(place, condition, flags);
    let mut arguments = vec!["--listen", ADDRESS, "--workers", "2", "--ready", "notify"];
    arguments.extend(more);
    let worker = worker.to_string_lossy();
    arguments.extend(["--", &*worker]);
    Steer::run(namespace, &arguments)
}

fn events(steer: &Steer<'_>) -> Vec<Event> {
    steer.command(["events", "--json"]).succeeded().parse_lines()
}

fn worker(steer: &Steer<'_>, index: usize) -> WorkerStatus {
    steer.status().groups[0].workers[index].clone()
}

fn until_event(steer: &Steer<'_>, kind: &str, of: &str) -> Event {
    wait::until(&format!("{of} {kind}"), SOON, || {
        let events = events(steer);
        let is_it = |event: &&Event| {
            event.kind == kind && event.worker.as_ref().is_some_and(|worker| worker.to_string() == of)
        };
        events.iter().find(is_it).cloned().ok_or_else(|| format!("{events:#?}"))
    })
}

fn has_hint(output: &Output) -> bool {
    output.stderr.lines().any(|line| line.starts_with("hint: "))
}

/// Prints what a test counted, in one line.
fn print(test: &str, steer: &Steer<'_>, tally: &Tally) {
    let status = steer.status();
    let counters = counters_add_up(&status.groups[0]);
    assert_eq!(counters.outcome.dropped, 0, "{counters:?}");
    assert!(counters.asked.connection >= tally.connections, "{counters:?}");
    println!(
        "{test}: connections: {}, failed: {}, moved: {}, runs: {}, migrated: {}",
        tally.connections, tally.failed, tally.moved, counters.runs, counters.asked.migration
    );
}

#[test]
fn a_generation_that_never_gets_ready_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    netns::run("never-ready", |namespace| {
        let bad = "[ $STEER_WORKER = web/0 ] && [ $STEER_GENERATION = 2 ]";
        let steer = run(namespace, place.path(), bad, "--never-ready", &["--start-timeout", "3s"]);
        let old = worker(&steer, 0);
        let traffic = Traffic::start(&[target()]);

        let output = steer.command(["restart", "web/0"]).exited(1);
        assert!(output.stderr.contains("was not ready within 3000 ms"), "{}", output.stderr);
        assert!(output.stderr.contains("generation 1 goes on working"), "{}", output.stderr);
        assert!(has_hint(&output), "{}", output.stderr);
        assert_eq!(output.stdout, "", "nothing was drained, so there is no receipt");

        let now = worker(&steer, 0);
        assert_eq!((now.state.as_str(), now.pid, now.generation), ("working", old.pid, 1));
        assert!(now.message.unwrap().contains("was not ready within 3000 ms"));
        assert!(until_event(&steer, "start-failed", "web/0").detail.contains("was not ready"));
        // The third is a good one.
        let receipts: Vec<Receipt> = steer.command(["restart", "web/0", "--json"]).succeeded().parse_lines();
        assert_eq!((receipts[0].generation, receipts[0].successor), (1, Some(3)));
        assert_eq!(receipts[0].outcome, "drained");
        let tally = traffic.end();
        assert_eq!(tally.moved, 0);
        print("never ready", &steer, &tally);
    });
}

#[test]
fn a_generation_that_exits_at_once_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    netns::run("exit-at-once", |namespace| {
        let steer = run(namespace, place.path(), "[ $STEER_GENERATION = 2 ]", "--exit-at-once", &[]);
        let old = worker(&steer, 1);
        let traffic = Traffic::start(&[target()]);

        let output = steer.command(["restart", "web/1", "--json"]).exited(1);
        for part in
            ["generation 2 of worker 1", "exit 1", "before it was ready", "generation 1 goes on working"]
        {
            assert!(output.stderr.contains(part), "{}", output.stderr);
        }
        assert!(has_hint(&output), "{}", output.stderr);
        assert!(steer.messages().contains("told to exit at once"), "what the worker says is passed on");
        let now = worker(&steer, 1);
        assert_eq!((now.state.as_str(), now.pid, now.generation), ("working", old.pid, 1));
        // Of a whole group, the restart ends with the first that fails: the others are left as they were.
        let output = steer.command(["restart", "web", "--json"]).exited(1);
        let receipts: Vec<Receipt> = output.parse_lines();
        assert!(receipts.is_empty() && output.stderr.contains("generation 2 of worker 0"), "{output:?}");
        let tally = traffic.end();
        assert_eq!(tally.moved, 0);
        print("exits at once", &steer, &tally);
    });
}

#[test]
fn a_worker_that_always_exits_is_started_ever_more_slowly_while_its_connections_wait() {
    let place = tempfile::tempdir().unwrap();
    netns::run("crash-loop", |namespace| {
        let healed = place.path().join("healed");
        let bad = format!("[ ! -e {} ]", healed.display());
        let worker = scripts::sample_worker(place.path(), &bad, "--exit-at-once");
        // A service: `steer run` would give up.
        let command = [worker.to_string_lossy().into_owned()];
        let steer = Steer::started(namespace, &group("web", ADDRESS, 1, &command, "ready = \"notify\""));
        steer.until_reachable();
        let failures = || -> Vec<u64> {
            let failed = events(&steer).into_iter().filter(|event| event.kind == "start-failed");
            failed.map(|event| event.unix_ms).collect()
        };
        steer.until("the group holds", SOON, |status| status.groups[0].holding);
        let mut client = TcpStream::connect(target()).expect("the holding listener takes it");
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let times = wait::until("it has failed five times", SOON, || {
            let times = failures();
            if times.len() >= 5 { Ok(times) } else { Err(format!("{times:?}")) }
        });
        // 100 ms, 200 ms, 400 ms, ... from a failure to the next start; the clocks of the two are different ones.
        for (index, pair) in times.windows(2).enumerate() {
            let (waited, least) = (pair[1] - pair[0], 100_u64 << index);
            assert!(waited + 5 >= least, "failure {index}: {waited} ms, at least {least} ms: {times:?}");
        }
        let status = steer.status();
        assert!(status.groups[0].holding && status.groups[0].held == 1, "{status:?}");
        assert_eq!(status.groups[0].workers[0].state, "lost");
        assert!(status.groups[0].workers[0].message.as_ref().unwrap().contains("exit 1"));

        std::fs::write(&healed, "").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("it was held, and is answered by the first that works");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        let status = steer.until_working();
        let counters = counters_add_up(&status.groups[0]);
        assert_eq!((counters.asked.migration, counters.outcome.dropped), (1, 0), "{counters:?}");
        println!("always exits: starts: {}, waits: {times:?}, held and answered: 1", failures().len() + 1);
    });
}

#[test]
fn a_worker_that_ignores_sigterm_is_killed_once_nothing_is_left_to_lose() {
    let place = tempfile::tempdir().unwrap();
    netns::run("ignore-term", |namespace| {
        let more = ["--stop-timeout", "300ms", "--settle", "50ms"];
        let steer = run(namespace, place.path(), "[ $STEER_GENERATION = 1 ]", "--ignore-term", &more);
        let traffic = Traffic::start(&[target()]);
        let receipts: Vec<Receipt> = steer.command(["restart", "web", "--json"]).succeeded().parse_lines();
        assert_eq!(receipts.len(), 2);
        for receipt in &receipts {
            assert_eq!((receipt.outcome.as_str(), receipt.exit.as_deref()), ("drained", Some("signal 9")));
            let message = receipt.message.as_ref().unwrap();
            assert!(message.contains("did not end when told to, and was killed"), "{message}");
            let stop = receipt.steps.iter().find(|step| step.name == "stop").unwrap();
            assert!(stop.milliseconds >= 300, "{receipt:?}");
            let ended =
                [receipt.handshakes, receipt.unaccepted, receipt.connections].map(|count| count.ended);
            assert_eq!(ended, [0, 0, 0]);
        }
        let tally = traffic.end();
        assert_eq!(tally.moved, 0);
        print("ignores SIGTERM", &steer, &tally);
    });
}

#[test]
fn a_worker_that_ignores_sigterm_with_a_connection_open_is_killed_after_the_deadline() {
    let place = tempfile::tempdir().unwrap();
    netns::run("ignore-term-open", |namespace| {
        let more = ["--stop-timeout", "200ms", "--settle", "50ms"];
        let steer = run(namespace, place.path(), "[ $STEER_GENERATION = 1 ]", "--ignore-term", &more);
        let mut client = TcpStream::connect(target()).unwrap();
        client.write_all(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let open = steer.until("it is accepted", SOON, |status| {
            status.groups[0].workers.iter().any(|worker| worker.connections == 1)
        });
        let its = open.groups[0].workers.iter().find(|worker| worker.connections == 1).unwrap().clone();
        let traffic = Traffic::start(&[target()]);
        let name = its.name.to_string();
        let output = steer.command(["restart", &name, "--timeout", "500ms", "--json"]).exited(6);
        let receipt: Receipt = output.parse();
        assert_eq!((receipt.outcome.as_str(), receipt.exit.as_deref()), ("deadline", Some("signal 9")));
        // The client's own, which hangs, is what is left.
        assert!(receipt.message.as_ref().unwrap().contains("1 open connection"), "{receipt:?}");
        assert!(receipt.connections.began >= 1 && receipt.unaccepted.ended == 0, "{receipt:?}");
        assert_eq!(
            client.read(&mut [0]).map_err(|error| error.kind()).unwrap_or(0),
            0,
            "killed with its worker"
        );
        print("ignores SIGTERM with a connection", &steer, &traffic.end());
    });
}

#[test]
fn a_worker_that_closes_its_listener_is_lost_and_what_waits_goes_to_others() {
    let place = tempfile::tempdir().unwrap();
    netns::run("close-listener", |namespace| {
        let bad = "[ $STEER_WORKER = web/0 ] && [ $STEER_GENERATION = 1 ]";
        let steer = run(namespace, place.path(), bad, "--close-listener-after 1500", &["--settle", "100ms"]);
        let traffic = Traffic::start(&[target()]);
        let lost = until_event(&steer, "listener-lost", "web/0");
        assert!(lost.detail.contains("none of its processes holds open"), "{lost:?}");
        let receipt = until_event(&steer, "lost", "web/0");
        assert!(receipt.detail.contains("none of its processes holds open"), "{receipt:?}");
        let status = steer.until_working();
        let worker = &status.groups[0].workers[0];
        assert_eq!((worker.generation, worker.restarts), (2, 1), "started again, once");
        // What waited, if anything did, has moved as it closed: nobody else has its listener open.
        let moved: u64 = status.groups[0].workers.iter().map(|worker| worker.migrated_in).sum();
        assert_eq!(worker.migrated_out, moved);
        let tally = traffic.end();
        print("closes its listener", &steer, &tally);
    });
}

#[test]
fn a_child_that_keeps_the_listener_keeps_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    netns::run("fork-holder", |namespace| {
        let bad = "[ $STEER_GENERATION -le 2 ]";
        let mut steer = run(namespace, place.path(), bad, "--fork-holder", &["--settle", "100ms"]);
        let first = worker(&steer, 0);
        let traffic = Traffic::start(&[target()]);
        let receipts: Vec<Receipt> = steer.command(["restart", "web/0", "--json"]).succeeded().parse_lines();
        assert_eq!((receipts[0].outcome.as_str(), receipts[0].exit.as_deref()), ("drained", Some("exit 0")));
        let message = receipts[0].message.as_ref().expect("that a child was left behind is said");
        assert!(message.contains("left 1 process behind"), "{message}");

        // Killed, with its child alive: the listener is open as ever, and nobody accepts.
        let pid = worker(&steer, 0).pid.unwrap();
        process::signal(pid, rustix::process::Signal::KILL);
        let lost = until_event(&steer, "lost", "web/0");
        assert!(lost.detail.contains("signal 9"), "{lost:?}");
        let status = steer.until_working();
        assert_eq!(status.groups[0].workers[0].generation, 3);
        assert_ne!(status.groups[0].workers[0].pid, first.pid);
        // The one loss that is allowed: what the killed process had accepted.
        let tally = traffic.end_after_kill();
        println!("killed beside its child: accepted by the killed and lost: {}", tally.failed);
        print("leaves a child behind", &steer, &tally);
        // The fixture looks for processes that are left, too.
        steer.stop(SOON);
    });
}
