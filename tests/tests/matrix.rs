//! What each kernel gives, in small numbers: on this host's kernel, and by `cargo xtask vm` on those of other hosts, under
//! emulation.
//!
//! Where the kernel cannot migrate (before 5.14), a test holds steer to what it promises there instead, and prints what is
//! `not supported`.

use std::{
    io::{ErrorKind, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    process::Command,
    time::Duration,
};

use ::steer::{
    host::{Probe, Verdict},
    load::four_tuples,
};
use rustix::process::Signal;
use steer_tests::{
    clients::{Answer, Client, Owners, answers, ask_all},
    control::{Control, assert_counted_once, assert_drained},
    exact, frozen,
    load::{Load, assert_nothing_lost},
    netns, process,
    receipts::{check_sums, group_of, receipt_of, until_event},
    scripts::{shell, steer_without},
    site::{WILDCARD, client_address},
    steer::{self, Steer},
    strangers, wait,
    workers::Workers,
};

/// For what needs no more than one program: each load of it is verified anew, which takes long under emulation.
const SITE: steer_tests::site::Site = WILDCARD;
const SOON: Duration = Duration::from_secs(30);
/// The clients' number, by which they have their address.
const CLIENTS: u8 = 8;

/// Whether the daemon runs the program that migrates; that it was the one for this kernel, `check` says.
fn migrates(steer: &Steer<'_>) -> bool {
    let info = steer.command(["call", "Info"]).succeeded().json();
    match info["program"].as_str() {
        Some("select-or-migrate") => true,
        Some("select") => false,
        _ => panic!("which program runs is not told: {info}"),
    }
}

/// What each of the clients' 4-tuples is answered by while these workers and no others work.
fn by_table(workers: &[u32], generation: impl Fn(u32) -> u64) -> impl Fn(&Client) -> Answer {
    let owners = Owners::among(workers.iter().copied());
    move |client| {
        let worker = owners.of(client);
        Answer { worker, generation: generation(worker) }
    }
}

#[test]
fn check_says_what_this_kernel_gives() {
    let output = Command::new(steer::binary()).args(["check", "--json"]).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let report: serde_json::Value = serde_json::from_str(&text).expect("a report");
    let probes: Vec<Probe> = serde_json::from_value(report["probes"].clone()).expect("probes");
    let of = |name: &str| {
        let probe = probes.iter().find(|probe| probe.name == name);
        probe.unwrap_or_else(|| panic!("no probe {name} in {text}"))
    };
    for name in ["select", "steering", "sock_diag"] {
        assert_eq!(of(name).verdict, Verdict::Ok, "{:?}", of(name));
    }
    let looks = of("looks");
    let verdict = if exact::are_had() { Verdict::Ok } else { Verdict::Warn };
    assert_eq!(looks.verdict, verdict, "{looks:?}");
    println!("looks: {}", looks.detail);
    let migrates = of("select-or-migrate").verdict == Verdict::Ok;
    assert_eq!(of("migration").verdict == Verdict::Ok, migrates, "{:?}", of("migration"));
    if migrates {
        println!("wake-up: {}", of("wake-up").detail);
    } else {
        assert_eq!(of("migration").verdict, Verdict::Warn);
        assert!(of("migration").remedy.as_deref().unwrap_or_default().contains("5.14"));
        assert!(of("select-or-migrate").remedy.as_deref().unwrap_or_default().contains("is reset"));
        println!("not supported: {}: {}", of("migration").name, of("migration").detail);
    }
}

#[test]
fn looks_are_exact_on_this_kernel_or_say_which_are_not() {
    let Some(looks) = exact::looks() else { return };
    netns::run("matrix-looks", |_| {
        for server in SITE.servers() {
            let listen = || strangers::join(&server.to_string());
            let pair = [listen(), listen()];
            let watched =
                [&pair[0], &pair[1]].map(|listener| looks.watch(listener.as_fd()).expect("it is watched"));
            let queues = || {
                let look = looks.read().expect("a look succeeds");
                [0, 1].map(|index| look.of(&watched[index]).expect("it is there"))
            };
            pair.iter().for_each(frozen::freeze);
            let connect = |_| TcpStream::connect(server).expect("it is answered");
            let mut clients: Vec<_> = (0..20).map(connect).collect();
            let half_open = queues().map(|queue| queue.half_open);
            assert_eq!(half_open.iter().sum::<u32>(), 20, "{half_open:?}");
            pair.iter().for_each(frozen::thaw);
            clients.iter_mut().for_each(|client| client.write_all(b"?").expect("it is open"));
            wait::until("all handshakes have ended", SOON, || match queues() {
                found
                    if found.map(|queue| (queue.half_open, queue.unaccepted))
                        == half_open.map(|count| (0, count)) =>
                {
                    Ok(())
                }
                found => Err(format!("{found:?}, where {half_open:?} were half-open")),
            });
            assert_eq!([&pair[0], &pair[1]].map(|listener| strangers::accepted(listener) as u32), half_open);

            let receiver = UdpSocket::bind(server).expect("the port is free");
            match looks.watch(receiver.as_fd()) {
                Ok(watched) => {
                    let sender = UdpSocket::bind((server.ip(), 0)).expect("a port is free");
                    (0..5).for_each(|_| assert_eq!(sender.send_to(b"?", server).expect("it is sent"), 1));
                    receiver.recv(&mut [0; 8]).expect("one has come");
                    let found = looks.read().expect("a look succeeds").of(&watched).expect("it is there");
                    assert_eq!(found.datagrams, 4, "{found:?}");
                }
                Err(error) => println!("not supported: looks at datagrams of {server}: {error}"),
            }
        }
        println!("looks: half-open, unaccepted, unread: exact");
        match looks.without_connections() {
            None => println!("looks: the connections of a process: exact, by an iterator"),
            Some(reason) => {
                println!("not supported: the connections of one process by an iterator: {reason:?}")
            }
        }
    });
}

#[test]
fn a_limit_of_locked_memory_is_named_where_maps_count_as_that() {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    // aya raises the limit where it may: only without this capability does it hold.
    let steer = steer_without(place.path(), "sys_resource");
    let script = shell(place.path(), "locked", &format!("ulimit -l 64; exec {} \"$@\"", steer.display()));
    let output = Command::new(script).args(["check", "--json"]).output().expect("the script runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("no report: {error}: {text}{said}"));
    let probes: Vec<Probe> = serde_json::from_value(report["probes"].clone()).expect("probes");
    let select = probes.iter().find(|probe| probe.name == "select").expect("it is probed");
    if select.verdict == Verdict::Ok {
        assert_eq!(output.status.code(), Some(0), "{text}");
        println!("maps do not count as locked memory");
    } else {
        assert_eq!((output.status.code(), select.verdict), (Some(1), Verdict::Fail), "{text}");
        assert!(select.remedy.as_deref().unwrap_or_default().contains("LimitMEMLOCK="), "{select:?}");
        println!("not supported: maps beyond the limit of locked memory; refused with the limit's name");
    }
}

#[test]
fn a_flow_goes_where_the_table_says_through_a_handover_and_a_drain() {
    netns::run("matrix-table", |namespace| {
        let steer = Steer::run(namespace, &SITE.arguments(3, Vec::<String>::new()));
        let control = Control::new(&steer.socket());
        let all = [0, 1, 2];
        ask_all(SITE.connect(CLIENTS, 30), by_table(&all, |_| 1));
        assert_drained(&control.restart(1));
        let second = |worker| if worker == 1 { 2 } else { 1 };
        ask_all(SITE.connect(CLIENTS, 30), by_table(&all, second));
        assert_drained(&control.drain(2));
        ask_all(SITE.connect(CLIENTS, 30), by_table(&[0, 1], second));
        control.undrain(2);
        ask_all(SITE.connect(CLIENTS, 30), by_table(&all, |worker| if worker == 0 { 1 } else { 2 }));
        let group = control.status();
        assert_counted_once(&group);
        assert_eq!(group.counters.outcome.first_choice, group.counters.runs);
        assert!(group.counters.asked.connection >= 240);
        println!("connections: 240, to another worker than the table's: 0");
    });
}

#[test]
fn handovers_under_load_lose_nothing() {
    netns::run("matrix-load", |namespace| {
        let steer = Steer::run(namespace, &SITE.arguments(2, Vec::<String>::new()));
        let control = Control::new(&steer.socket());
        let clients: Vec<_> =
            SITE.servers().iter().flat_map(|server| [5, 6].map(|n| client_address(*server, n))).collect();
        let load = Load::start(four_tuples(&clients, 20_000..20_100, &SITE.servers()), 8);
        let mut handovers = 0;
        for _ in 0..3 {
            load.wait_for(50);
            let receipts = control.restart_all();
            receipts.iter().for_each(assert_drained);
            handovers += receipts.len();
        }
        load.wait_for(50);
        let (tally, group) = (load.end(), control.status());
        assert_nothing_lost(&tally);
        assert_eq!(handovers, 6);
        assert_counted_once(&group);
        assert_eq!(group.counters.outcome.held, 0, "a worker was always there");
        println!("handovers: {handovers}, connections: {}, failed: 0, moved: 0", tally.connections);
    });
}

#[test]
fn what_is_left_at_a_deadline_moves_or_is_told_to_be_reset() {
    netns::run("matrix-deadline", |namespace| {
        let workers = Workers::new(&steer::binary());
        let patience = ["--stop-timeout", "100ms"].map(str::to_owned);
        let steer =
            Steer::run(namespace, &SITE.arguments(1, patience.into_iter().chain(workers.arguments())));
        process::stop(group_of(&steer).workers[0].pid.expect("a working worker has a process"));
        let mut clients = SITE.connect(CLIENTS, 10);
        clients.iter_mut().for_each(Client::ask);
        steer.until("all are in the queue", SOON, |status| status.groups[0].workers[0].queue == 20);
        // Long enough for the queue to be seen, under emulation too.
        let output = steer.command(["restart", "web/0", "--json", "--timeout", "3s"]).exited(6);
        let receipt = receipt_of(&output);
        assert_eq!(receipt.outcome, "deadline");
        if migrates(&steer) {
            assert_eq!((receipt.migrated, receipt.unaccepted.ended), (20, 0), "{receipt:?}");
            answers(clients, |_| Answer { worker: 0, generation: 2 });
            println!("unaccepted: 20, migrated: 20, answered: 20");
        } else {
            assert_eq!((receipt.migrated, receipt.unaccepted.ended), (0, 20), "{receipt:?}");
            let message = receipt.message.as_deref().unwrap_or_default();
            assert!(message.contains("20 unaccepted connections were reset"), "{receipt:?}");
            assert_eq!(clients.into_iter().map(Client::is_reset).filter(|is_reset| *is_reset).count(), 20);
            println!(
                "not supported: what is unaccepted at a drain's deadline is reset, and the receipt says so"
            );
        }
        ask_all(SITE.connect(CLIENTS, 5), |_| Answer { worker: 0, generation: 2 });
        check_sums(&group_of(&steer).counters);
    });
}

#[test]
fn a_killed_worker_does_not_take_new_connections_along() {
    netns::run("matrix-killed", |namespace| {
        let workers = Workers::new(&steer::binary());
        let steer = Steer::run(namespace, &SITE.arguments(2, workers.arguments()));
        let pid = group_of(&steer).workers[0].pid.expect("a working worker has a process");
        process::stop(pid);
        let owners = Owners::among([0, 1]);
        let (of_killed, of_other): (Vec<Client>, Vec<Client>) =
            SITE.connect(CLIENTS, 20).into_iter().partition(|client| owners.of(client) == 0);
        let mut of_killed = of_killed;
        of_killed.iter_mut().for_each(Client::ask);
        let waiting = of_killed.len();
        assert!(waiting > 0);
        steer.until("its own are in its queue", SOON, |status| {
            status.groups[0].workers[0].queue == waiting as u64
        });
        workers.close_gate(0);
        process::signal(pid, Signal::KILL);
        until_event(&steer, "lost", "web/0", 1);
        let other = Answer { worker: 1, generation: 1 };
        ask_all(of_other, |_| other);
        ask_all(SITE.connect(CLIENTS, 10), |_| other);
        if migrates(&steer) {
            answers(of_killed, |_| other);
            println!("unaccepted: {waiting}, migrated: {waiting}, failed: 0");
        } else {
            assert!(of_killed.into_iter().all(Client::is_reset));
            println!("not supported: what a killed worker has not accepted is reset");
        }
        workers.open_gate(0);
        steer.until_working();
    });
}

#[test]
fn while_no_worker_works_connections_wait_or_are_told_to_be_refused() {
    netns::run("matrix-empty", |namespace| {
        let workers = Workers::new(&steer::binary());
        workers.close_gate(0);
        let steer = Steer::start(namespace, &steer::binary(), &SITE.arguments(1, workers.arguments()));
        steer.until("the first table is out", SOON, |status| status.groups[0].epoch > 0);
        let first = |_: &Client| Answer { worker: 0, generation: 1 };
        if migrates(&steer) {
            let mut clients = SITE.connect(CLIENTS, 10);
            clients.iter_mut().for_each(Client::ask);
            steer.until("the hold has them", SOON, |status| status.groups[0].held == 20);
            workers.open_gate(0);
            answers(clients, first);
            println!("held: 20, answered: 20");
        } else {
            let refused = |server: SocketAddr| TcpStream::connect(server).map_err(|error| error.kind());
            for server in SITE.servers() {
                assert_eq!(refused(server).unwrap_err(), ErrorKind::ConnectionRefused);
            }
            let group = group_of(&steer);
            assert_eq!((group.when_empty.as_str(), group.counters.outcome.dropped), ("refuse", 2));
            let told = "they are refused while no worker works";
            assert!(steer.messages().contains(told), "{}", steer.messages());
            workers.open_gate(0);
            println!("not supported: connections cannot be held while no worker works; the daemon says so");
        }
        steer.until_working();
        ask_all(SITE.connect(CLIENTS, 5), first);
    });
}
