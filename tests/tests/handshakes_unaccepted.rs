//! Connections that a worker has not accepted migrate to the worker that the table names, and are answered there: at a
//! deadline, at a scale-down, at a SIGKILL. Both families, at specific addresses and at a wildcard.

use std::{collections::BTreeMap, thread, time::Duration};

use rustix::process::Signal;
use steer_tests::{
    clients::{Answer, Client, Owners, answers, count_by_owner},
    netns, process,
    receipts::{connections_reset, group_of, receipt_of, receipts_of, tcp_counter, until_event},
    site::{SPECIFIC, Site, WILDCARD},
    steer::{self, Steer},
    wait,
    workers::Workers,
};

const SOON: Duration = Duration::from_secs(20);

/// Stops these workers, connects, and waits until their queues hold what is theirs. The requests are sent, too.
fn fill_queues(steer: &Steer<'_>, site: Site, workers: &[u32], owners: &Owners) -> (Vec<Client>, Vec<u64>) {
    let status = group_of(steer);
    for &worker in workers {
        process::stop(status.workers[worker as usize].pid.expect("a working worker has a process"));
    }
    let mut clients = site.connect(7, 40);
    clients.iter_mut().for_each(Client::ask);
    let counts = count_by_owner(&clients, owners);
    let own: Vec<u64> = workers.iter().map(|worker| counts[worker]).collect();
    steer.until("the queues are full", SOON, |status| {
        let queue = |worker: &u32| status.groups[0].workers[*worker as usize].queue;
        workers.iter().map(queue).collect::<Vec<_>>() == own
    });
    (clients, own)
}

/// No migration failed and nobody was reset; in the program's counters and the kernel's.
/// `further` are the runs that may have taken a further choice: at a worker's death the table still names it.
fn check_counters(steer: &Steer<'_>, migrated: u64, further: u64) {
    let group = group_of(steer);
    assert_eq!((group.counters.asked.connection, group.counters.asked.migration), (80, migrated));
    let outcome = &group.counters.outcome;
    assert_eq!(outcome.first_choice + outcome.further_choice, group.counters.runs);
    assert!(outcome.further_choice <= further, "{outcome:?}");
    assert_eq!((tcp_counter("TCPMigrateReqSuccess"), tcp_counter("TCPMigrateReqFailure")), (migrated, 0));
    assert_eq!(connections_reset(), 0);
}

#[test]
fn at_the_deadline_of_a_handover_they_migrate_to_the_new_generation() {
    for site in [SPECIFIC, WILDCARD] {
        netns::run("unaccepted-handover", |namespace| {
            let steer = Steer::run(namespace, &site.arguments(3, ["--stop-timeout", "60s"]));
            let owners = Owners::among(0..3);
            let pid = group_of(&steer).workers[0].pid.expect("a working worker has a process");
            let (clients, own) = fill_queues(&steer, site, &[0], &owners);
            let output = thread::scope(|scope| {
                let restart =
                    scope.spawn(|| steer.command(["restart", "web/0", "--json", "--timeout", "300ms"]));
                let expected = |client: &Client| match owners.of(client) {
                    0 => Answer { worker: 0, generation: 2 },
                    worker => Answer { worker, generation: 1 },
                };
                answers(clients, expected);
                // They did not have to wait until the old process is gone.
                assert!(!restart.is_finished());
                process::signal(pid, Signal::KILL);
                restart.join().unwrap().exited(6)
            });
            let receipt = receipt_of(&output);
            assert_eq!((receipt.outcome.as_str(), receipt.successor), ("deadline", Some(2)));
            assert_eq!((receipt.unaccepted.began, receipt.unaccepted.ended), (own[0], 0));
            assert_eq!(receipt.migrated_to, BTreeMap::from([("web/0".to_owned(), own[0])]));
            assert_eq!((receipt.migrated, receipt.exit.as_deref()), (own[0], Some("signal 9")));
            assert_eq!(
                receipt.message,
                Some(format!(
                    "at its deadline it had 0 half-open, {} unaccepted and 0 open connections",
                    own[0]
                ))
            );
            check_counters(&steer, own[0], 0);
            println!("{:?}: connections: 80, migrated: {}, failed: 0", site.listen, own[0]);
        });
    }
}

