//! A plain Python program that binds with SO_REUSEPORT itself, and knows nothing of steer.

use std::{net::SocketAddr, time::Duration};

use rustix::process::Signal;
use steer::control::api::{Event, Receipt};
use steer_tests::{
    netns, process,
    python::{self, ByHand, PLAIN_SERVER},
    sockets::{TcpState, tcp_count},
    steer::{Steer, binary},
    traffic::{Traffic, counters_add_up},
    wait,
};

const SOON: Duration = Duration::from_secs(30);

fn run<'a>(namespace: &'a netns::Namespace, address: SocketAddr, more: &[&str]) -> Steer<'a> {
    let listen = address.to_string();
    let mut arguments = vec!["--listen", &listen, "--workers", "2", "--mode", "own", "--settle", "5s"];
    arguments.extend(more);
    arguments.push("--");
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let command = python::command(PLAIN_SERVER, &[&ip, &port]);
    arguments.extend(command.iter().map(String::as_str));
    Steer::run(namespace, &arguments)
}

/// Through a restart of all, a drain, an undrain and scales: nothing is lost.
fn serves_through_changes(name: &str, address: &str, more: &[&str], uid: u32) {
    netns::run(name, |namespace| {
        let address: SocketAddr = address.parse().expect("an address");
        let mut steer = run(namespace, address, more);
        let before = steer.status();
        assert_eq!(before.groups[0].mode, "own");
        for worker in &before.groups[0].workers {
            assert_eq!(user_of(worker.pid.expect("a working worker has a process")), uid);
        }
        let traffic = Traffic::start(&[address]);
        let receipts: Vec<Receipt> = steer.command(["restart", "web", "--json"]).succeeded().parse_lines();
        assert_eq!(receipts.len(), 2);
        let drained = |receipt: &Receipt| {
            assert_eq!((receipt.outcome.as_str(), receipt.migrated), ("drained", 0), "{receipt:?}");
            // It does not handle SIGTERM: it was told only when nothing was left.
            assert_eq!(receipt.exit.as_deref(), Some("signal 15"), "{receipt:?}");
        };
        receipts.iter().for_each(drained);
        let after = steer.status();
        for (old, new) in before.groups[0].workers.iter().zip(&after.groups[0].workers) {
            assert!(old.pid != new.pid && new.generation == 2 && new.state == "working", "{new:?}");
        }

        drained(&steer.command(["drain", "web/0", "--json"]).succeeded().parse());
        let worker = steer.status().groups[0].workers[0].clone();
        assert_eq!((worker.state.as_str(), worker.pid, worker.share), ("drained", None, 0.0));
        traffic.more(50);
        steer.command(["undrain", "web/0"]).succeeded();
        steer.command(["scale", "web", "4"]).succeeded();
        assert_eq!(steer.until_working().groups[0].workers.len(), 4);
        traffic.more(50);
        let removed: Vec<Receipt> = steer.command(["scale", "web", "2", "--json"]).succeeded().parse_lines();
        assert_eq!(removed.len(), 2);
        removed.iter().for_each(drained);

        let tally = traffic.end();
        let counters = counters_add_up(&steer.status().groups[0]);
        assert_eq!(counters.outcome.dropped, 0);
        assert!(counters.asked.connection >= tally.connections);
        let processes = tally.by_responder.len();
        assert!(processes >= 4, "both generations have answered: {:?}", tally.by_responder);
        println!(
            "{name}: connections: {}, failed: {}, processes: {processes}, runs: {}, migrated: {}",
            tally.connections, tally.failed, counters.runs, counters.asked.migration
        );
        steer.stop(SOON);
    });
}

fn user_of(pid: u32) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}")).expect("a worker runs").uid()
}

#[test]
fn an_ipv4_server_serves_through_changes() {
    serves_through_changes("own-ipv4", "127.0.0.1:8080", &[], 0);
}

#[test]
fn an_ipv6_server_serves_through_changes() {
    serves_through_changes("own-ipv6", "[::1]:8080", &[], 0);
}

