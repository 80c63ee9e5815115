//! A worker that takes nothing gets nothing new under the policy `least-loaded`, and comes back by itself.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use steer_tests::{
    clients::{Answer, Client, Owners, answers, ask_all, count_by_owner, seed_argument},
    control::{Control, assert_counted_once},
    netns::{self, Namespace},
    process, scripts,
    sockets::unaccepted,
    stall::{BOUND, Visits, Watched, events_of, until_it_has_its_share, until_published, until_stalled},
    steer::{Steer, binary},
    wait,
};

const LISTEN: &str = "127.0.0.1:8080";
const BESIDE: &str = "127.0.0.1:8081";
const WORKERS: u32 = 4;
/// Connections per second: some in every few milliseconds, and room for the machine to do what else it does.
const RATE: f64 = 600.0;
/// More than a stopped worker gathers under `hash` in a test.
const CONCURRENCY: usize = 1_000;
const SOON: Duration = Duration::from_secs(60);
/// Which worker is stopped.
const STOPPED: u32 = 1;
const ITS_NAME: &str = "web/1";

fn address(listen: &str) -> SocketAddr {
    listen.parse().expect("an address")
}

/// Four workers; `command` is what they run, the sample worker without it.
fn group<'a>(namespace: &'a Namespace, listen: &str, policy: &str, command: &[String]) -> Steer<'a> {
    let (workers, seed) = (WORKERS.to_string(), seed_argument());
    let mut arguments = vec!["--listen", listen, "--workers", &workers, "--policy", policy, "--seed", &seed];
    if !command.is_empty() {
        arguments.extend(["--ready", "notify", "--"]);
        arguments.extend(command.iter().map(String::as_str));
    }
    Steer::run(namespace, &arguments)
}

fn silent() -> Vec<String> {
    [&*binary().to_string_lossy(), "worker", "--silent"].map(str::to_owned).to_vec()
}

fn pid(control: &Control, worker: u32) -> u32 {
    control.status().workers[worker as usize].pid.expect("a working worker has a process")
}

fn selected(control: &Control) -> u64 {
    control.status().workers[STOPPED as usize].selected
}

