//! The client against small servers that misbehave, each in one way: every attempt is counted in its class.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::*;

/// A server on a port of its own that treats its `n`th connection as `serve` says; it ends with the process.
fn serve(serve: impl Fn(TcpStream, u32) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (count, stream) in (0..).zip(listener.incoming()) {
            serve(stream.unwrap(), count);
        }
    });
    address
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap()
}

fn answer(stream: &mut TcpStream, worker: &str) {
    let text = format!("HTTP/1.1 200 OK\r\nX-Worker: {worker}\r\nContent-Length: 3\r\n\r\nok\n");
    stream.write_all(text.as_bytes()).unwrap();
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// As many clients, with addresses that no other test has, and fixed ports.
fn clients(count: u8) -> Vec<IpAddr> {
    static TEST: AtomicU32 = AtomicU32::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let test = TEST.fetch_add(1, Relaxed) as u8;
    (0..count).map(|client| Ipv4Addr::new(127, high ^ test, low, 1 + client).into()).collect()
}

fn plan(target: SocketAddr, tuples: u8, connections: u64) -> Plan {
    Plan {
        connections: Some(connections),
        concurrency: 4,
        timeout: Duration::from_millis(300),
        ..Plan::new(four_tuples(&clients(tuples), 20_000..20_001, &[target]))
    }
}

fn load(plan: &Plan) -> Tally {
    let tally = run(plan, &Probe::default()).unwrap();
    assert_eq!(tally.connections, tally.ok + tally.failed);
    assert_eq!(tally.failed, tally.refused + tally.reset + tally.timed_out + tally.other);
    assert_eq!(tally.connections, plan.connections.unwrap_or(tally.connections));
    tally
}

#[test]
fn visits_are_kept_one_by_one_where_the_plan_says_so() {
    let target = serve(|mut stream, count| {
        read_request(&mut stream);
        answer(&mut stream, if count % 2 == 0 { "web/0" } else { "web/1" });
    });
    let before = Instant::now();
    let plan = Plan { keeps_visits: true, ..plan(target, 8, 40) };
    let tally = load(&plan);
    assert_eq!((tally.ok, tally.visits.len()), (40, 40), "{:?}", tally.first_failures);
    assert!(tally.visits.is_sorted_by_key(|visit| visit.ended));
    assert!(tally.visits.iter().all(|visit| before <= visit.began && visit.began <= visit.ended));
    assert!(tally.visits.iter().all(|visit| plan.tuples.contains(&visit.tuple)));
    let of_one = tally.visits.iter().filter(|visit| visit.worker == "web/1").count();
    assert_eq!((of_one as u64, of_one), (tally.by_worker["web/1"], 20));
    assert!(load(&Plan { keeps_visits: false, ..plan }).visits.is_empty(), "they cost memory");
}

#[test]
fn complete_answers_are_ok_and_a_pool_is_visited_again_and_again() {
    let target = serve(|mut stream, _| {
        read_request(&mut stream);
        answer(&mut stream, "web/1");
    });
    let tally = load(&plan(target, 8, 200));
    assert_eq!((tally.ok, tally.failed, tally.moved), (200, 0, 0), "{:?}", tally.first_failures);
    assert_eq!((tally.skipped, tally.compared), (0, 192), "the server closed first: no 4-tuple was busy");
    assert_eq!((tally.by_worker["web/1"], tally.answers), (200, 200));
    assert!(tally.p50_us() > 0 && tally.p99_us() >= tally.p50_us());
}

#[test]
fn a_port_that_nobody_listens_on_refuses() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tally = load(&plan(target, 4, 50));
    assert_eq!((tally.refused, tally.failed), (50, 50));
    assert_eq!(tally.first_failures.len(), 20);
    assert_eq!(tally.first_failures[0].stage, Stage::Connect);
}

#[test]
fn a_reset_is_a_reset_before_the_answer_and_none_after_it() {
    let probe = Arc::new(Probe::default());
    let seen = Arc::clone(&probe);
    let target = serve(move |mut stream, count| match count % 3 {
        0 => reset(stream),
        1 => {
            read_request(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap();
            reset(stream);
        }
        _ => {
            read_request(&mut stream);
            answer(&mut stream, "web/0");
            // A reset takes unread bytes away: only once the client has counted the answer.
            while seen.snapshot().connections <= u64::from(count) {
                thread::yield_now();
            }
            reset(stream);
        }
    });
    let tally = run(&Plan { concurrency: 1, ..plan(target, 4, 30) }, &probe).unwrap();
    assert_eq!((tally.reset, tally.truncated, tally.ok), (20, 0, 10), "{:?}", tally.first_failures);
}

#[test]
fn a_close_before_the_whole_answer_is_counted_as_reset_and_as_truncated() {
    let target = serve(|mut stream, count| {
        read_request(&mut stream);
        if count % 2 == 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").unwrap();
        }
    });
    let tally = load(&plan(target, 4, 20));
    assert_eq!((tally.reset, tally.truncated), (20, 20), "{:?}", tally.first_failures);
    assert_eq!(tally.first_failures[0].stage, Stage::Read);
}

