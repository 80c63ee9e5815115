//! Half-open handshakes complete on the worker that the table names for them: after a handover, a scale-down, a SIGKILL, and
//! with SYN cookies. Both families, at specific addresses and at a wildcard.

use std::{thread, time::Duration};

use rustix::process::Signal;
use steer_tests::{
    clients::{Answer, Client, Owners, ask_all, count_by_owner},
    exact, netns, process,
    receipts::{connections_reset, group_of, receipt_of, receipts_of, tcp_counter, until_event, until_quiet},
    site::{SPECIFIC, WILDCARD, half_open},
    steer::{self, Steer},
    workers::Workers,
};

const SOON: Duration = Duration::from_secs(20);
/// See `until_quiet`.
const QUIET: Duration = Duration::from_millis(600);

/// The worker's only generation.
fn first(owners: &Owners) -> impl Fn(&Client) -> Answer {
    move |client| Answer { worker: owners.of(client), generation: 1 }
}

/// Worker 0 is in its second generation, the others are in their first.
fn second_of_0(owners: &Owners) -> impl Fn(&Client) -> Answer {
    move |client| match owners.of(client) {
        0 => Answer { worker: 0, generation: 2 },
        worker => Answer { worker, generation: 1 },
    }
}

/// How many of the clients' connections the worker has: some, or the test would show nothing.
fn own(clients: &[Client], owners: &Owners, worker: u32) -> u64 {
    let counts = count_by_owner(clients, owners);
    counts.get(&worker).copied().unwrap_or_else(|| panic!("worker {worker} has none of {counts:?}"))
}

#[test]
fn a_handover_waits_for_the_half_open_and_not_for_those_of_the_new_generation() {
    if !exact::are_had() {
        return;
    }
    for site in [SPECIFIC, WILDCARD] {
        netns::run("handover-waits", |namespace| {
            let steer = Steer::run(namespace, &site.arguments(3, [""; 0]));
            until_quiet(&steer, QUIET);
            let owners = Owners::among(0..3);
            let old_frozen = site.freeze(namespace, 7);
            let old = site.connect(7, 40);
            site.until_half_open(80);
            let own_old = own(&old, &owners, 0);

            let (output, new_frozen, new) = thread::scope(|scope| {
                let restart = scope.spawn(|| steer.command(["restart", "web/0", "--json"]));
                until_event(&steer, "working", "web/0", 2);
                // From its first instant on the new generation has the buckets, and the drain is not over.
                ask_all(site.connect(8, 40), second_of_0(&owners));
                until_quiet(&steer, QUIET);
                let new_frozen = site.freeze(namespace, 9);
                let new = site.connect(9, 40);
                site.until_half_open(160);
                assert!(!restart.is_finished(), "the drain has not waited for the old handshakes");

                drop(old_frozen);
                ask_all(old, first(&owners));
                (restart.join().unwrap(), new_frozen, new)
            });
            // The drain has ended while those of the new generation are still half-open.
            assert_eq!(half_open(), 80);
            let receipt = receipt_of(&output.succeeded());
            assert_eq!((receipt.outcome.as_str(), receipt.generation), ("drained", 1));
            assert_eq!(receipt.successor, Some(2));
            assert_eq!((receipt.handshakes.began, receipt.handshakes.ended), (own_old, 0), "{receipt:?}");
            assert_eq!((receipt.migrated, receipt.message), (0, None));

            drop(new_frozen);
            let own_new = own(&new, &owners, 0);
            ask_all(new, second_of_0(&owners));
            let counters = group_of(&steer).counters;
            assert_eq!((counters.asked.connection, counters.asked.migration), (240, 0));
            assert_eq!(counters.outcome.first_choice, counters.runs);
            assert_eq!(connections_reset(), 0);
            println!(
                "{:?}: half-open: 160, waited for: {own_old}, not for: {own_new}, failed: 0",
                site.listen
            );
        });
    }
}