/// The visits between two instants that the table would have given to a worker.
fn of_its_share(visits: &Visits, worker: u32, from: Instant, to: Instant) -> usize {
    let owners = Owners::among(0..WORKERS);
    let is_its = |flow: &&steer::load::Visit| owners.of_flow(flow.tuple.client, flow.tuple.target) == worker;
    visits.between(from, to).filter(is_its).count()
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or("none".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
}

#[test]
fn a_stopped_worker_gets_nothing_new_and_under_hash_its_share_waits_until_it_goes_on() {
    netns::run("stopped", |namespace| {
        let steered = group(namespace, LISTEN, "least-loaded", &[]);
        let beside = group(namespace, BESIDE, "hash", &[]);
        let (control, hash) = (Control::new(&steered.socket()), Control::new(&beside.socket()));
        let load = Watched::start(address(LISTEN), RATE, CONCURRENCY);
        let of_hash = Watched::start(address(BESIDE), RATE, CONCURRENCY);
        load.wait_for(1_000);
        let before = ["stalled", "recovered"].map(|kind| events_of(&control, kind, STOPPED));
        let pids = [&control, &hash].map(|control| pid(control, STOPPED));

        pids.into_iter().for_each(process::freeze);
        let stopped = Instant::now();
        until_stalled(&control, STOPPED as usize, true);
        // The daemon's clock is ahead of the program's.
        wait::until("the bound is over", SOON, || match stopped.elapsed() {
            elapsed if elapsed >= BOUND => Ok(()),
            elapsed => Err(format!("{elapsed:?} of {BOUND:?}")),
        });
        let at_first = selected(&control);
        load.wait_for(800);
        let grown = selected(&control) - at_first;
        let continued = Instant::now();
        pids.into_iter().for_each(|pid| process::signal(pid, Signal::CONT));

        until_stalled(&control, STOPPED as usize, false);
        until_it_has_its_share(&control, STOPPED as usize);
        let told = ["stalled", "recovered"].map(|kind| events_of(&control, kind, STOPPED));
        assert!(told[0] > before[0] && told[1] > before[1], "{before:?} before, {told:?} after");
        let (visits, of_hash) = (load.end(), of_hash.end());
        let status = control.status();

        let meant = of_its_share(&visits, STOPPED, stopped + BOUND, continued);
        let waited: Vec<_> =
            of_hash.between(stopped, continued).filter(|visit| visit.worker == ITS_NAME).collect();
        println!(
            "stopped for {} ms: connections: {}, of its share: {meant}, the last that came to it began after {}, \
             selected afterwards: {grown}; under hash: of its share: {}, all of them unanswered until it went on",
            (continued - stopped).as_millis(),
            visits.tally.connections,
            milliseconds(visits.last_of(ITS_NAME, stopped, continued)),
            waited.len(),
        );
        let undue = visits.undue(ITS_NAME, stopped + BOUND, continued);
        assert!(undue.is_empty(), "{} came too late: {undue:#?}", undue.len());
        assert!(meant > 50, "the table means a quarter of all for it: {meant}");
        let late =
            visits.between(stopped + BOUND, continued).filter(|visit| visit.worker == ITS_NAME).count();
        assert!(grown <= late as u64, "selected {grown} times, {late} came");
        assert_counted_once(&status);
        assert!(status.counters.outcome.less_loaded >= (meant - late) as u64, "{:?}", status.counters);

        assert_eq!(
            waited.len(),
            of_its_share(&of_hash, STOPPED, stopped, continued),
            "hash looks at no load"
        );
        assert!(waited.len() > 50, "the harm: {}", waited.len());
        assert!(waited.iter().all(|visit| visit.ended >= continued), "a stopped worker answers nobody");
        assert_eq!(hash.status().counters.outcome.less_loaded, 0);
    });
}

#[test]
fn a_worker_in_a_busy_loop_gets_nothing_new_though_the_daemon_is_stopped() {
    const BUSY: Duration = Duration::from_secs(2);
    netns::run("busy", |namespace| {
        let steer = group(namespace, LISTEN, "least-loaded", &[]);
        let control = Control::new(&steer.socket());
        let load = Watched::start(address(LISTEN), RATE, CONCURRENCY);
        load.wait_for(1_000);
        let owners = Owners::among(0..WORKERS);
        let is_its = |client: &SocketAddr| owners.of_flow(*client, address(LISTEN)) == STOPPED;
        let mut clients = (30_000..).map(|port| SocketAddr::from(([127, 7, 0, 1], port)));
        let client = clients.find(is_its).expect("a quarter of all are its");

        // Nobody looks at queues: the bound is the program's own.
        process::freeze(steer.pid());
        let mut client = Client::connect_from(client, address(LISTEN));
        let asked = Instant::now();
        client.ask_for(&format!("/busy?ms={}", BUSY.as_millis()));
        assert_eq!(client.answer(), Answer { worker: STOPPED, generation: 1 });
        let answered = Instant::now();
        process::signal(steer.pid(), Signal::CONT);

        until_it_has_its_share(&control, STOPPED as usize);
        let visits = load.end();
        // It was at it from some instant after it was asked, and for BUSY: no later than that long before its answer, and
        // until that long after the question at the least.
        let (began, ended) = (answered - BUSY, asked + BUSY);
        let meant = of_its_share(&visits, STOPPED, began + BOUND, ended);
        println!(
            "busy for {} ms: connections: {}, of its share: {meant}, the last that came to it began after {}",
            BUSY.as_millis(),
            visits.tally.connections,
            milliseconds(visits.last_of(ITS_NAME, began, ended)),
        );
        let undue = visits.undue(ITS_NAME, began + BOUND, ended);
        assert!(undue.is_empty(), "{} came too late: {undue:#?}", undue.len());
        assert!(meant > 50, "the table means a quarter of all for it: {meant}");
        assert_counted_once(&control.status());
    });
}

#[test]
fn a_stopped_worker_that_publishes_nothing_is_told_by_its_queue() {
    netns::run("silent", |namespace| {
        let steer = group(namespace, LISTEN, "least-loaded", &silent());
        let control = Control::new(&steer.socket());
        let load = Watched::start(address(LISTEN), RATE, CONCURRENCY);
        load.wait_for(1_000);
        let pid = pid(&control, STOPPED);

        process::freeze(pid);
        let stopped = Instant::now();
        // A daemon that could not look for 200 ms takes its mark back, and says so: then what follows is looked at anew.
        let mut looks = 0;
        let (grown, stalled) = wait::until("a stall without a break", SOON, || {
            looks += 1;
            let recovered = events_of(&control, "recovered", STOPPED);
            let at_first = until_stalled(&control, STOPPED as usize, true).workers[STOPPED as usize].selected;
            let stalled = stopped.elapsed();
            load.wait_for(600);
            let grown = selected(&control) - at_first;
            // A daemon that was held up answers first, and sees then what it has missed.
            load.wait_for(100);
            let again = events_of(&control, "recovered", STOPPED) - recovered;
            if again == 0 { Ok((grown, stalled)) } else { Err(format!("recovered {again} times")) }
        });
        assert_eq!(grown, 0, "selected while it was stalled");
        let continued = Instant::now();
        assert!(unaccepted(pid) > 0, "that is what has told");
        process::signal(pid, Signal::CONT);
        until_stalled(&control, STOPPED as usize, false);
        until_it_has_its_share(&control, STOPPED as usize);
        let visits = load.end();
        println!(
            "silent and stopped for {} ms: connections: {}, of its share: {}, the last that came to it began after {}, \
             seen to be stalled within {} ms, looks: {looks}",
            (continued - stopped).as_millis(),
            visits.tally.connections,
            of_its_share(&visits, STOPPED, stopped, continued),
            milliseconds(visits.last_of(ITS_NAME, stopped, continued)),
            stalled.as_millis(),
        );
        let status = control.status();
        assert_counted_once(&status);
        assert!(status.counters.outcome.less_loaded > 50, "{:?}", status.counters);
    });
}

#[test]
fn where_all_workers_are_stalled_all_are_used() {
    const CONNECTIONS: u64 = 200;
    netns::run("all-stalled", |namespace| {
        let steer = group(namespace, LISTEN, "least-loaded", &[]);
        let control = Control::new(&steer.socket());
        let owners = Owners::among(0..WORKERS);
        let pids: Vec<u32> = (0..WORKERS).map(|worker| pid(&control, worker)).collect();
        pids.iter().for_each(|pid| process::freeze(*pid));
        let before = wait::until("all are stalled", SOON, || {
            let status = control.status();
            let all = status.workers.iter().all(|worker| worker.stalled);
            if all { Ok(status) } else { Err(format!("{status:?}")) }
        });
        let client = "127.7.0.2".parse().expect("an address");
        let clients: Vec<Client> =
            (0..CONNECTIONS).map(|_| Client::connect(client, address(LISTEN))).collect();
        let expected = count_by_owner(&clients, &owners);
        assert!(expected.values().all(|own| *own > 20), "each has a part of {CONNECTIONS}: {expected:?}");
        // That they are connected says nothing yet of their last ACKs, which take them into the queues.
        let status = wait::until("all are in the queues of their first choices", SOON, || {
            let status = control.status();
            let queues = status.workers.iter().map(|worker| (worker.name.index, worker.queue));
            if queues.collect::<BTreeMap<_, _>>() == expected {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        });
        assert!(status.workers.iter().all(|worker| worker.stalled), "{status:?}");
        let [now, then] = [status.counters.outcome, before.counters.outcome];
        assert_eq!((now.first_choice - then.first_choice, now.less_loaded), (CONNECTIONS, then.less_loaded));
        assert_eq!(now.dropped, 0);
        pids.iter().for_each(|pid| process::signal(*pid, Signal::CONT));
        let answers = ask_all(clients, |client| Answer { worker: owners.of(client), generation: 1 });
        println!("all stalled: connections: {CONNECTIONS}, answered: {answers:?}");
        assert_counted_once(&control.status());
    });
}

/// Two workers that are stopped, told apart by the queue that a connection waits in.
struct Pair<'a> {
    owners: &'a Owners,
    /// The processes, and the connections that wait for them and have asked.
    workers: [(u32, Vec<Client>); 2],
    ports: std::ops::RangeFrom<u16>,
}

impl Pair<'_> {
    /// Connects flows that belong to a worker; returns how many wait for each of the two. The others are answered.
    fn connect(&mut self, owner: u32, count: usize) -> [usize; 2] {
        let before = self.waiting();
        for _ in 0..count {
            let queued = self.queued();
            let mut clients = self.ports.by_ref().map(|port| SocketAddr::from(([127, 7, 0, 3], port)));
            let its = clients.find(|client| self.owners.of_flow(*client, address(LISTEN)) == owner);
            let mut client = Client::connect_from(its.expect("a quarter of all are its"), address(LISTEN));
            client.ask();
            // That it is connected says nothing yet of its last ACK, which takes it into a queue.
            let waits_for = wait::until("it waits or is answered", SOON, || {
                let now = self.queued();
                let grown = (0..2).find(|&which| now[which] > queued[which]);
                if grown.is_some() || client.has_answer() { Ok(grown) } else { Err(format!("{now:?}")) }
            });
            match waits_for {
                Some(which) => self.workers[which].1.push(client),
                None => drop(client.answer()),
            }
        }
        let waiting = self.waiting();
        [0, 1].map(|which| waiting[which] - before[which])
    }

    fn waiting(&self) -> [usize; 2] {
        [0, 1].map(|which| self.workers[which].1.len())
    }

    fn queued(&self) -> [usize; 2] {
        [0, 1].map(|which| unaccepted(self.workers[which].0))
    }
}