#[test]
fn a_server_that_hangs_is_timed_out_in_time() {
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let target = serve(move |stream, _| held.lock().unwrap().push(stream));
    let began = Instant::now();
    let tally = load(&plan(target, 8, 8));
    assert_eq!((tally.timed_out, tally.failed), (8, 8));
    assert!(began.elapsed() >= Duration::from_millis(600), "4 at once, 300 ms each");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_answers_and_does_not_close_is_ok() {
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let target = serve(move |mut stream, _| {
        read_request(&mut stream);
        answer(&mut stream, "web/0");
        held.lock().unwrap().push(stream);
    });
    let tally = load(&plan(target, 4, 8));
    assert_eq!((tally.ok, tally.failed, tally.skipped), (8, 0, 0), "{:?}", tally.first_failures);
}

#[test]
fn an_answer_other_than_200_is_a_failure_of_its_own_sort() {
    let target = serve(|mut stream, _| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let tally = load(&plan(target, 4, 10));
    assert_eq!((tally.other, tally.failed), (10, 10));
    assert!(tally.first_failures[0].to_string().contains("503"), "{}", tally.first_failures[0]);
}

#[test]
fn another_worker_on_the_second_visit_has_moved_unless_it_was_to_move() {
    let visits = 8;
    let target = serve(move |mut stream, count| {
        read_request(&mut stream);
        answer(&mut stream, if count < visits { "web/0" } else { "web/1" });
    });
    let tally = load(&plan(target, 8, 3 * u64::from(visits)));
    assert_eq!((tally.moved, tally.compared), (8, 16), "every 4-tuple moved once, at its second visit");

    let probe = Arc::new(Probe::default());
    let between = Arc::clone(&probe);
    let target = serve(move |mut stream, count| {
        if count == visits {
            between.pause_stickiness();
        }
        read_request(&mut stream);
        answer(&mut stream, if count < visits { "web/0" } else { "web/1" });
        if count == 2 * visits {
            between.resume_stickiness();
        }
    });
    let tally = run(&plan(target, 8, 5 * u64::from(visits)), &probe).unwrap();
    assert_eq!((tally.ok, tally.moved), (40, 0));
    assert!(tally.compared > 8, "{}", tally.compared);
}

#[test]
fn the_kernel_chooses_port_0_and_then_nothing_is_compared() {
    let target = serve(|mut stream, count| {
        read_request(&mut stream);
        answer(&mut stream, if count % 2 == 0 { "web/0" } else { "web/1" });
    });
    let tuples = four_tuples(&clients(4), 0..1, &[target]);
    let tally = load(&Plan { connections: Some(40), ..Plan::new(tuples) });
    assert_eq!((tally.ok, tally.compared, tally.moved), (40, 0, 0));
}

#[test]
fn a_client_port_that_is_taken_is_skipped_and_no_failure() {
    let target = serve(|mut stream, _| {
        read_request(&mut stream);
        answer(&mut stream, "web/0");
    });
    let plan = plan(target, 2, 10);
    // A listener does not share its port with a client, whatever SO_REUSEADDR says.
    let _taken = TcpListener::bind(plan.tuples[0].client).unwrap();
    let tally = load(&plan);
    assert_eq!((tally.ok, tally.failed), (10, 0));
    assert!(tally.skipped > 0);
}

#[test]
fn requests_on_one_connection_count_as_one_connection() {
    let target = serve(|mut stream, _| {
        loop {
            let request = read_request(&mut stream);
            if request.is_empty() {
                return;
            }
            answer(&mut stream, "web/0");
            if request.contains("Connection: close") {
                return;
            }
        }
    });
    let tally = load(&Plan { requests: 5, ..plan(target, 4, 20) });
    assert_eq!((tally.ok, tally.answers, tally.skipped), (20, 100, 0), "{:?}", tally.first_failures);
}

#[test]
fn the_rate_and_the_stop_are_kept() {
    let target = serve(|mut stream, _| {
        read_request(&mut stream);
        answer(&mut stream, "web/0");
    });
    let began = Instant::now();
    load(&Plan { rate: Some(100.0), ..plan(target, 8, 20) });
    assert!(began.elapsed() >= Duration::from_millis(195), "{:?}", began.elapsed());

    let endless = Plan { connections: None, ..plan(target, 8, 0) };
    let running = Running::start(endless.split(2)).unwrap();
    while running.probe().snapshot().connections < 100 {
        thread::yield_now();
    }
    let probe = Arc::clone(running.probe());
    probe.stop();
    let tally = running.join().unwrap();
    assert_eq!(tally.connections, probe.snapshot().connections);
    assert!(tally.connections >= 100 && tally.failed == 0);
}

#[test]
fn what_the_client_cannot_do_is_an_error_and_no_failure_of_the_server() {
    let error = run(&Plan::new(Vec::new()), &Probe::default()).unwrap_err();
    assert!(matches!(error, LoadError::Plan(_)));
    // 192.0.2.1 is for documentation: no host has it.
    let tuples =
        four_tuples(&["192.0.2.1".parse().unwrap()], 20_000..20_001, &["127.0.0.1:1".parse().unwrap()]);
    let plans = Plan::new(tuples).split(1);
    let error = Running::start(plans).unwrap().join().unwrap_err();
    assert!(matches!(error, LoadError::Socket { operation: "bind", .. }), "{error}");
}
