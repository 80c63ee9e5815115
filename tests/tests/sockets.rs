//! Workers that bind several sockets at each address, a thread each: each gets its part, and none of them loses anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use rustix::process::Signal;
use steer_tests::{
    clients::Client,
    control::Control,
    datagrams::{FlowTally, Flows, Habit},
    netns, process,
    python::{self, THREADED_SERVER},
    receipts::{check_sums, group_of, receipts_of, until_event},
    steer::{Steer, binary},
    succession::die_amid_a_drain,
    traffic::{Traffic, counters_add_up},
};

const SOON: Duration = Duration::from_secs(60);
const LIVELY: Habit = Habit { length: Some(200), size: 60, idle: Duration::from_millis(300) };

fn addresses() -> [SocketAddr; 2] {
    ["127.0.0.1:8080", "[::1]:8080"].map(|address| address.parse().expect("an address"))
}

/// `--listen` for each address, tcp and udp.
fn listen() -> Vec<String> {
    let both = |address: SocketAddr| ["tcp", "udp"].map(|protocol| format!("{protocol}://{address}"));
    addresses().into_iter().flat_map(both).flat_map(|address| ["--listen".to_owned(), address]).collect()
}

/// Two workers in Python with three threads each; the group takes in so many sockets of each.
fn threaded(sockets: &str, start: &str) -> Vec<String> {
    let own = ["--listen", "udp://127.0.0.1:8053", "--workers", "2", "--mode", "own", "--sockets", sockets];
    let command = python::command(THREADED_SERVER, &["127.0.0.1", "8053", "3"]);
    own.into_iter().chain(["--start-timeout", start, "--"]).map(str::to_owned).chain(command).collect()
}

