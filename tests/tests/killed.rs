//! SIGKILL: of a worker, which takes along what it has accepted and nothing else; and of the daemon, which takes nothing.

use std::{sync::atomic::AtomicU64, sync::atomic::Ordering::Relaxed, thread, time::Duration};

use rustix::process::Signal;
use steer_tests::{
    control::{Control, assert_counted_once},
    load::{Load, Prediction, arguments, assert_nothing_lost, pool, visit},
    netns, process,
    steer::Steer,
};

const SEED: &str = "5eed0000000000000000000000000002";
const SOON: Duration = Duration::from_secs(60);

/// Kills the worker's process and waits until another one works; returns what `before` gave for its pid, once it was frozen.
fn kill<T>(steer: &Steer<'_>, worker: usize, before: impl FnOnce(u32) -> T) -> T {
    let status =
        steer.until("the worker works", SOON, |status| status.groups[0].workers[worker].state == "working");
    let pid = status.groups[0].workers[worker].pid.expect("a worker that works has a process");
    process::freeze(pid);
    let value = before(pid);
    process::signal(pid, Signal::KILL);
    steer.until("another process works", SOON, |status| {
        let worker = &status.groups[0].workers[worker];
        worker.state == "working" && worker.pid != Some(pid)
    });
    value
}

#[test]
fn a_killed_worker_takes_along_only_what_it_has_accepted() {
    const KILLS: usize = 12;
    netns::run("killed", |namespace| {
        let steer = Steer::run(namespace, &arguments(&["--workers", "4"]));
        let idle = process::sockets(steer.status().groups[0].workers[0].pid.expect("it works"));
        let load = Load::start(pool(64, 8), 64);
        let mut accepted = 0;
        for worker in (0..4).cycle().take(KILLS) {
            load.wait_for(2_000);
            // It is frozen while they are counted: it accepts and closes none.
            accepted += kill(&steer, worker, |pid| process::sockets(pid) - idle);
        }
        load.wait_for(2_000);
        let (tally, status) = (load.end(), Control::new(&steer.socket()).status());
        println!(
            "killed: {KILLS}, connections: {}, accepted by the killed: {accepted}, failed: {}, migrated: {}",
            tally.connections, tally.failed, status.counters.asked.migration,
        );
        assert!(
            tally.failed <= accepted as u64,
            "{} failed where {accepted} had been accepted: {:#?}",
            tally.failed,
            tally.first_failures
        );
        assert_eq!(
            tally.failed, tally.reset,
            "nothing is refused or waits for ever: {:#?}",
            tally.first_failures
        );
        assert_counted_once(&status);
    });
}

#[test]
fn what_a_killed_worker_has_not_accepted_is_answered_by_others() {
    const UNACCEPTED: usize = 400;
    netns::run("unaccepted", |namespace| {
        let steer = Steer::run(namespace, &arguments(&["--workers", "4", "--seed", SEED]));
        let control = Control::new(&steer.socket());
        let table = Prediction::new(SEED, &[0, 1, 2, 3]);
        let pool = pool(64, 16);
        let mut migrated = 0;
        for worker in [1, 3] {
            let own = &table.of(worker, &pool)[..UNACCEPTED];
            // The other workers' clients see nothing of it at all.
            let others: Vec<_> = pool.iter().filter(|tuple| table.worker(tuple) != worker).copied().collect();
            let others = Load::start(others, 16);
            others.wait_for(pool.len() as u64);
            let (victim, tally) = thread::scope(|scope| {
                let mut visits = None;
                let victim = kill(&steer, worker as usize, |pid| {
                    visits = Some(scope.spawn(|| visit(own, UNACCEPTED)));
                    steer.until("all connections wait in its queue", SOON, |status| {
                        status.groups[0].workers[worker as usize].queue == UNACCEPTED as u64
                    });
                    pid
                });
                (
                    victim,
                    visits.map(|visits| visits.join().expect("the visits end")).expect("there were visits"),
                )
            });
            others.wait_for(pool.len() as u64);
            let others = others.end();
            let status = control.status();
            let lost = control.events("lost").len();
            println!(
                "killed with {UNACCEPTED} unaccepted: failed: {}, migrated: {}, to {:?}; of others: connections: {}, \
                 failed: {}, moved: {}",
                tally.failed,
                status.workers[worker as usize].migrated_out,
                tally.by_worker,
                others.connections,
                others.failed,
                others.moved,
            );
            migrated += UNACCEPTED as u64;
            assert_nothing_lost(&tally);
            assert_nothing_lost(&others);
            assert!(tally.by_responder.keys().all(|responder| responder.pid != victim.to_string()));
            assert_eq!(status.workers[worker as usize].migrated_out, UNACCEPTED as u64);
            assert_eq!(status.counters.asked.migration, migrated);
            assert_eq!(status.workers.iter().map(|worker| worker.migrated_in).sum::<u64>(), migrated);
            assert_eq!(lost as u64, migrated / UNACCEPTED as u64, "each kill is an event");
            assert_counted_once(&status);
        }
    });
}

#[test]
fn traffic_goes_on_when_the_daemon_is_killed() {
    const ROUNDS: u64 = 5;
    netns::run("daemon", |namespace| {
        for round in 0..ROUNDS {
            let mut steer = Steer::run(namespace, &arguments(&["--workers", "4", "--seed", SEED]));
            let load = Load::start(pool(64, 8), 32);
            load.wait_for(2_000);
            // In the midst of handovers, at another moment of them each time.
            let handovers = AtomicU64::new(0);
            thread::scope(|scope| {
                for worker in 0..4 {
                    let (socket, handovers) = (steer.socket(), &handovers);
                    scope.spawn(move || {
                        let control = Control::new(&socket);
                        let group = "web".parse().expect("a name");
                        let request = steer::control::api::Request::Restart {
                            group,
                            worker: Some(worker),
                            timeout_ms: None,
                            canary: None,
                        };
                        // Until the daemon is gone.
                        while control.ask(request.clone()).is_ok() {
                            handovers.fetch_add(1, Relaxed);
                        }
                    });
                }
                load.wait_for(3_000 + 1_000 * round);
                steer.kill();
            });
            let before = load.connections();
            load.wait_for(20_000);
            let tally = load.end();
            println!(
                "daemon killed after {before} connections and {} handovers: connections afterwards: {}, failed: {}, \
                 moved: {}",
                handovers.into_inner(),
                tally.connections - before,
                tally.failed,
                tally.moved,
            );
            assert_nothing_lost(&tally);
            Prediction::new(SEED, &[0, 1, 2, 3]).assert_holds("without the daemon", &pool(16, 8));
        }
    });
}
