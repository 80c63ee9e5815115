//! Nobody gets traffic by accident: neither a socket that joins the group unasked, nor a worker that drains.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use steer_tests::{
    control::{Control, assert_counted_once, assert_drained, selected},
    load::{LISTEN, Load, Prediction, arguments, assert_nothing_lost, pool},
    netns,
    steer::Steer,
    strangers::{accepted, detach_program, join},
    wait,
};

const SEED: &str = "5eed0000000000000000000000000005";
const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_stranger_in_the_group_gets_nothing_and_is_seen() {
    netns::run("stranger", |namespace| {
        let pool = pool(64, 27);
        assert!(pool.len() >= 10_000);
        let steer = Steer::run(namespace, &arguments(&["--workers", "4", "--seed", SEED]));
        let control = Control::new(&steer.socket());
        assert_eq!(control.status().strangers, 0);

        let strangers = LISTEN.map(join);
        steer.until("the strangers are seen", SOON, |status| {
            status.groups[0].strangers == strangers.len() as u64
        });
        let events = control.events("stranger");
        assert!(
            !events.is_empty() && events.iter().all(|event| event.detail.contains("get nothing")),
            "{events:?}"
        );
        let table = Prediction::new(SEED, &[0, 1, 2, 3]);
        table.assert_holds("with strangers in the group", &pool);
        // New listeners join the group after the strangers.
        control.restart_all().iter().for_each(assert_drained);
        table.assert_holds("after handovers beside strangers", &pool);

        let status = control.status();
        let theirs: usize = strangers.iter().map(accepted).sum();
        println!(
            "strangers: {}, connections: {}, to strangers: {theirs}, selected: {}",
            status.strangers,
            2 * pool.len(),
            selected(&status),
        );
        assert_eq!((theirs, status.strangers), (0, strangers.len() as u64));
        assert_counted_once(&status);
        assert!(status.counters.asked.connection >= 2 * pool.len() as u64);
        assert_eq!(selected(&status), status.counters.asked.connection, "every one is some worker's");
        assert_eq!(status.counters.outcome.first_choice, status.counters.runs);

        // They were members that the kernel would have given their part: without the program it does.
        wait::until("a stranger gets its part", SOON, || {
            // The daemon attaches it again once a second, which may be before the first connection.
            detach_program(&strangers[0]);
            let clients: Vec<_> =
                (0..100).map(|_| TcpStream::connect(LISTEN[0]).expect("a connection")).collect();
            let theirs = accepted(&strangers[0]);
            println!("without the program: connections: {}, to a stranger: {theirs}", clients.len());
            if theirs > 0 { Ok(()) } else { Err("the program chose for all of them".to_owned()) }
        });

        drop(strangers);
        steer.until("they are gone", SOON, |status| status.groups[0].strangers == 0);
    });
}

#[test]
fn a_draining_worker_gets_nothing_after_its_first_instant() {
    const AFTERWARDS: u64 = 10_000;
    const DRAINED: u32 = 1;
    netns::run("first-instant", |namespace| {
        // Nobody tells it to stop while it has a connection: its listener listens, and it would answer.
        let arguments =
            arguments(&["--workers", "4", "--seed", SEED, "--settle", "10m", "--drain-timeout", "10m"]);
        let steer = Steer::run(namespace, &arguments);
        let control = Control::new(&steer.socket());
        let table = Prediction::new(SEED, &[0, 1, 2, 3]);
        let (own, others): (Vec<_>, Vec<_>) =
            pool(64, 16).into_iter().partition(|tuple| table.worker(tuple) == DRAINED);
        let long = hang(&own[0].client, &own[0].target);
        let worker = DRAINED as usize;
        steer
            .until("it has the connection", SOON, |status| status.groups[0].workers[worker].connections == 1);
        let before = control.status().epoch;

        let (own, others) = (Load::start(own[1..].to_vec(), 16), Load::start(others, 16));
        own.wait_for(1_000);
        let receipt = thread::scope(|scope| {
            let drain = scope.spawn(|| Control::new(&steer.socket()).drain(DRAINED));
            let first = steer.until("its first instant", SOON, |status| {
                let group = &status.groups[0];
                group.workers[worker].state == "draining" && group.epoch > before
            });
            let selected_before = first.groups[0].workers[worker].selected;
            let (own_before, others_before) = (own.connections(), others.connections());
            own.wait_for(AFTERWARDS);
            let last = control.status();
            println!(
                "draining: selected: {selected_before} at the first instant, {} after {} connections, {} of them its own",
                last.workers[worker].selected,
                own.connections() - own_before + others.connections() - others_before,
                own.connections() - own_before,
            );
            assert_eq!(last.workers[worker].selected, selected_before);
            assert_eq!((last.workers[worker].state.as_str(), last.workers[worker].queue), ("draining", 0));
            assert_eq!(last.workers[worker].connections, 1, "it drains for as long as its connection lasts");
            assert_eq!(last.workers[worker].share, 0.0);
            drop(long);
            drain.join().expect("the drain ends")
        });
        assert_drained(&receipt);
        assert_eq!(receipt.migrated, 0, "{receipt:?}");
        let (own, others, status) = (own.end(), others.end(), control.status());
        assert_eq!(own.failed, 0, "{:#?}", own.first_failures);
        assert_nothing_lost(&others);
        assert_counted_once(&status);
        assert_eq!(selected(&status), status.counters.asked.connection);
    });
}

/// A connection with a request that is never answered.
fn hang(client: &SocketAddr, target: &SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(*target), Type::STREAM, None).expect("a socket");
    socket.bind(&(*client).into()).expect("the client's address");
    socket.connect(&(*target).into()).expect("a connection");
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /hang HTTP/1.1\r\nHost: steer\r\n\r\n").expect("a request");
    stream
}
