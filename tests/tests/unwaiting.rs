//! One group is hostile to the daemon, and another is not: nobody waits for the hostile one.
//!
//! Each test has two groups in one daemon: `web`, to which something happens, and `calm`, which is under load all the time. While it
//! happens `status` answers and `calm` is restarted; nothing is lost of it, and afterwards all is well with both.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use steer::{
    control::{
        api::{GroupStatus, Receipt, Request, Response, Status},
        client::{Client, ClientError},
    },
    load::{Plan, Running, Tally, four_tuples},
};
use steer_tests::{
    control::Control,
    exact,
    footprint::threads,
    hanging::HangingProgram,
    idle_connections::IdleConnections,
    mounts,
    netns::{self, Namespace},
    process,
    service::{group, sample},
    steer::{Steer, binary},
    task_limit::TaskLimit,
    traffic::Traffic,
    wait,
};

const WEB: &str = "127.0.0.1:8080";
const CALM: &str = "127.0.0.1:8081";
const SOON: Duration = Duration::from_secs(60);
/// How much later than thrice its time alone a restart may come: beside the waits that are tried it is little, and a busy machine has it.
const SLACK: Duration = Duration::from_secs(3);
/// Sockets of a worker with many connections, with some room.
const MANY: &str = "limits = { nofile = 20000 }";

fn target(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

/// A daemon with both groups, all of whose workers work.
#[track_caller]
fn daemon<'a>(namespace: &'a Namespace, workers: u32, web: &[String], more: &str) -> Steer<'a> {
    let calm = group("calm", CALM, 2, &sample(&binary()), "ready = \"notify\"");
    let web = group("web", WEB, workers, web, &format!("ready = \"notify\"\n{more}"));
    Steer::configured(namespace, &(web + &calm))
}

fn ask(socket: &Path, request: Request) -> Result<(Response, Vec<Receipt>), ClientError> {
    let (last, before) = Control::new(socket).ask(request)?;
    let receipt = |answer| match answer {
        Response::Receipt(receipt) => Some(receipt),
        _ => None,
    };
    Ok((last, before.into_iter().filter_map(receipt).collect()))
}

fn restart(of: &str) -> Request {
    let (name, worker) = of.split_once('/').map_or((of, None), |(name, index)| (name, Some(index)));
    let worker = worker.map(|index| index.parse().expect("an index"));
    Request::Restart { group: name.parse().expect("a name"), worker, timeout_ms: None, canary: None }
}

#[track_caller]
fn status(steer: &Steer<'_>) -> Status {
    match ask(&steer.socket(), Request::Status { group: None }) {
        Ok((Response::Status(status), _)) => status,
        other => panic!("the status is {other:?}"),
    }
}

fn named<'a>(status: &'a Status, name: &str) -> &'a GroupStatus {
    status.groups.iter().find(|group| group.name.as_str() == name).unwrap_or_else(|| panic!("{status:?}"))
}

/// The status answers, and the calm group's workers are handed over. Says how long that has taken.
#[track_caller]
fn calm_is_looked_after(steer: &Steer<'_>) -> Duration {
    let began = Instant::now();
    assert_eq!(named(&status(steer), "calm").workers.len(), 2);
    let (_, receipts) =
        ask(&steer.socket(), restart("calm")).unwrap_or_else(|error| panic!("restart calm: {error}"));
    let outcomes: Vec<&str> = receipts.iter().map(|receipt| receipt.outcome.as_str()).collect();
    assert_eq!(outcomes, ["drained"; 2], "{receipts:?}");
    began.elapsed()
}

/// Both groups work, and both can be restarted.
#[track_caller]
fn all_is_well(steer: &Steer<'_>, calm: Traffic, what: &str) {
    steer.until_working();
    let (_, receipts) =
        ask(&steer.socket(), restart("web")).unwrap_or_else(|error| panic!("restart web: {error}"));
    assert!(
        !receipts.is_empty() && receipts.iter().all(|receipt| receipt.outcome == "drained"),
        "{receipts:?}"
    );
    calm_is_looked_after(steer);
    let tally = calm.end();
    println!("{what}: of the calm group: connections: {}, failed: 0", tally.connections);
}

#[test]
fn a_worker_whose_exec_hangs() {
    netns::run("exec-hangs", |namespace| {
        mounts::unshare();
        // Dropped first: nobody can be killed who waits for it.
        let steer;
        let mut program = HangingProgram::sample(&binary());
        steer = daemon(namespace, 2, &[program.path().display().to_string()], "");
        let calm = Traffic::start(&[target(CALM)]);
        program.hang();
        let socket = steer.socket();
        thread::scope(|scope| {
            let restarted = scope.spawn(move || ask(&socket, restart("web/0")));
            program.until_somebody_waits();
            let took = calm_is_looked_after(&steer);
            println!("exec hangs: the calm group's restart took {took:?}");
            assert!(!restarted.is_finished(), "the restart of web/0 waits for its worker");
            let web = named(&status(&steer), "web").clone();
            assert!(web.workers.iter().any(|worker| worker.state == "working"), "{web:?}");
            program.go_on();
            let (_, receipts) = restarted.join().expect("it asks").expect("the worker has started after all");
            assert_eq!(receipts.len(), 1, "{receipts:?}");
        });
        all_is_well(&steer, calm, "exec hangs");
    });
}