/// Which process and thread answer each of these clients.
fn answers(clients: &[UdpSocket]) -> Vec<String> {
    let ask = |client: &UdpSocket| {
        let mut buffer = [0; 64];
        client.send(b"who").expect("it can be sent");
        let length = client.recv(&mut buffer).expect("it is answered");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    clients.iter().map(ask).collect()
}

fn clients(count: usize) -> Vec<UdpSocket> {
    let client = |_| {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        client.connect((Ipv4Addr::LOCALHOST, 8053)).expect("there is a way");
        client.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        client
    };
    (0..count).map(client).collect()
}

#[test]
fn each_socket_gets_its_part_and_each_flow_stays_with_its_own() {
    const CLIENTS: usize = 600;
    netns::run("sockets", |namespace| {
        let steer = Steer::run(namespace, &threaded("3", "30s"));
        let clients = clients(CLIENTS);
        let before = answers(&clients);
        let mut by_socket = BTreeMap::<&str, usize>::new();
        before.iter().for_each(|answer| *by_socket.entry(answer).or_default() += 1);
        println!("flows by process and thread: {by_socket:?}");
        // 100 are expected of each; a fair draw is outside of these with a chance below one in a million.
        assert_eq!(by_socket.len(), 6);
        assert!(by_socket.values().all(|count| (55..=150).contains(count)), "{by_socket:?}");
        assert_eq!(answers(&clients), before);
        // Of new flows the client's address alone says where they go; those that there are have their socket.
        steer.command(["policy", "web", "source"]).succeeded();
        assert_eq!(answers(&clients), before);
        let group = group_of(&steer);
        check_sums(&group.counters);
        assert_eq!(group.counters.outcome.kept, 2 * CLIENTS as u64);
        let refused = steer.command(["policy", "web", "quic-cid"]).exited(5);
        assert!(refused.stderr.contains("not one of its 3 sockets"), "{refused:?}");
        assert!(refused.stderr.contains("hint: "), "{refused:?}");
    });
}

#[test]
fn sockets_that_the_group_does_not_take_in_are_told_of() {
    netns::run("unused-sockets", |namespace| {
        let steer = Steer::run(namespace, &threaded("1", "30s"));
        for worker in ["web/0", "web/1"] {
            let told = until_event(&steer, "unused-sockets", worker, 1);
            assert!(told.detail.contains("2 sockets more than its group takes in, which is 1"), "{told:?}");
            assert!(told.detail.contains("hint: give --sockets"), "{told:?}");
        }
        let answers: BTreeSet<String> = answers(&clients(60)).into_iter().collect();
        assert_eq!(answers.len(), 2, "one of each worker: {answers:?}");
        assert_eq!(group_of(&steer).strangers, 0, "they are nobody else's");
    });
}

#[test]
fn how_many_a_program_binds_need_not_be_said() {
    netns::run("counted-sockets", |namespace| {
        for (number, said) in [&["--mode", "own"][..], &[], &["--sockets", "4"]].into_iter().enumerate() {
            let group = ["--listen", "udp://127.0.0.1:8053", "--workers", "2"]
                .into_iter()
                .chain(said.iter().copied());
            let command = python::command(THREADED_SERVER, &["127.0.0.1", "8053", "3"]);
            let words: Vec<String> = group.chain(["--"]).map(str::to_owned).chain(command).collect();
            let mut steer = Steer::run(namespace, &words);
            let answers: BTreeSet<String> = answers(&clients(200)).into_iter().collect();
            assert_eq!(answers.len(), 6, "{said:?}: {answers:?}");
            let unused = Control::new(&steer.socket()).events("unused-sockets");
            assert!(unused.is_empty(), "{number}: {unused:?}");
            steer.stop(SOON);
        }
    });
}

#[test]
fn a_worker_that_binds_nothing_at_an_address_is_told_which() {
    netns::run("missing-sockets", |namespace| {
        let more = ["--listen", "udp://127.0.0.1:8054"].map(str::to_owned);
        let words: Vec<String> = more.into_iter().chain(threaded("4", "2s")).collect();
        let mut steer = Steer::start(namespace, &binary(), &words);
        // None is ever ready.
        assert_eq!(steer.wait(SOON).code(), Some(1));
        let said = steer.messages();
        let told = said.lines().find(|line| line.contains("web/1 generation 1 start-failed"));
        let lacking =
            "it has bound no socket at udp://127.0.0.1:8054 (hint: listen on udp://127.0.0.1:8053 alone";
        assert!(told.is_some_and(|line| line.contains(lacking)), "{said}");
    });
}

fn assert_nothing_lost(what: &str, flows: Flows, traffic: Traffic) {
    let FlowTally { datagrams, astray, late, lost, refused, .. } = flows.end();
    let tally = traffic.end();
    println!(
        "{what}: datagrams: {datagrams}, late flows: {late}, connections: {}, failed: {}",
        tally.connections, tally.failed
    );
    assert_eq!((astray, lost, refused), (0, 0, 0));
}

#[test]
fn nothing_is_lost_through_restarts_and_scales() {
    netns::run("sockets-restarts", |namespace| {
        let more =
            ["--workers", "3", "--mode", "own", "--sockets", "4", "--flow-idle", "300ms", "--settle", "0ms"];
        let words: Vec<String> = listen().into_iter().chain(more.map(str::to_owned)).collect();
        let mut steer = Steer::run(namespace, &words);
        let (flows, traffic) = (Flows::start(&addresses(), 100, LIVELY), Traffic::start(&addresses()));
        let mut receipts = receipts_of(&steer.command(["restart", "web", "--json"]).succeeded());
        for count in ["1", "3"] {
            receipts.extend(receipts_of(&steer.command(["scale", "web", count, "--json"]).succeeded()));
        }
        receipts.extend(receipts_of(&steer.command(["restart", "web", "--json"]).succeeded()));
        flows.more(2);
        assert_eq!(receipts.len(), 8);
        for receipt in &receipts {
            assert_eq!((receipt.outcome.as_str(), receipt.flows.ended, receipt.datagrams), ("drained", 0, 0));
        }
        assert!(receipts.iter().map(|receipt| receipt.flows.began).sum::<u64>() > 100);
        assert_nothing_lost("sockets-restarts", flows, traffic);
        let group = group_of(&steer);
        assert_eq!((counters_add_up(&group).outcome.dropped, group.strangers), (0, 0));
        let unused = Control::new(&steer.socket()).events("unused-sockets");
        assert!(unused.is_empty(), "{unused:?}");
        steer.stop(SOON);
    });
}

#[test]
fn another_daemon_goes_on_with_all_of_them() {
    netns::run("sockets-succession", |namespace| {
        let mut configured = String::from("[[group]]\nname = \"web\"\nlisten = [");
        listen()
            .iter()
            .skip(1)
            .step_by(2)
            .for_each(|address| write!(configured, "\"{address}\", ").expect("it is text"));
        configured += "]\n[group.workers]\ncount = 2\nmode = \"own\"\nsockets = 3\n[group.flows]\nidle = \"300ms\"\n\
                       [group.deadlines]\nsettle = \"0ms\"\n";
        let mut steer = Steer::service(namespace, &binary(), &configured);
        steer.start_daemon();
        steer.until_working();
        let (flows, traffic) = (Flows::start(&addresses(), 50, LIVELY), Traffic::start(&addresses()));
        let more = |count| {
            flows.more(count);
            traffic.more(100 * count);
        };
        let old = die_amid_a_drain(&mut steer, "web/0", more);
        until_event(&steer, "drained", "web/0", old);
        for receipt in Control::new(&steer.socket()).restart_all() {
            assert_eq!((receipt.outcome.as_str(), receipt.flows.ended), ("drained", 0), "{receipt:?}");
        }
        let lost = Control::new(&steer.socket()).events("listener-lost");
        assert!(lost.is_empty(), "{lost:?}");
        assert_nothing_lost("sockets-succession", flows, traffic);
        let said = steer.command(["reload", "--json"]).succeeded();
        assert_eq!(said.code, Some(0));
        std::fs::write(steer.path("steer.toml"), configured.replace("sockets = 3", "sockets = 2"))
            .expect("the file can be written");
        let refused = steer.command(["reload"]).exited(5);
        assert!(refused.stderr.contains("workers.sockets"), "{refused:?}");
        steer.stop(SOON);
    });
}

/// The holding listener is one, in a slot with room for three.
#[test]
fn while_the_only_worker_is_replaced_connections_wait() {
    netns::run("sockets-held", |namespace| {
        let own =
            ["--workers", "1", "--mode", "own", "--sockets", "3", "--restart", "replace", "--settle", "0ms"];
        let words = ["--listen", "127.0.0.1:8080"].into_iter().chain(own);
        let steer = Steer::run(namespace, &words.collect::<Vec<_>>());
        let traffic = Traffic::start(&addresses()[..1]);
        for _ in 0..10 {
            traffic.more(50);
            steer.command(["restart", "web"]).succeeded();
        }
        let tally = traffic.end();
        let counters = counters_add_up(&group_of(&steer));
        println!(
            "sockets-held: connections: {}, failed: {}, held: {}",
            tally.connections, tally.failed, counters.outcome.held
        );
        assert!(counters.outcome.held > 0 && counters.outcome.dropped == 0, "{counters:?}");
    });
}

#[test]
fn what_a_killed_worker_has_not_accepted_in_any_of_them_is_answered_by_others() {
    const CLIENTS: usize = 120;
    netns::run("sockets-killed", |namespace| {
        let listen = "127.0.0.1:8080";
        let steer =
            Steer::run(namespace, &["--listen", listen, "--workers", "2", "--mode", "own", "--sockets", "3"]);
        let victim = group_of(&steer).workers[0].pid.expect("it works");
        process::freeze(victim);
        let mut clients: Vec<Client> = (0..CLIENTS)
            .map(|_| Client::connect(IpAddr::from(Ipv4Addr::LOCALHOST), addresses()[0]))
            .collect();
        clients.iter_mut().for_each(Client::ask);
        let status = steer.until("they wait", SOON, |status| status.groups[0].workers[0].queue > 30);
        let waited = status.groups[0].workers[0].queue;
        process::signal(victim, Signal::KILL);
        let answered = clients.into_iter().map(Client::answer).count();
        println!("sockets-killed: unaccepted: {waited}, answered: {answered} of {CLIENTS}");
        assert_eq!(answered, CLIENTS);
        let counters = counters_add_up(&group_of(&steer));
        assert!(counters.asked.migration >= waited, "{counters:?}");
        assert_eq!(counters.outcome.dropped, 0);
    });
}
