//! The daemon is killed, at any instant and at each of its effects; the next goes on with everything, and no connection is lost.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use steer::control::api::GroupStatus;
use steer_tests::{
    changes::{Changes, configuration},
    control::{Control, assert_counted_once, selected},
    drawn::Drawn,
    load::{Load, assert_nothing_lost, pool},
    netns,
    steer::{Steer, binary},
    wait,
};

const SOON: Duration = Duration::from_secs(60);

/// How often the daemon is killed in an ordinary run; `STEER_TEST_KILLS` asks for more.
const KILLS: u64 = 60;

fn kills() -> u64 {
    env::var("STEER_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS)
}

/// After how many restarts all changes stop for once, so that what has come of them can be looked at.
const CONVERGES_EVERY: u64 = 4;

/// Waits until nothing is under way, and every worker works that is to.
#[track_caller]
fn until_settled(steer: &Steer<'_>, workers: usize) -> GroupStatus {
    steer
        .until("the group settles", SOON, |status| {
            let group = &status.groups[0];
            group.workers.len() == workers
                && !group.holding
                && group.workers.iter().all(|worker| worker.state == "working")
        })
        .groups
        .remove(0)
}

/// Nothing is asked for any more: what is under way ends, and everything is as the file says.
#[track_caller]
fn until_converged(steer: &Steer<'_>, changes: &Changes, workers: u32, policy: &str) -> GroupStatus {
    changes.write_last(workers, policy);
    // What the daemon that was killed had begun may be under way yet.
    for command in [vec!["reload"], vec!["scale", "web", &workers.to_string()], vec!["policy", "web", policy]]
    {
        wait::until("all operations end", SOON, || {
            let output = steer.command(&command);
            if output.code == Some(0) { Ok(()) } else { Err(format!("{command:?}: {output:?}")) }
        });
    }
    let status = until_settled(steer, workers as usize);
    assert!(status.policy.starts_with(policy), "{status:?}");
    status
}

/// Ends changes when it goes.
struct EndOnDrop<'a>(&'a Changes);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Kills the daemon over and over while the group is changed under load.
fn kill_over_and_over(name: &str, of_workers: &str, scales: bool) {
    netns::run(name, |namespace| {
        let (workers, policies) = if scales { (4, &["hash", "source"][..]) } else { (1, &["hash"][..]) };
        let mut steer = Steer::configured(namespace, &configuration(workers, of_workers, ""));
        let mut drawn = Drawn::new(0x5eed_0001);
        let load = Load::start(pool(64, 16), 16);
        let changes = Changes::new(&steer.socket(), &steer.path("steer.toml"), of_workers, scales);
        let (mut signalled, mut converged) = (0, 0);
        thread::scope(|scope| {
            for seed in 1..=2 {
                let changes = &changes;
                scope.spawn(move || changes.ask(seed));
            }
            // Also where this panics: the scope waits for both.
            let _at_the_end = EndOnDrop(&changes);
            for kill in 1..=kills() {
                // The instant is what is drawn: nothing is waited for.
                thread::sleep(Duration::from_micros(drawn.below(300_000)));
                if drawn.below(3) == 0 {
                    changes.hang_up(steer.pid(), &mut drawn);
                    signalled += 1;
                    thread::sleep(Duration::from_micros(drawn.below(30_000)));
                }
                steer.kill();
                thread::sleep(Duration::from_micros(drawn.below(3) * drawn.below(10_000)));
                steer.start_daemon();
                steer.until_reachable();
                if kill % CONVERGES_EVERY == 0 {
                    let (workers, policy) = (workers.min(1 + drawn.below(4) as u32), drawn.one_of(policies));
                    changes.paused(|| until_converged(&steer, &changes, workers, policy));
                    converged += 1;
                }
                if load.is_finished() {
                    break;
                }
            }
        });
        let workers = if scales { 3 } else { 1 };
        let status = until_converged(&steer, &changes, workers, "hash");
        let workers = workers as usize;
        load.wait_for(2_000);
        let tally = load.end();
        let status_after = Control::new(&steer.socket()).status();
        let [done, reloads] = changes.done();
        println!(
            "{name}: kills: {}, changes: {done}, of them reloads: {reloads}, and by signal: {signalled}, converged: {converged}, \
             connections: {}, failed: {}, generations: {}, held: {}, migrated: {}",
            kills(),
            tally.connections,
            tally.failed,
            status.workers.iter().map(|worker| worker.generation).sum::<u64>(),
            status_after.counters.outcome.held,
            status_after.counters.asked.migration,
        );
        assert!(reloads > 0 && signalled > 0, "there was no reload");
        assert_eq!(tally.failed, 0, "{:#?}", tally.first_failures);
        assert_counted_once(&status_after);
        assert!(status_after.counters.asked.connection >= tally.connections, "{status_after:?}");
        // The daemon, its keeper, and one process for each worker: another's that was to be told to stop as its daemon died is
        // ended when its time for that is over.
        let processes = wait::until("each worker has one process", SOON, || {
            let processes = steer.processes();
            let described = || steer_tests::process::describe(&processes);
            if processes.len() <= workers + 2 { Ok(processes.clone()) } else { Err(described()) }
        });
        assert_eq!(processes.len(), workers + 2, "{}", steer_tests::process::describe(&processes));
        steer.stop(SOON);
        assert!(!steer.pins().expect("it has pins").join("web").exists());
    });
}