#[test]
fn the_mark_of_a_daemon_that_was_killed_fades_and_beats_do_not() {
    const SILENT: u32 = 0;
    const BEATING: u32 = 1;
    const CONNECTIONS: usize = 40;
    // Where the machine is held up for as long as a beat counts, all look stalled and a flow goes by its first choice.
    const HELD_UP: usize = 4;
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    netns::run("daemon-killed", |namespace| {
        let condition = format!("[ $STEER_WORKER = web/{SILENT} ]");
        let script = scripts::sample_worker(place.path(), &condition, "--silent");
        let command = [script.to_string_lossy().into_owned()];
        let mut steer = group(namespace, LISTEN, "least-loaded", &command);
        let control = Control::new(&steer.socket());
        let pids = [SILENT, BEATING].map(|worker| pid(&control, worker));
        until_published(&steer, BEATING as usize);
        pids.into_iter().for_each(process::freeze);
        let owners = &Owners::among(0..WORKERS);
        let mut pair = Pair { owners, workers: pids.map(|pid| (pid, Vec::new())), ports: 30_000.. };
        until_stalled(&control, BEATING as usize, true);
        // What is in its queue marks it.
        wait::until("a connection waits for it", SOON, || {
            pair.connect(SILENT, 1);
            let waiting = pair.waiting();
            if waiting[0] > 0 { Ok(()) } else { Err(format!("{waiting:?} wait")) }
        });
        until_stalled(&control, SILENT as usize, true);
        let marked = [SILENT, BEATING].map(|worker| pair.connect(worker, CONNECTIONS));
        assert!(marked.iter().flatten().all(|count| *count <= HELD_UP), "both are passed over: {marked:?}");

        steer.kill();
        let mut passed_over = 0;
        wait::until("the mark counts no more", SOON, || match pair.connect(SILENT, 1) {
            [1, _] => Ok(()),
            waiting => {
                passed_over += 1;
                Err(format!("{waiting:?} wait, {passed_over} are answered by others"))
            }
        });
        assert_eq!(pair.connect(SILENT, CONNECTIONS), [CONNECTIONS, 0], "it has its flows again");
        // Of these the silent one is the second choice of some: it looks as good as any again.
        let [_, by_beat] = pair.connect(BEATING, CONNECTIONS);
        assert!(by_beat <= HELD_UP, "its beat is as old as ever: {by_beat} of {CONNECTIONS} wait for it");
        println!(
            "daemon killed: to the silent and the beating one of {CONNECTIONS} each while marked: {marked:?}; then past the \
             silent one: {passed_over}, waiting for the two: {:?}",
            pair.waiting()
        );
        pids.into_iter().for_each(|pid| process::signal(pid, Signal::CONT));
        for (worker, (_, waiting)) in [SILENT, BEATING].into_iter().zip(pair.workers) {
            answers(waiting, |_| Answer { worker, generation: 1 });
        }
    });
}

