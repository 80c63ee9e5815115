//! The matrix of the kernel's own test of migration (`prog_tests/migrate_reuseport.c` of its BPF selftests), through the
//! daemon: {IPv4, IPv6} x {unaccepted at stop, Fast Open at stop, half-open at the timer, half-open at the final ACK}, each
//! with 25 connections that one listener had and one is to get. What stops the listener is the deadline of a handover, or
//! the SIGKILL of its worker.

use std::{net::SocketAddr, time::Duration};

use rustix::process::Signal;
use steer_tests::{
    clients::{Answer, Client, Owners, answers, seed_argument},
    netns::{self, Namespace},
    nft::{self, Frozen},
    process, python,
    receipts::{connections_reset, group_of, receipt_of, tcp_counter, until_event},
    site::{self, PORT, SPECIFIC, client_address},
    sockets::{TcpState, tcp_count},
    steer::{self, Steer},
    wait,
    workers::Workers,
};

const CLIENTS: usize = 25;
const SOON: Duration = Duration::from_secs(20);

/// Where the connections are when their listener stops, and what moves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// `inet_csk_listen_stop`, TCP_ESTABLISHED.
    Unaccepted,
    /// `inet_csk_listen_stop`, TCP_SYN_RECV: with the request in the SYN, in the queue before the final ACK.
    FastOpen,
    /// `reqsk_timer_handler`.
    Timer,
    /// `inet_csk_complete_hashdance`.
    FinalAck,
}

/// What stops the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The next generation of the same worker gets them.
    Deadline,
    /// The other worker gets them.
    Kill,
}

const CELLS: [Cell; 4] = [Cell::Unaccepted, Cell::FastOpen, Cell::Timer, Cell::FinalAck];

#[test]
fn the_matrix_passes_where_a_handovers_deadline_stops_the_listener() {
    run_matrix(Stop::Deadline);
}

#[test]
fn the_matrix_passes_where_a_sigkill_stops_the_listener() {
    run_matrix(Stop::Kill);
}

fn run_matrix(stop: Stop) {
    for server in SPECIFIC.servers() {
        for cell in CELLS {
            let workers = Workers::new(&steer::binary());
            netns::run("matrix", |namespace| run_cell(namespace, server, cell, stop, &workers));
        }
    }
}

fn run_cell(namespace: &Namespace, server: SocketAddr, cell: Cell, stop: Stop, workers: &Workers) {
    if cell == Cell::FastOpen {
        // For clients and servers, without cookies on both sides, and for listeners that do not ask for it: bits 0 to 2, 9
        // and 10. It counts at `listen`.
        namespace.sysctl("net.ipv4.tcp_fastopen", "1543");
    }
    let count = if stop == Stop::Kill { 2 } else { 1 };
    let listen = ["--listen".to_owned(), server.to_string(), "--workers".to_owned(), count.to_string()];
    let seed = ["--seed".to_owned(), seed_argument()];
    let patience = ["--stop-timeout".to_owned(), "100ms".to_owned()];
    let arguments: Vec<String> =
        listen.into_iter().chain(seed).chain(patience).chain(workers.arguments()).collect();
    let steer = Steer::run(namespace, &arguments);
    let pid = group_of(&steer).workers[0].pid.expect("a working worker has a process");
    if matches!(cell, Cell::Unaccepted | Cell::FastOpen) {
        process::stop(pid);
    }
    let frozen = (cell != Cell::Unaccepted).then(|| nft::freeze_final_ack(namespace, PORT));
    let mut clients = connect(server, cell, count);
    until_in_place(&steer, server, cell, &mut clients, frozen.as_ref());

    stop_listener(&steer, stop, pid, workers, cell);
    let migrations = || group_of(&steer).counters.asked.migration;
    match cell {
        // With their listener.
        Cell::Unaccepted | Cell::FastOpen => assert_eq!(migrations(), 25),
        // The clients' ACKs are dropped: nothing but the timers can move them.
        Cell::Timer => wait::until("the timers have moved them", SOON, || match migrations() {
            25 => Ok(()),
            other => Err(format!("{other} have moved")),
        }),
        // No timer is due for seconds.
        Cell::FinalAck => assert_eq!(migrations(), 0),
    }
    drop(frozen);
    if matches!(cell, Cell::Timer | Cell::FinalAck) {
        clients.iter_mut().for_each(Client::ask);
    }
    let expected = match stop {
        Stop::Deadline => Answer { worker: 0, generation: 2 },
        Stop::Kill => Answer { worker: 1, generation: 1 },
    };
    let accepted = answers(clients, |_| expected);
    assert_eq!(accepted.get(&expected), Some(&CLIENTS));
    let group = group_of(&steer);
    assert_eq!((group.counters.asked.connection, group.counters.asked.migration), (25, 25));
    let outcome = &group.counters.outcome;
    match stop {
        Stop::Deadline => assert_eq!(outcome.first_choice, 50),
        // At a worker's death the table still names it: what waits takes further choices.
        Stop::Kill => {
            assert_eq!(outcome.first_choice + outcome.further_choice, 50);
            assert!(outcome.first_choice >= 25, "{outcome:?}");
        }
    }
    assert_eq!(group.workers[expected.worker as usize].migrated_in, 25);
    assert_eq!((tcp_counter("TCPMigrateReqSuccess"), tcp_counter("TCPMigrateReqFailure")), (25, 0));
    assert_eq!(connections_reset(), 0);
    if cell == Cell::FastOpen {
        assert_eq!(tcp_counter("TCPFastOpenPassive"), 25);
    }
    let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
    println!("{family} {cell:?} {stop:?}: accepted: 25 of 25, migrated: 25 of 25");
}