#[test]
fn no_process_and_no_thread_can_be_made_for_a_while() {
    netns::run("task-limit", |namespace| {
        let steer = daemon(namespace, 2, &sample(&binary()), "");
        let calm = Traffic::start(&[target(CALM)]);
        let limit = TaskLimit::around(steer.pid());
        // Threads that come and go would be there for a while yet, and do what needs a new one.
        let mut seen = (threads(steer.pid()), Instant::now());
        wait::until("no thread of the daemon comes or goes", SOON, || {
            let now = threads(steer.pid());
            if now != seen.0 {
                seen = (now, Instant::now());
            }
            if seen.1.elapsed() > Duration::from_secs(11) { Ok(()) } else { Err(format!("{now} threads")) }
        });
        limit.reach();
        let lost = named(&status(&steer), "web").workers[1].pid.expect("it works");
        process::signal(lost, Signal::KILL);
        // What changes a table needs no new thread, and the status tells what is.
        let weight = |weight| Request::SetWeight {
            worker: "calm/0".parse().expect("a name"),
            weight,
            over_ms: None,
            dry_run: false,
            clients: vec![],
        };
        ask(&steer.socket(), weight(3)).expect("the weight is changed all the same");
        wait::until("the killed worker is out", SOON, || {
            let worker = named(&status(&steer), "web").workers[1].clone();
            if worker.state != "working" { Ok(()) } else { Err(format!("{worker:?}")) }
        });
        let (web, socket) = (Traffic::start(&[target(WEB)]), steer.socket());
        thread::scope(|scope| {
            // It needs a process: whether it waits for one or says that there is none, it comes to its end.
            let restarted = scope.spawn(move || ask(&socket, restart("calm")).is_ok());
            calm.more(400);
            web.more(400);
            limit.lift();
            println!("no process: a restart meanwhile succeeded: {}", restarted.join().expect("it asks"));
        });
        ask(&steer.socket(), weight(1)).expect("the weight is changed");
        steer.until_working();
        let tally = web.end();
        println!(
            "no process: of the group whose worker was killed: connections: {}, failed: 0",
            tally.connections
        );
        all_is_well(&steer, calm, "no process");
    });
}

/// One reader, with one connection for all that it asks.
fn ask_on_and_on(socket: &Path, is_over: &AtomicBool, answers: &AtomicU64) -> Result<(), ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be started").block_on(async {
        let mut client = Client::connect(socket).await?;
        while !is_over.load(Relaxed) {
            client.call(Request::Status { group: None }, |_| {}).await?;
            answers.fetch_add(1, Relaxed);
        }
        Ok(())
    })
}

/// Ends the readers when what they are there for is over, or has failed.
struct OverWhenDropped<'a>(&'a AtomicBool);

