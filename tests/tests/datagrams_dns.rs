//! A real DNS server, which binds for itself, under a real DNS client: no question is lost through restarts and scales.

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use steer::control::api::Receipt;
use steer_tests::{
    control::Control,
    name_server::{Asked, Programs},
    netns,
    receipts::group_of,
    skip::skip,
    steer::Steer,
};

const WORKERS: u32 = 3;
const THREADS: u32 = 2;

fn addresses() -> Vec<SocketAddr> {
    ["127.0.0.1:8053", "[::1]:8053"].map(|address| address.parse().expect("an address")).to_vec()
}

/// The client asks each address again and again until the changes are over; each time it asks from other ports.
fn serves_through_changes(name: &str, flows: &[&str], rounds: usize, seconds: u32) {
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(reason) => return skip(&reason.to_string()),
    };
    netns::run(name, |namespace| {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let listen =
            addresses().into_iter().flat_map(|address| ["--listen".into(), format!("udp://{address}")]);
        let workers = WORKERS.to_string();
        let threads = THREADS.to_string();
        let rest = ["--workers", &workers, "--mode", "own", "--sockets", &threads, "--settle", "0ms"]
            .into_iter()
            .chain(flows.iter().copied());
        let mut arguments: Vec<String> = listen.chain(rest.map(str::to_owned)).collect();
        arguments.push("--".to_owned());
        arguments.extend(programs.server(directory.path(), &addresses(), THREADS));
        let steer = Steer::run(namespace, &arguments);
        let is_over = AtomicBool::new(false);
        let (asked, receipts) = thread::scope(|scope| {
            // Also where this panics: the scope waits for the clients.
            let at_the_end = EndOnDrop(&is_over);
            let (over, programs) = (&is_over, &programs);
            let clients: Vec<_> = addresses()
                .into_iter()
                .map(|address| {
                    let directory = directory.path().join(if address.is_ipv4() { "ipv4" } else { "ipv6" });
                    std::fs::create_dir(&directory).expect("a directory can be made");
                    scope
                        .spawn(move || namespace.inside(|| ask(programs, &directory, address, seconds, over)))
                })
                .collect();
            let receipts = change(&steer, rounds);
            drop(at_the_end);
            let asked = clients.into_iter().map(|client| client.join().expect("the client comes to its end"));
            (asked.collect::<Vec<_>>(), receipts)
        });
        let group = group_of(&steer);
        let [ipv4, ipv6] = asked[..] else { panic!("one for each address: {asked:?}") };
        println!(
            "{name}: drains: {}, IPv4 {ipv4:?}, IPv6 {ipv6:?}, {:?}",
            receipts.len(),
            group.counters.outcome
        );
        for receipt in &receipts {
            assert_eq!((receipt.outcome.as_str(), receipt.datagrams, receipt.flows.ended), ("drained", 0, 0));
        }
        for Asked { sent, lost, answered } in asked {
            assert!(sent > 10_000, "the client was busy");
            assert_eq!((lost, answered), (0, sent));
        }
        // Those that have ended have said so: a half of it each, but for chance.
        let by_thread = questions_by_thread(&steer.messages());
        println!("{name}: questions by thread: {by_thread:?}");
        let even = by_thread.iter().sum::<u64>() / u64::from(THREADS);
        assert!(by_thread.iter().all(|questions| *questions > even / 2), "{by_thread:?}");
        // The program has steered each, and nobody else has.
        assert!(group.counters.asked.datagram >= ipv4.sent + ipv6.sent);
        assert_eq!(group.counters.outcome.dropped, 0);
    });
}

/// `server stats for thread 1: 5000 queries`, of every process that has said it.
fn questions_by_thread(messages: &str) -> Vec<u64> {
    let of_thread = |thread: u32| {
        let said = format!("server stats for thread {thread}: ");
        let counts = messages.lines().filter_map(|line| line.split_once(&said)?.1.split_once(" queries"));
        counts.map(|(count, _)| count.parse::<u64>().expect("a count")).sum()
    };
    (0..THREADS).map(of_thread).collect()
}

fn ask(
    programs: &Programs,
    directory: &Path,
    server: SocketAddr,
    seconds: u32,
    is_over: &AtomicBool,
) -> Asked {
    let mut sum = programs.ask(directory, server, seconds);
    while !is_over.load(Relaxed) {
        sum = sum.plus(programs.ask(directory, server, seconds));
    }
    sum
}

/// Ends the clients when it goes.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Restarts all workers, and scales down and up, several times.
fn change(steer: &Steer<'_>, rounds: usize) -> Vec<Receipt> {
    let control = Control::new(&steer.socket());
    let mut receipts = Vec::new();
    for _ in 0..rounds {
        receipts.extend(control.restart_all());
        receipts.extend(control.scale(1));
        receipts.extend(control.scale(WORKERS));
    }
    assert_eq!(receipts.len(), rounds * (2 * WORKERS as usize - 1), "{receipts:?}");
    receipts
}

#[test]
fn no_question_is_lost_where_each_goes_by_the_table() {
    serves_through_changes("dns-table", &["--flows", "0"], 10, 5);
}

#[test]
fn no_question_is_lost_where_each_client_stays_with_its_worker() {
    serves_through_changes("dns-flows", &["--flow-idle", "300ms"], 3, 1);
}