#[test]
fn nothing_is_lost_when_the_daemon_is_killed_at_any_instant() {
    kill_over_and_over("succession", "", true);
}

#[test]
fn nothing_is_lost_when_the_daemon_is_killed_while_connections_are_held() {
    kill_over_and_over("succession-held", "restart = \"replace\"", false);
}

#[test]
fn everything_is_as_it_was_and_a_second_daemon_is_refused() {
    netns::run("succession-steady", |namespace| {
        let mut steer = Steer::configured(namespace, &configuration(3, "", ""));
        let control = Control::new(&steer.socket());
        control.weight(1, 3, false, &[]);
        let (before, table) = (control.status(), control.table());
        let load = Load::start(pool(64, 16), 16);
        for _ in 0..10 {
            load.wait_for(200);
            steer.kill();
            load.wait_for(200);
            steer.start_daemon();
            steer.until_working();
        }
        // By the same socket, and by the same pins.
        for socket in [steer.socket(), steer.path("other.sock")] {
            let mut second = Command::new(binary());
            second.arg("--socket").arg(socket).arg("daemon").arg("--config").arg(steer.path("steer.toml"));
            second.arg("--pins").arg(steer.pins().expect("it has pins"));
            let refused = namespace.inside(|| second.output()).expect("it runs");
            assert_eq!(refused.status.code(), Some(5), "{refused:?}");
            assert!(String::from_utf8_lossy(&refused.stderr).contains("hint:"), "{refused:?}");
        }
        let tally = load.end();
        let (after, now) = (control.status(), control.table());
        println!(
            "steady: kills: 10, connections: {}, failed: {}, moved: {} of {}",
            tally.connections, tally.failed, tally.moved, tally.compared
        );
        assert_nothing_lost(&tally);
        let of = |status: &GroupStatus| {
            let workers = status.workers.iter();
            workers
                .map(|worker| (worker.pid, worker.generation, worker.slot, worker.weight))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&after), of(&before));
        assert_eq!(now.shares, table.shares);
        assert_counted_once(&after);
        assert_eq!(selected(&after), after.counters.asked.connection);
        assert!(after.counters.asked.connection >= before.counters.asked.connection + tally.connections);

        // What ends while nobody looks is seen, and replaced; and a reused number is never taken for the worker.
        let (killed, pid) = (&after.workers[0].name, after.workers[0].pid.expect("it works"));
        steer.kill();
        steer_tests::process::signal(pid, Signal::KILL);
        steer.start_daemon();
        let status = steer.until("it is started again", SOON, |status| {
            let worker = &status.groups[0].workers[0];
            worker.state == "working" && worker.generation == 2
        });
        assert_ne!(status.groups[0].workers[0].pid, Some(pid), "{killed}");

        // A stop leaves the groups, and a daemon after it goes on.
        assert!(steer.end_with(Signal::TERM, SOON).success());
        let load = Load::start(pool(64, 16), 16);
        load.wait_for(1_000);
        steer.start_daemon();
        steer.until_working();
        assert_nothing_lost(&load.end());
        steer.stop(SOON);
    });
}

#[test]
fn a_configuration_that_changed_while_there_was_no_daemon_counts_from_the_next_on() {
    netns::run("succession-changed", |namespace| {
        let other = "\n[[group]]\nname = \"other\"\nlisten = [\"127.0.0.1:8090\"]\nworkers = { count = 1 }\n";
        let mut steer = Steer::configured(namespace, &(configuration(2, "", "") + other));
        let pids = |status: &GroupStatus| status.workers.iter().map(|worker| worker.pid).collect::<Vec<_>>();
        let before = Control::new(&steer.socket()).status();
        let load = Load::start(pool(64, 16), 16);
        // One more worker, another policy, and a group less.
        steer.kill();
        let changed = configuration(3, "", "policy = \"source\"");
        fs::write(steer.path("steer.toml"), changed).expect("it can be written");
        steer.start_daemon();
        let status = steer.until("the group is as configured", SOON, |status| {
            let [group] = &status.groups[..] else { return false };
            group.policy.starts_with("source")
                && group.workers.len() == 3
                && group.workers.iter().all(|worker| worker.state == "working")
        });
        assert_eq!(pids(&status.groups[0])[..2], pids(&before)[..]);
        // What cannot be changed leaves everything as it was.
        steer.kill();
        let impossible = configuration(1, "", "").replace("[::]:8082", "[::]:8083");
        fs::write(steer.path("steer.toml"), impossible).expect("it can be written");
        steer.start_daemon();
        let after = until_settled(&steer, 3);
        assert_eq!(pids(&after), pids(&status.groups[0]));
        wait::until("it is said", SOON, || {
            let messages = steer.messages();
            if messages.contains("its addresses are a group's for life") { Ok(()) } else { Err(messages) }
        });
        load.wait_for(1_000);
        let tally = load.end();
        println!("changed: connections: {}, failed: {}", tally.connections, tally.failed);
        assert_eq!(tally.failed, 0, "{:#?}", tally.first_failures);
        steer.stop(SOON);
    });
}