/// 25 clients whose connections are worker 0's.
fn connect(server: SocketAddr, cell: Cell, workers: u32) -> Vec<Client> {
    let owners = Owners::among(0..workers);
    let ip = client_address(server, 7);
    let own = (20_000..u16::MAX)
        .map(|port| SocketAddr::new(ip, port))
        .filter(|client| owners.of_flow(*client, server) == 0);
    own.take(CLIENTS)
        .map(|client| match cell {
            Cell::FastOpen => Client::connect_asking(client, server),
            _ => Client::connect_from(client, server),
        })
        .collect()
}

/// Waits until every connection is where the cell wants it.
fn until_in_place(
    steer: &Steer<'_>,
    server: SocketAddr,
    cell: Cell,
    clients: &mut [Client],
    frozen: Option<&Frozen<'_>>,
) {
    let half_open = || tcp_count(server, TcpState::SynReceived);
    match cell {
        Cell::Unaccepted => clients.iter_mut().for_each(Client::ask),
        Cell::FastOpen | Cell::Timer | Cell::FinalAck => {
            wait::until("all are half-open", SOON, || match half_open() {
                CLIENTS => Ok(()),
                found => Err(format!("{found} are")),
            });
        }
    }
    if matches!(cell, Cell::Unaccepted | Cell::FastOpen) {
        steer.until("all are in the queue", SOON, |status| status.groups[0].workers[0].queue == 25);
    }
    if cell == Cell::FinalAck {
        // Each SYN-ACK is answered by an ACK. After the third, at 3 seconds, the next is 4 seconds away: that the timer
        // moves none of them is seen and not hoped for.
        wait::until("each SYN-ACK was sent three times", SOON, || {
            match frozen.expect("this cell is frozen").dropped() {
                75 => Ok(()),
                found => Err(format!("{found} ACKs")),
            }
        });
    }
}

/// Stops the listener of worker 0.
fn stop_listener(steer: &Steer<'_>, stop: Stop, pid: u32, workers: &Workers, cell: Cell) {
    match stop {
        Stop::Deadline => {
            let output = steer.command(["restart", "web/0", "--json", "--timeout", "200ms"]).exited(6);
            let receipt = receipt_of(&output);
            let at_stop = matches!(cell, Cell::Unaccepted | Cell::FastOpen);
            assert_eq!(receipt.migrated, if at_stop { 25 } else { 0 }, "{receipt:?}");
            assert_eq!(receipt.outcome, "deadline");
        }
        Stop::Kill => {
            // Its successor never comes: the other worker has all.
            workers.close_gate(0);
            process::signal(pid, Signal::KILL);
            until_event(steer, "lost", "web/0", 1);
        }
    }
}

/// Serves one connection at a time: sleeps in `accept` without a poller, or in `epoll_wait` with an edge-triggered one.
const RECEIVER: &str = r#"
import os, select, socket, sys
listener = socket.socket(fileno=3)
poller = None
if sys.argv[1] == "epoll":
    listener.setblocking(False)
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN | select.EPOLLET)
def connections():
    while True:
        if poller is not None:
            poller.poll()
        try:
            while True:
                yield listener.accept()[0]
        except BlockingIOError:
            pass
        except OSError:
            return
for connection in connections():
    connection.setblocking(True)
    connection.recv(4096)
    names = "X-Worker: %s\r\nX-Generation: %s" % (os.environ["STEER_WORKER"], os.environ["STEER_GENERATION"])
    connection.sendall(("HTTP/1.1 200 OK\r\n%s\r\nContent-Length: 0\r\n\r\n" % names).encode())
    connection.close()
"#;

#[test]
fn a_receiver_that_sleeps_is_woken_without_any_other_traffic() {
    let directory = tempfile::tempdir().unwrap();
    let script = python::script(directory.path(), "receiver", RECEIVER);
    for sleeps_in in ["accept", "epoll"] {
        for server in SPECIFIC.servers() {
            netns::run("wake", |namespace| {
                let (listen, program) = (server.to_string(), script.display().to_string());
                let arguments = [
                    "--listen",
                    &listen,
                    "--workers",
                    "1",
                    "--stop-timeout",
                    "100ms",
                    "--",
                    &program,
                    sleeps_in,
                ];
                let steer = Steer::run(namespace, &arguments);
                process::stop(group_of(&steer).workers[0].pid.expect("a working worker has a process"));
                // One, and no other client: what wakes the receiver is the migration or nothing.
                let mut client = Client::connect(client_address(server, 7), server);
                client.ask();
                steer.until("it is in the queue", SOON, |status| status.groups[0].workers[0].queue == 1);
                let output = steer.command(["restart", "web/0", "--json", "--timeout", "1s"]).exited(6);
                assert_eq!(receipt_of(&output).migrated, 1);
                assert_eq!(client.answer(), Answer { worker: 0, generation: 2 });
                // The client's, and not the probe of each generation.
                assert_eq!(group_of(&steer).counters.asked.connection, 1);
                assert_eq!(site::half_open(), 0);
                println!("{listen}: asleep in {sleeps_in}: woken");
            });
        }
    }
}