#[test]
fn what_is_half_open_at_the_deadline_of_a_handover_migrates_to_the_new_generation() {
    if !exact::are_had() {
        return;
    }
    for site in [SPECIFIC, WILDCARD] {
        netns::run("handover-deadline", |namespace| {
            let steer = Steer::run(namespace, &site.arguments(3, [""; 0]));
            until_quiet(&steer, QUIET);
            let owners = Owners::among(0..3);
            let frozen = site.freeze(namespace, 7);
            let clients = site.connect(7, 40);
            site.until_half_open(80);
            let own = own(&clients, &owners, 0);

            let output = steer.command(["restart", "web/0", "--json", "--timeout", "300ms"]).exited(6);
            let receipt = receipt_of(&output);
            assert_eq!((receipt.outcome.as_str(), receipt.successor), ("deadline", Some(2)));
            assert_eq!((receipt.handshakes.began, receipt.handshakes.ended), (own, own), "{receipt:?}");
            assert_eq!(receipt.exit.as_deref(), Some("exit 0"));
            assert_eq!(
                receipt.message,
                Some(format!("at its deadline it had {own} half-open, 0 unaccepted and 0 open connections"))
            );
            assert_eq!(half_open(), 80, "a listener's stop leaves them half-open");

            drop(frozen);
            ask_all(clients, second_of_0(&owners));
            let group = group_of(&steer);
            assert_eq!((group.counters.asked.connection, group.counters.asked.migration), (80, own));
            assert_eq!(group.counters.outcome.first_choice, group.counters.runs);
            assert_eq!(group.workers[0].migrated_in, own);
            assert_eq!((tcp_counter("TCPMigrateReqSuccess"), tcp_counter("TCPMigrateReqFailure")), (own, 0));
            assert_eq!(connections_reset(), 0);
            println!("{:?}: half-open: 80, migrated: {own}, failed: 0", site.listen);
        });
    }
}

#[test]
fn a_scale_down_waits_for_the_half_open_and_then_they_migrate_to_those_that_stay() {
    if !exact::are_had() {
        return;
    }
    for site in [SPECIFIC, WILDCARD] {
        netns::run("scale-down", |namespace| {
            let steer = Steer::run(namespace, &site.arguments(4, [""; 0]));
            until_quiet(&steer, QUIET);
            let (before, after) = (Owners::among(0..4), Owners::among(0..2));
            let [soon_frozen, late_frozen] = [7, 8].map(|number| site.freeze(namespace, number));
            let [soon, late] = [7, 8].map(|number| site.connect(number, 40));
            site.until_half_open(160);
            let began = [2, 3].map(|worker| own(&soon, &before, worker) + own(&late, &before, worker));
            let ended = [2, 3].map(|worker| own(&late, &before, worker));
            let epoch = group_of(&steer).epoch;

            let output = thread::scope(|scope| {
                let scale = scope.spawn(|| steer.command(["scale", "web", "2", "--json", "--timeout", "5s"]));
                steer.until("the table of two is out", SOON, |status| status.groups[0].epoch > epoch);
                drop(soon_frozen);
                // They complete where they began, which still listens.
                ask_all(soon, first(&before));
                scale.join().unwrap().exited(6)
            });
            let receipts = receipts_of(&output);
            assert_eq!(receipts.len(), 2, "{output:?}");
            for (index, worker) in [2, 3].into_iter().enumerate() {
                let name = format!("web/{worker}");
                let receipt = receipts.iter().find(|receipt| receipt.worker.to_string() == name);
                let receipt = receipt.unwrap_or_else(|| panic!("no receipt of {name}: {receipts:?}"));
                assert_eq!(receipt.outcome, "deadline");
                let handshakes = receipt.handshakes;
                assert_eq!((handshakes.began, handshakes.ended), (began[index], ended[index]), "{receipt:?}");
            }

            drop(late_frozen);
            ask_all(late, first(&after));
            let group = group_of(&steer);
            assert_eq!(group.workers.len(), 2);
            let migrated = ended.iter().sum();
            assert_eq!((group.counters.asked.connection, group.counters.asked.migration), (160, migrated));
            assert_eq!(group.workers.iter().map(|worker| worker.migrated_in).sum::<u64>(), migrated);
            assert_eq!((tcp_counter("TCPMigrateReqSuccess"), connections_reset()), (migrated, 0));
            println!("{:?}: half-open: 160, migrated: {migrated}, failed: 0", site.listen);
        });
    }
}