#[test]
fn a_wildcard_server_of_another_user_serves_through_changes() {
    serves_through_changes("own-nobody", "0.0.0.0:8080", &["--user", "65534"], 65534);
}

#[test]
fn a_crash_loses_only_what_was_accepted() {
    netns::run("own-crash", |namespace| {
        let address: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let steer = run(namespace, address, &[]);
        let traffic = Traffic::start(&[address]);
        for round in 1..=5_u64 {
            let pid = steer.status().groups[0].workers[0].pid.unwrap();
            process::signal(pid, Signal::KILL);
            steer.until("it is started again", SOON, |status| {
                let worker = &status.groups[0].workers[0];
                worker.generation > round && worker.state == "working"
            });
            traffic.more(40);
        }
        let tally = traffic.end_after_kill();
        // The program serves one connection after another: so many it had accepted, at most, when it was killed.
        assert!(tally.failed <= 5, "{} of 5 kills: {:?}", tally.failed, tally.first_failures);
        let counters = counters_add_up(&steer.status().groups[0]);
        assert_eq!(counters.outcome.dropped, 0);
        println!(
            "own-crash: kills: 5, connections: {}, accepted by the killed and lost: {}, migrated: {}",
            tally.connections, tally.failed, counters.asked.migration
        );
    });
}

#[test]
fn a_second_copy_started_by_hand_is_a_stranger_and_gets_nothing() {
    netns::run("own-stranger", |namespace| {
        let address: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let steer = run(namespace, address, &[]);
        assert_eq!(steer.status().groups[0].strangers, 0, "what the workers bind is not strange");
        let traffic = Traffic::start(&[address]);
        let copy = ByHand::start(PLAIN_SERVER, &["127.0.0.1", "8080"]);
        steer.until("the copy is seen", SOON, |status| status.groups[0].strangers == 1);
        let events: Vec<Event> = steer.command(["events", "--json"]).succeeded().parse_lines();
        let told = events.iter().find(|event| event.kind == "stranger").expect("it is an event");
        assert!(told.detail.contains("they get nothing"), "{told:?}");
        traffic.more(200);
        steer.command(["restart", "web"]).succeeded();
        traffic.more(200);
        let tally = traffic.end();
        let its = copy.pid().to_string();
        assert!(tally.by_responder.keys().all(|responder| responder.pid != its), "{:?}", tally.by_responder);
        drop(copy);
        let status = steer.until("it is gone", SOON, |status| status.groups[0].strangers == 0);
        counters_add_up(&status.groups[0]);
        println!(
            "own-stranger: connections: {}, failed: {}, to the stranger: 0",
            tally.connections, tally.failed
        );
    });
}

#[test]
fn an_address_that_copies_started_by_hand_serve_is_refused_and_they_go_on() {
    netns::run("own-by-hand", |namespace| {
        let address: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let copies = [(); 2].map(|()| ByHand::start(PLAIN_SERVER, &["127.0.0.1", "8080"]));
        wait::until("both listen", SOON, || {
            let listening = tcp_count(address, TcpState::Listen);
            if listening == 2 { Ok(()) } else { Err(format!("{listening} of 2")) }
        });
        let traffic = Traffic::start(&[address]);
        for mode in ["own", "inherit"] {
            let arguments = ["--listen", "127.0.0.1:8080", "--workers", "2", "--mode", mode];
            let mut refused = Steer::start(namespace, &binary(), &arguments);
            assert_eq!(refused.wait(SOON).code(), Some(5), "{}", refused.messages());
            let messages = refused.messages();
            let error = messages.lines().find(|line| line.starts_with("error: ")).expect(&messages);
            assert!(error.contains("tcp://127.0.0.1:8080"), "{error}");
            assert!(copies.iter().any(|copy| error.contains(&format!("pid {}", copy.pid()))), "{error}");
            assert!(messages.lines().any(|line| line.starts_with("hint: stop it first")), "{messages}");
        }
        let tally = traffic.end();
        println!("own-by-hand: connections: {}, failed: {}", tally.connections, tally.failed);
    });
}