/// Every kind of effect, and how many of it there are before the one at which the daemon ends.
const EFFECTS: [(&str, u32); 12] = [
    ("make-hold", 1),
    ("shut-hold", 1),
    ("start", 1),
    ("probe", 1),
    ("publish", 3),
    ("observe", 2),
    ("signal", 1),
    ("shut-listener", 1),
    ("forget", 1),
    ("receipt", 1),
    ("finished", 1),
    ("note", 5),
];

#[test]
fn nothing_is_lost_when_the_daemon_ends_at_any_of_its_effects() {
    netns::run("succession-effects", |namespace| {
        // Of one worker, so that connections are held whenever it is replaced.
        // It does not say that it is ready: it is to be probed.
        let command = format!("[\"env\", \"-u\", \"NOTIFY_SOCKET\", {:?}, \"worker\"]", binary());
        let of_workers = format!("restart = \"replace\"\nready = \"probe\"\ncommand = {command}");
        let mut steer = Steer::configured(namespace, &configuration(1, &of_workers, ""));
        let load = Load::start(pool(64, 16), 16);
        let mut points = 0;
        for (kind, count) in EFFECTS {
            for when in ["before", "after"] {
                let point = format!("{when}:{kind}:{count}");
                steer.kill();
                steer.environment = vec![("STEER_CRASH_AT".to_owned(), point.clone().into())];
                steer.start_daemon();
                let changes = Changes::new(&steer.socket(), &steer.path("steer.toml"), &of_workers, false);
                thread::scope(|scope| {
                    scope.spawn(|| changes.ask(7));
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| steer.wait(SOON)));
                    changes.end();
                    let ended = ended.unwrap_or_else(|_| panic!("{point}: the daemon does not come to it"));
                    assert_eq!(ended.signal(), Some(9), "{point}: {ended}");
                });
                steer.environment.clear();
                steer.start_daemon();
                wait::until("all operations end", SOON, || {
                    let output = steer.command(["scale", "web", "1"]);
                    if output.code == Some(0) { Ok(()) } else { Err(format!("{point}: {output:?}")) }
                });
                until_settled(&steer, 1);
                assert!(!load.is_finished(), "{point}: {:#?}", load.end().first_failures);
                points += 1;
            }
        }
        let tally = load.end();
        println!("effects: {points} points, connections: {}, failed: {}", tally.connections, tally.failed);
        assert_eq!(tally.failed, 0, "{:#?}", tally.first_failures);
        steer.stop(SOON);
        assert_eq!(
            fs::read_dir(steer.path(""))
                .expect("it is there")
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().contains("steer.sock."))
                .count(),
            1,
            "the lock alone is left"
        );
    });
}

/// What a worker says is in its socket's queue until a record says it: whichever of the two the next daemon finds, it knows.
#[test]
fn a_worker_is_ready_that_said_so_as_the_daemon_ended() {
    netns::run("succession-ready", |namespace| {
        let mut steer = Steer::configured(namespace, &configuration(1, "ready = \"notify\"", ""));
        let load = Load::start(pool(64, 16), 16);
        for (number, point) in (1..).zip(["before:ready:1", "before:consume:1"]) {
            steer.kill();
            steer.environment = vec![("STEER_CRASH_AT".to_owned(), point.into())];
            steer.start_daemon();
            steer.until_working();
            let mut restart = Command::new(binary());
            restart.arg("--socket").arg(steer.socket()).args(["restart", "web/0"]);
            let mut restart = restart.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
            let ended = steer.wait(SOON);
            restart.wait().expect("it ends with the daemon");
            assert_eq!(ended.signal(), Some(9), "{point}: {ended}");
            steer.environment.clear();
            steer.start_daemon();
            // One that is not heard is taken for one that is never ready: it ends when its time for that is over.
            let what = format!("{point}: the worker that was started works");
            steer.until(&what, SOON, |status| {
                let worker = &status.groups[0].workers[0];
                // And the drain of the one before is over, so that the next restart can begin.
                worker.generation == 1 + number
                    && worker.state == "working"
                    && worker.drains.drained == number
            });
        }
        let tally = load.end();
        assert_nothing_lost(&tally);
        steer.stop(SOON);
    });
}
