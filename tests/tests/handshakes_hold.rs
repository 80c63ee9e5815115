//! No worker is not an outage: connections wait in the hold, half-open ones too, and the first worker that is ready answers
//! them. Where a group is told to refuse, they are refused at once.

use std::{io::ErrorKind, net::TcpStream, thread, time::Duration};

use rustix::process::Signal;
use steer_tests::{
    clients::{Answer, Client, answers, ask_all},
    netns, process,
    receipts::{connections_reset, group_of, receipt_of, tcp_counter, until_event},
    site::{SPECIFIC, Site, WILDCARD},
    steer::{self, Steer},
    workers::Workers,
};

const SOON: Duration = Duration::from_secs(30);

/// Connections that are complete and asked for, and others that are half-open.
struct Waiting<F> {
    complete: Vec<Client>,
    half_open: Vec<Client>,
    frozen: F,
}

/// Connects 40 of each while the group holds, and waits until it shows them.
fn connect_while_holding<'a>(
    steer: &Steer<'_>,
    namespace: &'a netns::Namespace,
    site: Site,
) -> Waiting<impl Sized + use<'a>> {
    steer.until("the group holds", SOON, |status| status.groups[0].holding && status.groups[0].epoch > 0);
    let frozen = site.freeze(namespace, 7);
    let half_open = site.connect(7, 20);
    site.until_half_open(40);
    let mut complete = site.connect(8, 20);
    complete.iter_mut().for_each(Client::ask);
    steer.until("the hold has them", SOON, |status| status.groups[0].held == 40);
    Waiting { complete, half_open, frozen }
}

/// All are answered so; each was held once and has migrated once.
fn check_answers<F>(steer: &Steer<'_>, waiting: Waiting<F>, answer: Answer) {
    answers(waiting.complete, |_| answer);
    steer.until("the hold is over", SOON, |status| !status.groups[0].holding && status.groups[0].held == 0);
    drop(waiting.frozen);
    ask_all(waiting.half_open, |_| answer);
    let counters = group_of(steer).counters;
    assert_eq!((counters.asked.connection, counters.asked.migration), (80, 80));
    assert_eq!((counters.outcome.held, counters.outcome.first_choice), (80, 80));
    assert_eq!((tcp_counter("TCPMigrateReqSuccess"), tcp_counter("TCPMigrateReqFailure")), (80, 0));
    assert_eq!(connections_reset(), 0);
}

#[test]
fn a_replacing_restart_of_a_group_of_one_holds() {
    for site in [SPECIFIC, WILDCARD] {
        let workers = Workers::new(&steer::binary());
        netns::run("hold-replace", |namespace| {
            let arguments =
                ["--restart", "replace"].map(str::to_owned).into_iter().chain(workers.arguments());
            let steer = Steer::run(namespace, &site.arguments(1, arguments));
            workers.close_gate(0);
            let output = thread::scope(|scope| {
                let restart = scope.spawn(|| steer.command(["restart", "web", "--json"]));
                // The old generation is gone, and with it its drain, which would wait for what it may take for its own.
                until_event(&steer, "started", "web/0", 2);
                let waiting = connect_while_holding(&steer, namespace, site);
                assert!(!restart.is_finished());
                workers.open_gate(0);
                check_answers(&steer, waiting, Answer { worker: 0, generation: 2 });
                restart.join().unwrap()
            });
            let receipt = receipt_of(&output.succeeded());
            assert_eq!((receipt.outcome.as_str(), receipt.migrated), ("drained", 0));
            println!("{:?}: held: 80, half-open: 40, failed: 0", site.listen);
        });
    }
}

#[test]
fn a_cold_start_holds_until_the_first_worker_is_ready() {
    for site in [SPECIFIC, WILDCARD] {
        let workers = Workers::new(&steer::binary());
        netns::run("hold-cold", |namespace| {
            [0, 1].into_iter().for_each(|worker| workers.close_gate(worker));
            let steer = Steer::start(namespace, &steer::binary(), &site.arguments(2, workers.arguments()));
            steer.until("it answers", SOON, |_| true);
            let waiting = connect_while_holding(&steer, namespace, site);
            // Not the one with the first index.
            workers.open_gate(1);
            check_answers(&steer, waiting, Answer { worker: 1, generation: 1 });
            workers.open_gate(0);
            steer.until_working();
            println!("{:?}: held: 80, half-open: 40, failed: 0", site.listen);
        });
    }
}

#[test]
fn what_a_killed_group_of_one_had_waits_for_its_successor() {
    for site in [SPECIFIC, WILDCARD] {
        let workers = Workers::new(&steer::binary());
        netns::run("hold-killed", |namespace| {
            let steer = Steer::run(namespace, &site.arguments(1, workers.arguments()));
            let pid = group_of(&steer).workers[0].pid.expect("a working worker has a process");
            process::stop(pid);
            let frozen = site.freeze(namespace, 7);
            let half_open = site.connect(7, 20);
            site.until_half_open(40);
            let mut complete = site.connect(8, 20);
            complete.iter_mut().for_each(Client::ask);
            steer.until("its queue is full", SOON, |status| status.groups[0].workers[0].queue == 40);
            workers.close_gate(0);
            process::signal(pid, Signal::KILL);
            steer.until("the hold has them", SOON, |status| status.groups[0].held == 40);
            // These complete in the hold.
            drop(frozen);
            let (mut half_open, answer) = (half_open, Answer { worker: 0, generation: 2 });
            half_open.iter_mut().for_each(Client::ask);
            steer.until("the hold has all", SOON, |status| status.groups[0].held == 80);
            workers.open_gate(0);
            answers(complete, |_| answer);
            answers(half_open, |_| answer);
            let counters = group_of(&steer).counters;
            // Into the hold, and out of it.
            assert_eq!((counters.asked.connection, counters.asked.migration), (80, 160));
            assert_eq!((counters.outcome.held, counters.outcome.first_choice), (80, 160));
            assert_eq!(connections_reset(), 0);
            until_event(&steer, "lost", "web/0", 1);
            println!("{:?}: held: 80, migrated: 160, failed: 0", site.listen);
        });
    }
}

#[test]
fn where_a_group_is_to_refuse_it_does_so_at_once() {
    for site in [SPECIFIC, WILDCARD] {
        let workers = Workers::new(&steer::binary());
        netns::run("refuse", |namespace| {
            workers.close_gate(0);
            let refuse = ["--when-empty", "refuse"].map(str::to_owned).into_iter().chain(workers.arguments());
            let steer = Steer::start(namespace, &steer::binary(), &site.arguments(1, refuse));
            steer.until("the first table is out", SOON, |status| status.groups[0].epoch > 0);
            for server in site.servers() {
                for _ in 0..20 {
                    assert_eq!(TcpStream::connect(server).unwrap_err().kind(), ErrorKind::ConnectionRefused);
                }
            }
            let group = group_of(&steer);
            assert_eq!((group.holding, group.held, group.when_empty.as_str()), (false, 0, "refuse"));
            assert_eq!((group.counters.asked.connection, group.counters.outcome.dropped), (40, 40));
            assert_eq!(group.counters.runs, 40);
            workers.open_gate(0);
            steer.until_working();
            ask_all(site.connect(8, 20), |_| Answer { worker: 0, generation: 1 });
            assert_eq!(group_of(&steer).counters.outcome.dropped, 40);
            println!("{:?}: refused: 40, dropped: 40", site.listen);
        });
    }
}