#[test]
fn the_deadline_is_said_to_people_too_and_its_exit_code_is_6() {
    netns::run("unaccepted-words", |namespace| {
        let steer = Steer::run(
            namespace,
            &SPECIFIC.arguments(1, ["--stop-timeout", "300ms", "--drain-timeout", "300ms"]),
        );
        let (clients, _) = fill_queues(&steer, SPECIFIC, &[0], &Owners::among(0..1));
        let output = steer.command(["restart", "web"]).exited(6);
        for line in [
            "web/0 generation 1: ended at its deadline in ",
            "  unaccepted  80 -> 0\n",
            "  migrated    80 (80 to web/0)\n",
            "  exit        signal 9\n",
            "at its deadline it had 0 half-open, 80 unaccepted and 0 open connections; \
             it did not end when told to, and was killed",
        ] {
            assert!(output.stdout.contains(line), "no {line:?} in:\n{}", output.stdout);
        }
        answers(clients, |_| Answer { worker: 0, generation: 2 });
        // With nothing left to wait for, the same command is in time.
        assert!(
            steer
                .command(["restart", "web"])
                .succeeded()
                .stdout
                .starts_with("web/0 generation 2: drained in ")
        );
        println!("connections: 80, migrated: 80, exit code: 6");
    });
}

#[test]
fn at_the_deadline_of_a_scale_down_they_migrate_to_those_that_stay() {
    for site in [SPECIFIC, WILDCARD] {
        netns::run("unaccepted-scale", |namespace| {
            let steer = Steer::run(namespace, &site.arguments(4, ["--stop-timeout", "300ms"]));
            let (before, after) = (Owners::among(0..4), Owners::among(0..2));
            let (clients, own) = fill_queues(&steer, site, &[2, 3], &before);
            let output = steer.command(["scale", "web", "2", "--json", "--timeout", "300ms"]).exited(6);
            let receipts = receipts_of(&output);
            for (worker, own) in [2, 3].into_iter().zip(&own) {
                let name = format!("web/{worker}");
                let receipt = receipts.iter().find(|receipt| receipt.worker.to_string() == name);
                let receipt = receipt.unwrap_or_else(|| panic!("no receipt of {name}: {receipts:?}"));
                let leaving = clients.iter().filter(|client| before.of(client) == worker);
                let whom = count_by_owner(leaving, &after);
                let whom = whom.into_iter().map(|(worker, count)| (format!("web/{worker}"), count)).collect();
                assert_eq!((receipt.outcome.as_str(), receipt.unaccepted.began), ("deadline", *own));
                assert_eq!((receipt.migrated, &receipt.migrated_to), (*own, &whom));
            }
            answers(clients, |client| Answer { worker: after.of(client), generation: 1 });
            check_counters(&steer, own.iter().sum(), 0);
            println!("{:?}: connections: 80, migrated: {own:?}, failed: 0", site.listen);
        });
    }
}

#[test]
fn at_a_sigkill_they_migrate_at_once_to_the_others() {
    for site in [SPECIFIC, WILDCARD] {
        let workers = Workers::new(&steer::binary());
        netns::run("unaccepted-killed", |namespace| {
            let steer = Steer::run(namespace, &site.arguments(3, workers.arguments()));
            let owners = Owners::among(0..3);
            let (clients, own) = fill_queues(&steer, site, &[0], &owners);
            workers.close_gate(0);
            let pid = group_of(&steer).workers[0].pid.expect("a working worker has a process");
            process::signal(pid, Signal::KILL);
            // The answers come while the worker's next generation is not even started: at its death the table still names it, and what
            // waits goes to further choices; where the daemon keeps a duplicate it goes by the next table.
            let next = Owners::among(1..3);
            for client in clients {
                let (owner, next) = (owners.of(&client), next.of(&client));
                let further = owners.choices(client.address, client.server);
                let answer = client.answer();
                let is_expected = match owner {
                    0 => {
                        [1, 2].contains(&answer.worker)
                            && (answer.worker == next
                                || further.iter().find(|it| **it != 0).is_none_or(|it| *it == answer.worker))
                    }
                    owner => answer.worker == owner,
                };
                assert!(is_expected && answer.generation == 1, "{answer:?}: {owner}, {further:?}, {next}");
            }
            check_counters(&steer, own[0], own[0]);
            wait::until("its receipt is written", SOON, || match group_of(&steer).workers[0].migrated_out {
                out if out == own[0] => Ok(()),
                out => Err(format!("{out} have moved")),
            });
            workers.open_gate(0);
            until_event(&steer, "working", "web/0", 2);
            println!("{:?}: connections: 80, migrated: {}, failed: 0", site.listen, own[0]);
        });
    }
}