#[test]
fn an_evenly_loaded_group_keeps_its_four_tuples_as_hash_does() {
    const CONNECTIONS: u64 = 16_000;
    netns::run("even", |namespace| {
        let steer = group(namespace, LISTEN, "least-loaded", &[]);
        let control = Control::new(&steer.socket());
        // So few at once that no load, queue and all, is beyond the tie: only a worker that does not beat gives flows away.
        let load = Watched::start(address(LISTEN), 1_500.0, 8);
        load.wait_for(CONNECTIONS);
        let visits = load.end();
        let owners = Owners::among(0..WORKERS);
        let elsewhere = visits.tally.visits.iter().filter_map(|visit| {
            let owner = format!("web/{}", owners.of_flow(visit.tuple.client, visit.tuple.target));
            (visit.worker != owner).then_some((visit, owner))
        });
        let (mut less_loaded, mut undue) = (0, Vec::new());
        for (visit, owner) in elsewhere {
            less_loaded += 1;
            // On a busy machine a worker may get no processor for longer than a beat counts. This one had.
            if visits.was_awake(|name| name == owner, visit.began) {
                undue.push((visit, owner));
            }
        }
        let (status, tally) = (control.status(), &visits.tally);
        println!(
            "even: connections: {}, moved: {} of {}, less loaded: {}, though the first choice was at work: {}",
            tally.connections,
            tally.moved,
            tally.compared,
            status.counters.outcome.less_loaded,
            undue.len()
        );
        assert!(undue.is_empty(), "{undue:#?}");
        assert_eq!(
            status.counters.outcome.less_loaded, less_loaded,
            "each is counted, and nothing else moves"
        );
        assert!(tally.moved <= 2 * less_loaded, "away and back: {} of {less_loaded}", tally.moved);
        assert!(tally.compared >= CONNECTIONS / 2, "{}", tally.compared);
        assert_counted_once(&status);
    });
}