impl Drop for OverWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn readers_ask_without_end_beside_many_connections() {
    const READERS: usize = 48;
    const CONNECTIONS: usize = 18_000;
    netns::run("readers", |namespace| {
        let steer = daemon(namespace, 1, &sample(&binary()), MANY);
        let calm = Traffic::start(&[target(CALM)]);
        let alone = calm_is_looked_after(&steer);
        let connections = IdleConnections::to(WEB.parse().expect("an address"), CONNECTIONS);
        wait::until("they are accepted", SOON, || {
            let open = named(&status(&steer), "web").workers[0].connections;
            if open == CONNECTIONS as u64 { Ok(()) } else { Err(format!("{open} are")) }
        });
        let (is_over, answers, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let (took, during) = thread::scope(|scope| {
            let _over = OverWhenDropped(&is_over);
            for _ in 0..READERS {
                scope.spawn(|| match ask_on_and_on(&steer.socket(), &is_over, &answers) {
                    Ok(()) => {}
                    Err(error) => {
                        eprintln!("a reader: {error}");
                        failed.fetch_add(1, Relaxed);
                    }
                });
            }
            // In the order that they ask again and again.
            wait::until("every reader asks", SOON, || {
                let count = answers.load(Relaxed);
                if count >= READERS as u64 { Ok(()) } else { Err(format!("{count} answers")) }
            });
            let before = answers.load(Relaxed);
            (calm_is_looked_after(&steer), answers.load(Relaxed) - before)
        });
        println!(
            "{READERS} readers: the calm group's restart took {took:?}, alone {alone:?}; answers meanwhile: {during}"
        );
        assert_eq!(failed.load(Relaxed), 0, "readers that were not answered");
        assert!(took < 3 * alone + SLACK, "{took:?}, alone {alone:?}");
        drop(connections);
        all_is_well(&steer, calm, "readers");
    });
}

#[test]
fn workers_that_drain_with_many_connections() {
    if !exact::are_had() {
        return;
    }
    const WORKERS: u32 = 16;
    const CONNECTIONS: usize = 18_000;
    const LOOKS: usize = 20;
    netns::run("draining-many", |namespace| {
        let steer = daemon(namespace, WORKERS, &sample(&binary()), MANY);
        let calm = Traffic::start(&[target(CALM)]);
        let alone = calm_is_looked_after(&steer);
        let connections = IdleConnections::to(WEB.parse().expect("an address"), CONNECTIONS);
        wait::until("they are accepted", SOON, || {
            let open =
                named(&status(&steer), "web").workers.iter().map(|worker| worker.connections).sum::<u64>();
            if open == CONNECTIONS as u64 { Ok(()) } else { Err(format!("{open} are")) }
        });
        let scale =
            Request::Scale { group: "web".parse().expect("a name"), workers: 2, timeout_ms: Some(60_000) };
        let socket = steer.socket();
        let drains = |status: &Status| {
            named(status, "web").workers.iter().filter(|worker| worker.state == "draining").count()
        };
        thread::scope(|scope| {
            let scaled = scope.spawn(move || ask(&socket, scale));
            wait::until("they drain", SOON, || {
                let count = drains(&status(&steer));
                if count == WORKERS as usize - 2 { Ok(()) } else { Err(format!("{count} do")) }
            });
            let began = Instant::now();
            for _ in 0..LOOKS {
                assert_eq!(drains(&status(&steer)), WORKERS as usize - 2);
            }
            let looked = began.elapsed() / LOOKS as u32;
            let took = calm_is_looked_after(&steer);
            println!("draining: status {looked:?}; the calm group's restart took {took:?}, alone {alone:?}");
            assert!(took < 3 * alone + SLACK, "{took:?}, alone {alone:?}");
            drop(connections);
            let (_, receipts) = scaled.join().expect("it asks").expect("they drain");
            assert_eq!(receipts.len(), WORKERS as usize - 2);
        });
        all_is_well(&steer, calm, "draining");
    });
}

/// Load over the group whose workers are killed, by clients that wait for less long than the daemon is stopped.
fn impatient_load() -> Running {
    let clients: Vec<_> = (1..=32).map(|number| [127, 4, 0, number].into()).collect();
    let tuples = four_tuples(&clients, 20_000..20_032, &[target(WEB)]);
    let timeout = Duration::from_secs(5);
    let plan = Plan { rate: Some(400.0), concurrency: 64, timeout, ..Plan::new(tuples) };
    Running::start(vec![plan]).expect("a load thread can be started")
}

#[test]
fn workers_killed_while_the_daemon_is_stopped() {
    if !exact::are_had() {
        return;
    }
    netns::run("daemon-stopped", |namespace| {
        let stopped = std::env::var("STEER_TEST_STOPPED_SECONDS").map_or(20, |seconds| {
            seconds.parse().unwrap_or_else(|error| panic!("STEER_TEST_STOPPED_SECONDS={seconds:?}: {error}"))
        });
        let steer = daemon(namespace, 4, &sample(&binary()), "");
        let calm = Traffic::start(&[target(CALM)]);
        let pids: Vec<u32> =
            named(&status(&steer), "web").workers.iter().filter_map(|worker| worker.pid).collect();
        let idle = process::sockets(pids[0]);
        let load = impatient_load();
        let more = |count: u64| {
            let wanted = load.probe().snapshot().connections + count;
            wait::until("the load goes on", SOON, || match load.probe().snapshot() {
                found if found.connections >= wanted => Ok(()),
                found => Err(format!("{found:?}, {wanted} wanted")),
            });
        };
        more(200);
        process::freeze(steer.pid());
        let began = Instant::now();
        let mut accepted = 0;
        for pid in &pids[..2] {
            // It is frozen while they are counted: it accepts and closes none.
            process::freeze(*pid);
            accepted += process::sockets(*pid) - idle;
            process::signal(*pid, Signal::KILL);
            more(200);
        }
        // How long the daemon is stopped is what is tried.
        thread::sleep(Duration::from_secs(stopped).saturating_sub(began.elapsed()));
        process::signal(steer.pid(), Signal::CONT);
        steer.until("those killed are started again", SOON, |status| {
            let workers = &named(status, "web").workers;
            workers.iter().all(|worker| worker.state == "working")
                && workers.iter().filter(|worker| worker.generation == 2).count() == 2
        });
        more(200);
        load.probe().stop();
        let Tally { connections, failed, reset, first_failures, .. } = load.join().expect("the load runs");
        println!(
            "daemon stopped for {stopped} s: connections: {connections}, failed: {failed}, accepted by the killed: {accepted}"
        );
        assert_eq!(failed, reset, "nothing is refused or waits for ever: {first_failures:#?}");
        assert!(failed <= accepted as u64, "{failed} failed of {accepted} accepted: {first_failures:#?}");
        all_is_well(&steer, calm, "daemon stopped");
    });
}
