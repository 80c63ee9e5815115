//! Weights, ramps and pinned workers, as an operator uses them, and what is refused.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use rustix::thread::{CpuSet, sched_setaffinity};
use steer::{
    control::api::{Request, Response},
    load::{FourTuple, four_tuples},
};
use steer_tests::{
    control::{Control, assert_counted_once, group},
    load::{Prediction, assert_nothing_lost, pool, visit},
    netns,
    skip::skip,
    steer::{Steer, binary},
    traffic::Traffic,
    wait,
    workers::Workers,
};

const LISTEN: &str = "127.0.0.1:8080";
const SEED: &str = "5eed0000000000000000000000000032";
const SOON: Duration = Duration::from_secs(30);

fn target() -> SocketAddr {
    LISTEN.parse().expect("an address")
}

fn start<'a>(namespace: &'a netns::Namespace, workers: &str, more: &[&str]) -> Steer<'a> {
    let arguments = ["--listen", LISTEN, "--workers", workers, "--seed", SEED];
    Steer::run(namespace, &[&arguments, more].concat())
}

/// 4-tuples to the one address.
fn tuples() -> Vec<FourTuple> {
    pool(64, 16).into_iter().filter(|tuple| tuple.target == target()).collect()
}

#[test]
fn a_worker_of_weight_zero_keeps_what_it_has_and_gets_nothing_new() {
    netns::run("weight-zero", |namespace| {
        let steer = start(namespace, "3", &[]);
        let control = Control::new(&steer.socket());
        let table = Prediction::new(SEED, &[0, 1, 2]);
        let all = tuples();
        let own = table.of(1, &all);
        let pid = control.status().workers[1].pid;
        let mut asked = TcpStream::connect(target()).expect("the group listens");
        // Until one of its own: which worker answers is in the answer.
        while !answer_to(&mut asked, "/").contains("x-worker: web/1") {
            asked = TcpStream::connect(target()).expect("the group listens");
        }
        write!(asked, "GET /slow?ms=700 HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is connected");

        let change = control.weight(1, 0, false, &[]);
        assert_eq!(
            (change.shares[1].buckets_after, change.moved_buckets),
            (0, change.shares[1].buckets_before)
        );
        let before = control.status();
        assert_eq!(before.workers[1].state, "draining");
        let message = before.workers[1].message.clone().unwrap_or_default();
        assert!(message.contains("weight 0"), "{message}");
        let tally = visit(&all, 16);
        assert_nothing_lost(&tally);
        assert_eq!(tally.by_worker.get("web/1"), None, "{:?}", tally.by_worker);
        assert_eq!(control.status().workers[1].selected, before.workers[1].selected);
        assert!(read_answer(&mut asked).contains("x-worker: web/1"), "its open connection is served");
        assert!(answer_to(&mut asked, "/").contains("x-worker: web/1"), "and goes on");

        control.weight(1, 1, false, &[]);
        let status = control.status();
        assert_eq!((status.workers[1].pid, status.workers[1].restarts), (pid, 0), "nothing was started");
        let tally = visit(&own, 16);
        assert_eq!(tally.by_worker.get("web/1"), Some(&(own.len() as u64)));
        assert_counted_once(&status);
    });
}

/// Asks on a connection that is kept, and reads the head of the answer and its body.
fn answer_to(stream: &mut TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is connected");
    read_answer(stream)
}

