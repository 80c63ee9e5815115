//! The daemon is killed, at any instant and at each of its effects; the next goes on with everything, and no connection is lost.

use std::{
    env, fs,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use steer::control::api::{GroupStatus, Request};
use steer_tests::{
    control::{Control, assert_counted_once, group, selected},
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

fn configuration(workers: u32, more: &str) -> String {
    format!(
        "[[group]]\nname = \"web\"\n\
         listen = [\"127.0.0.1:8080\", \"[::1]:8080\", \"0.0.0.0:8081\", \"[::]:8082\"]\n\
         seed = \"5eed0000000000000000000000000001\"\n\
         [group.workers]\ncount = {workers}\n{more}\n\
         [group.deadlines]\nsettle = \"0ms\"\nstart = \"10s\"\n"
    )
}

/// Numbers that look drawn, the same in every run.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, end: u64) -> u64 {
        // Marsaglia's xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

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

/// Asks for changes without end; those that a daemon that dies does not answer are forgotten.
fn change(steer_socket: &std::path::Path, seed: u64, scales: bool, is_over: &AtomicBool) -> u64 {
    let control = Control::new(steer_socket);
    let mut drawn = Drawn(seed);
    let mut done = 0;
    while !is_over.load(Relaxed) {
        let worker = drawn.below(4) as u32;
        let clients = Vec::new();
        let request = match drawn.below(if scales { 6 } else { 2 }) {
            0 => Request::Restart { group: group(), worker: None, timeout_ms: None, canary: None },
            1 => Request::Restart { group: group(), worker: Some(0), timeout_ms: None, canary: None },
            2 => Request::Scale { group: group(), workers: 2 + drawn.below(4) as u32, timeout_ms: None },
            3 => {
                let policy = ["hash", "source", "least-loaded"][drawn.below(3) as usize];
                let policy = policy.parse().expect("a policy");
                Request::SetPolicy { group: group(), policy, dry_run: false, clients }
            }
            4 => {
                let (worker, weight) = (group().worker(worker), 1 + drawn.below(4) as u32);
                Request::SetWeight { worker, weight, over_ms: None, dry_run: false, clients }
            }
            _ => Request::Restart { group: group(), worker: Some(worker), timeout_ms: None, canary: None },
        };
        match control.ask(request) {
            Ok(_) => done += 1,
            // There is no daemon, or what is asked does not fit what is under way.
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    done
}

/// Kills the daemon over and over while the group is changed under load.
fn kill_over_and_over(name: &str, configured: &str, scales: bool) {
    netns::run(name, |namespace| {
        let mut steer = Steer::configured(namespace, configured);
        let mut drawn = Drawn(0x5eed_0001);
        let load = Load::start(pool(64, 16), 16);
        let (is_over, changes) = (AtomicBool::new(false), AtomicU64::new(0));
        let socket = steer.socket();
        thread::scope(|scope| {
            for seed in 1..=2 {
                let (socket, is_over, changes) = (&socket, &is_over, &changes);
                scope.spawn(move || changes.fetch_add(change(socket, seed, scales, is_over), Relaxed));
            }
            for _ in 0..kills() {
                // The instant is what is drawn: nothing is waited for.
                thread::sleep(Duration::from_micros(drawn.below(300_000)));
                steer.kill();
                thread::sleep(Duration::from_micros(drawn.below(3) * drawn.below(10_000)));
                steer.start_daemon();
                steer.until_reachable();
                if load.is_finished() {
                    break;
                }
            }
            is_over.store(true, Relaxed);
        });
        // What the daemon that was killed had begun may be under way yet.
        let workers = if scales { 3 } else { 1 };
        wait::until("all operations end", SOON, || {
            let output = steer.command(["scale", "web", &workers.to_string()]);
            if output.code == Some(0) { Ok(()) } else { Err(format!("{output:?}")) }
        });
        let status = until_settled(&steer, workers);
        load.wait_for(2_000);
        let tally = load.end();
        let status_after = Control::new(&steer.socket()).status();
        println!(
            "{name}: kills: {}, changes: {}, connections: {}, failed: {}, generations: {}, held: {}, migrated: {}",
            kills(),
            changes.into_inner(),
            tally.connections,
            tally.failed,
            status.workers.iter().map(|worker| worker.generation).sum::<u64>(),
            status_after.counters.outcome.held,
            status_after.counters.asked.migration,
        );
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
    kill_over_and_over("succession", &configuration(4, ""), true);
}

#[test]
fn nothing_is_lost_when_the_daemon_is_killed_while_connections_are_held() {
    kill_over_and_over("succession-held", &configuration(1, "restart = \"replace\""), false);
}

#[test]
fn everything_is_as_it_was_and_a_second_daemon_is_refused() {
    netns::run("succession-steady", |namespace| {
        let mut steer = Steer::configured(namespace, &configuration(3, ""));
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
        let mut steer = Steer::configured(namespace, &(configuration(2, "") + other));
        let pids = |status: &GroupStatus| status.workers.iter().map(|worker| worker.pid).collect::<Vec<_>>();
        let before = Control::new(&steer.socket()).status();
        let load = Load::start(pool(64, 16), 16);
        // One more worker, another policy, and a group less.
        steer.kill();
        let changed = configuration(3, "").replace("[group.workers]", "policy = \"source\"\n[group.workers]");
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
        let impossible = configuration(1, "").replace("[::]:8082", "[::]:8083");
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
        let probed =
            configuration(1, &format!("restart = \"replace\"\nready = \"probe\"\ncommand = {command}"));
        let mut steer = Steer::configured(namespace, &probed);
        let load = Load::start(pool(64, 16), 16);
        let mut points = 0;
        for (kind, count) in EFFECTS {
            for when in ["before", "after"] {
                let point = format!("{when}:{kind}:{count}");
                steer.kill();
                steer.environment = vec![("STEER_CRASH_AT".to_owned(), point.clone().into())];
                steer.start_daemon();
                let socket = steer.socket();
                let is_over = AtomicBool::new(false);
                thread::scope(|scope| {
                    scope.spawn(|| change(&socket, 7, false, &is_over));
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| steer.wait(SOON)));
                    is_over.store(true, Relaxed);
                    let ended = ended.unwrap_or_else(|_| panic!("{point}: the daemon does not come to it"));
                    use std::os::unix::process::ExitStatusExt;
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