#[test]
fn the_half_open_of_a_killed_worker_migrate_at_their_ack_and_at_the_syn_ack_timer() {
    for site in [SPECIFIC, WILDCARD] {
        let workers = Workers::new(&steer::binary());
        netns::run("killed", |namespace| {
            let steer = Steer::run(namespace, &site.arguments(3, workers.arguments()));
            let (all, others) = (Owners::among(0..3), Owners::among(1..3));
            let [ack_frozen, timer_frozen] = [7, 8].map(|number| site.freeze(namespace, number));
            let [at_ack, at_timer] = [7, 8].map(|number| site.connect(number, 40));
            site.until_half_open(160);
            let (own_ack, own_timer) = (own(&at_ack, &all, 0), own(&at_timer, &all, 0));

            // Its successor does not come before all of it has been seen.
            workers.close_gate(0);
            let pid = group_of(&steer).workers[0].pid.expect("a working worker has a process");
            process::signal(pid, Signal::KILL);
            until_event(&steer, "lost", "web/0", 1);
            assert_eq!(half_open(), 160);
            drop(ack_frozen);
            ask_all(at_ack, first(&others));

            // The others have sent nothing, and their ACKs are dropped: it is the timer that moves them.
            let migrated = own_ack + own_timer;
            steer.until("the timers have moved the rest", SOON, |status| {
                status.groups[0].counters.asked.migration == migrated
            });
            assert_eq!(half_open(), 80);
            workers.open_gate(0);
            until_event(&steer, "working", "web/0", 2);
            // The clients say nothing by themselves: their answers to the next SYN-ACK complete the handshakes.
            drop(timer_frozen);
            site.until_half_open(0);
            ask_all(at_timer, first(&others));

            let group = group_of(&steer);
            assert_eq!((group.counters.asked.connection, group.counters.asked.migration), (160, migrated));
            assert_eq!(group.counters.outcome.first_choice, group.counters.runs);
            assert_eq!(
                (tcp_counter("TCPMigrateReqSuccess"), tcp_counter("TCPMigrateReqFailure")),
                (migrated, 0)
            );
            assert_eq!(connections_reset(), 0);
            ask_all(site.connect(9, 40), second_of_0(&all));
            println!(
                "{:?}: half-open: 160, at ACK: {own_ack}, at timer: {own_timer}, failed: 0",
                site.listen
            );
        });
    }
}

#[test]
fn syn_cookies_complete_where_the_table_points_when_they_come_back() {
    for site in [SPECIFIC, WILDCARD] {
        let workers = Workers::new(&steer::binary());
        netns::run("cookies", |namespace| {
            namespace.sysctl("net.ipv4.tcp_syncookies", "2");
            let steer = Steer::run(namespace, &site.arguments(4, workers.arguments()));
            let frozen = [7, 8, 9].map(|number| site.freeze(namespace, number));
            let clients = [7, 8, 9].map(|number| site.connect(number, 40));
            assert_eq!(half_open(), 0, "a SYN cookie leaves nothing at the server");
            let [handed_over, scaled, killed] = frozen;
            let [over_handover, over_scale, over_kill] = clients;
            let asked = |segments| {
                let counters = group_of(&steer).counters;
                assert_eq!((counters.asked.segment, counters.asked.migration), (segments, 0));
                assert_eq!(counters.outcome.first_choice, counters.runs);
            };
            asked(0);

            let receipt = receipt_of(&steer.command(["restart", "web/0", "--json"]).succeeded());
            assert_eq!((receipt.outcome.as_str(), receipt.handshakes.began), ("drained", 0));
            drop(handed_over);
            own(&over_handover, &Owners::among(0..4), 0);
            ask_all(over_handover, second_of_0(&Owners::among(0..4)));
            asked(80);

            steer.command(["scale", "web", "3", "--json"]).succeeded();
            drop(scaled);
            ask_all(over_scale, second_of_0(&Owners::among(0..3)));
            asked(160);

            workers.close_gate(2);
            let pid = group_of(&steer).workers[2].pid.expect("a working worker has a process");
            process::signal(pid, Signal::KILL);
            until_event(&steer, "lost", "web/2", 1);
            drop(killed);
            ask_all(over_kill, second_of_0(&Owners::among(0..2)));
            asked(240);
            workers.open_gate(2);
            until_event(&steer, "working", "web/2", 2);

            assert_eq!(group_of(&steer).counters.asked.connection, 240);
            assert_eq!((tcp_counter("SyncookiesRecv"), tcp_counter("SyncookiesFailed")), (240, 0));
            assert_eq!(connections_reset(), 0);
            println!("{:?}: cookies: 240, resets: 0, failed: 0", site.listen);
        });
    }
}