fn read_answer(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(SOON)).expect("a timeout can be set");
    let mut answer = Vec::new();
    let mut byte = [0; 256];
    // The sample worker's body is a line.
    while !(answer.windows(4).any(|four| four == b"\r\n\r\n")
        && answer.ends_with(b"\n")
        && !answer.ends_with(b"\r\n"))
    {
        let read = stream.read(&mut byte).expect("an answer comes");
        assert!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&answer));
        answer.extend(&byte[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_ramp_moves_step_by_step_to_the_share_of_its_weight() {
    netns::run("ramp", |namespace| {
        let steer = start(namespace, "4", &[]);
        let control = Control::new(&steer.socket());
        let traffic = Traffic::start(&[target()]);
        let share = |control: &Control| control.table().shares[2].share;
        let (epoch, first) = (control.status().epoch, share(&control));
        let socket = steer.socket();
        let ramp = thread::spawn(move || {
            let request = Request::SetWeight {
                worker: group().worker(2),
                weight: 9,
                over_ms: Some(2_000),
                dry_run: false,
                clients: vec![],
            };
            Control::new(&socket).ask(request)
        });
        let mut seen = vec![first];
        while !ramp.is_finished() {
            let now = share(&control);
            assert!(now >= seen[seen.len() - 1], "{seen:?} and then {now}");
            if now > seen[seen.len() - 1] {
                seen.push(now);
            }
        }
        let answer = ramp.join().expect("the client does not panic").expect("the ramp goes to its end").0;
        let Response::Change(change) = answer else { panic!("{answer:?}") };
        assert!(change.applied && change.milliseconds >= 2_000, "{change:?}");
        let last = share(&control);
        println!("shares on the way: {seen:.3?}, at the end: {last:.3}");
        assert!((last - 9.0 / 12.0).abs() < 0.01 && seen.len() >= 8, "{last}");
        assert!(control.status().epoch >= epoch + 8);
        assert_eq!(control.weight(2, 9, true, &[]).moved_buckets, 0, "the end is as if it had come at once");
        traffic.forget_workers();
        traffic.end();
        assert_counted_once(&control.status());
    });
}

#[test]
fn a_later_weight_overrules_a_ramp() {
    netns::run("overruled", |namespace| {
        let steer = start(namespace, "2", &[]);
        let control = Control::new(&steer.socket());
        let socket = steer.socket();
        let ramp = thread::spawn(move || {
            let request = Request::SetWeight {
                worker: group().worker(0),
                weight: 50,
                over_ms: Some(600_000),
                dry_run: false,
                clients: vec![],
            };
            Control::new(&socket).ask(request).map(|_| ())
        });
        steer.until("the ramp is under way", SOON, |status| status.groups[0].workers[0].share > 0.51);
        control.weight(0, 1, false, &[]);
        let overruled = ramp.join().expect("the client does not panic").unwrap_err().to_string();
        assert!(overruled.contains("overruled"), "{overruled}");
        assert!((control.table().shares[0].share - 0.5).abs() < 0.01);
    });
}

#[test]
fn the_worker_on_the_packets_own_cpu_gets_it() {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return skip("one CPU cannot tell two workers apart");
    }
    netns::run("cpu", |namespace| {
        let workers = Workers::pinned(&binary());
        let arguments = ["--listen", LISTEN, "--workers", "2", "--seed", SEED, "--policy", "cpu"];
        let arguments: Vec<String> =
            arguments.map(str::to_owned).into_iter().chain(workers.arguments()).collect();
        let steer = Steer::run(namespace, &arguments);
        let control = Control::new(&steer.socket());
        let clients = [[127, 6, 0, 1], [127, 6, 0, 2]].map(Into::into);
        let tuples = four_tuples(&clients, 20_000..20_100, &[target()]);
        // A connection over loopback is taken by the CPU that it is made on.
        let visit_from = |cpu: usize, tuples: &[FourTuple]| {
            let tuples = tuples.to_vec();
            thread::spawn(move || {
                let mut set = CpuSet::new();
                set.set(cpu);
                sched_setaffinity(None, &set).expect("this CPU is online");
                visit(&tuples, 8)
            })
            .join()
            .expect("the visit goes to its end")
        };
        for cpu in 0..2 {
            let tally = visit_from(cpu, &tuples);
            assert_nothing_lost(&tally);
            assert_eq!(tally.by_worker.get(&format!("web/{cpu}")), Some(&200), "{:?}", tally.by_worker);
        }
        let status = control.status();
        assert_eq!(status.counters.outcome.own_cpu, status.counters.runs, "{:?}", status.counters);
        let said = control.policy("cpu", true, &[tuples[0].client]);
        assert_eq!(said.clients[0].after.worker, None, "the CPU decides: {said:?}");

        // A worker that may run anywhere is pinned to nothing: its CPU's packets go by the hash.
        let pid = status.workers[0].pid.expect("it works");
        let mut all = CpuSet::new();
        (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
        sched_setaffinity(rustix::process::Pid::from_raw(pid as i32), &all).expect("it runs");
        wait::until("the daemon sees it", SOON, || {
            let report = steer.command(["policy", "web", "--json"]).succeeded().json();
            let cpus = report["members"][0]["cpus"].as_array().expect("a list").len();
            if cpus == 0 { Ok(()) } else { Err(report.to_string()) }
        });
        let table = Prediction::new(SEED, &[0, 1]);
        let tally = visit_from(0, &tuples);
        let by_hash = table.of(0, &tuples).len() as u64;
        assert_eq!(tally.by_worker.get("web/0"), Some(&by_hash), "{:?}", tally.by_worker);
        let tally = visit_from(1, &tuples);
        assert_eq!(tally.by_worker.get("web/1"), Some(&200), "{:?}", tally.by_worker);
        assert_counted_once(&control.status());
    });
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    netns::run("refused", |namespace| {
        let refused = |steer: &Steer<'_>, code: i32, arguments: &[&str], says: &[&str]| {
            let before = steer.status();
            let output = steer.command(arguments).exited(code);
            for word in says.iter().chain(&["hint: "]) {
                assert!(output.stderr.contains(word), "{arguments:?}, {word:?}: {}", output.stderr);
            }
            let after = steer.status();
            assert_eq!(before.groups[0].epoch, after.groups[0].epoch, "{arguments:?} has changed something");
        };
        // Slots and buckets are enough for 84, but not for one of them beside 83 of a hundred times its weight.
        let steer = start(namespace, "84", &[]);
        let control = Control::new(&steer.socket());
        refused(&steer, 2, &["policy", "web", "random"], &["random", "hash, source, least-loaded"]);
        refused(&steer, 2, &["policy", "web", "source", "ipv4=33"], &["ipv4", "33", "32"]);
        refused(&steer, 2, &["weight", "web/0", "101"], &["101", "100"]);
        refused(&steer, 4, &["weight", "web/84", "5"], &["84"]);
        refused(&steer, 4, &["policy", "api", "hash"], &["api"]);
        refused(&steer, 5, &["restart", "web", "--abort"], &["canary"]);
        let mut given = 0;
        for worker in 0..84 {
            let dry = ["weight", &format!("web/{worker}"), "100", "--dry-run"].map(str::to_owned);
            if steer.command(&dry).code == Some(0) {
                control.weight(worker, 100, false, &[]);
                given += 1;
            } else {
                let name = format!("web/{worker}");
                refused(&steer, 5, &["weight", &name, "100"], &["100", "buckets"]);
                break;
            }
        }
        println!("{given} of 84 workers were given a weight of 100 beside one of 1");
        assert!((75..84).contains(&given), "{given}");
        drop(steer);

        let steer = start(namespace, "2", &["--restart", "replace"]);
        refused(&steer, 5, &["restart", "web", "--canary", "5%"], &["replace"]);
        drop(steer);
        let steer = start(namespace, "2", &[]);
        steer.command(["weight", "web/0", "0"]).succeeded();
        refused(&steer, 5, &["restart", "web/0", "--canary", "5%"], &["weight"]);
        steer.command(["drain", "web/1"]).succeeded();
        refused(&steer, 5, &["restart", "web/1", "--canary", "5%"], &["drained"]);
        drop(steer);
        // Where a client of a wildcard goes depends on where it connects to.
        let steer = Steer::run(namespace, &["--listen", "0.0.0.0:8080", "--workers", "2", "--seed", SEED]);
        refused(&steer, 2, &["table", "web", "--where", "127.0.0.9:99"], &["0.0.0.0:8080", "--to"]);
        let elsewhere = ["table", "web", "--where", "127.0.0.9:99", "--to", "127.0.0.2:8081"];
        refused(&steer, 2, &elsewhere, &["does not listen on 127.0.0.2:8081", "0.0.0.0:8080"]);
        let other_family = ["table", "web", "--where", "[::1]:99", "--to", "127.0.0.2:8080"];
        refused(&steer, 2, &other_family, &["[::1]:99", "family"]);
        let placed =
            steer.command(["table", "web", "--where", "127.0.0.9:99", "--to", "127.0.0.2:8080", "--json"]);
        let placed = placed.succeeded().json()["placed"][0].clone();
        let (client, target) = ("127.0.0.9:99".parse(), "127.0.0.2:8080".parse());
        let tuple = FourTuple { client: client.expect("an address"), target: target.expect("an address") };
        let owner = Prediction::new(SEED, &[0, 1]).worker(&tuple);
        assert_eq!(placed["worker"], format!("web/{owner}"), "{placed}");
    });
}
