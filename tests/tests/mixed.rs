//! Connections and datagrams of one group: HTTP/3 beside HTTP/2, by one set of workers.

#![expect(clippy::unwrap_used, reason = "a step of a client that fails has its place to tell, and no more")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use steer_tests::{netns, python, receipts::group_of, steer::Steer};

const ADDRESSES: [&str; 2] = ["127.0.0.1:8443", "[fd00:57ee:7::1]:8443"];
const CLIENTS: u16 = 64;
const PATIENCE: Duration = Duration::from_secs(10);

/// The worker that answers a request.
fn by_tcp(client: IpAddr, target: SocketAddr) -> String {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::new(client, 0))).unwrap();
    socket.connect(&SockAddr::from(target)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let header = |line: &str| line.to_ascii_lowercase().strip_prefix("x-worker: ").map(str::to_owned);
    answer.lines().find_map(header).unwrap()
}

/// The worker that answers a datagram.
fn by_udp(client: IpAddr, target: SocketAddr) -> String {
    let socket = UdpSocket::bind((client, 0)).unwrap();
    socket.connect(target).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"a").unwrap();
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).split(' ').next().unwrap().to_owned()
}

fn client(target: SocketAddr, number: u16) -> IpAddr {
    match target.ip() {
        IpAddr::V4(_) => Ipv4Addr::new(127, 9, 1, number as u8).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 0, 0, 5, number).into(),
    }
}

#[test]
fn under_source_a_client_has_one_worker_for_both() {
    netns::run("mixed", |namespace| {
        let listen = ADDRESSES.map(|address| [format!("tcp://{address}"), format!("udp://{address}")]);
        let mut arguments = vec!["--workers", "4", "--policy", "source"];
        arguments.extend(listen.as_flattened().iter().flat_map(|address| ["--listen", address.as_str()]));
        let steer = Steer::run(namespace, &arguments);
        let mut seen = std::collections::BTreeSet::new();
        let mut both = |steer: &Steer<'_>| {
            for target in ADDRESSES.map(|address| address.parse::<SocketAddr>().unwrap()) {
                for client in (1..=CLIENTS).map(|number| client(target, number)) {
                    let worker = by_tcp(client, target);
                    assert_eq!(by_udp(client, target), worker, "{client} to {target}");
                    seen.insert(worker);
                }
            }
            group_of(steer)
        };
        both(&steer);
        steer.command(["restart", "web", "--timeout", "60s"]).succeeded();
        steer.command(["scale", "web", "6", "--timeout", "60s"]).succeeded();
        let group = both(&steer);
        let asked = group.counters.asked;
        println!("{CLIENTS} clients of each family: {asked:?}, by {} workers", seen.len());
        assert_eq!((asked.datagram, seen.len()), (4 * u64::from(CLIENTS), 6));
        assert!(asked.connection >= asked.datagram, "{asked:?}");
    });
}

/// A server that listens for connections at once, and binds its socket for datagrams when a look for its listeners is long over. It
/// answers datagrams.
const DATAGRAMS_LATER: &str = r#"
import os, socket, sys, time
address = (sys.argv[1], int(sys.argv[2]))
listener = socket.socket()
listener.bind(address)
listener.listen()
time.sleep(1)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(address)
while True:
    datagrams.sendto(b"%d" % os.getpid(), datagrams.recvfrom(65536)[1])
"#;

/// The socket for datagrams that it was passed stays bound, and the worker's, when it has shown that it binds for itself.
#[test]
fn a_socket_that_a_worker_was_passed_and_leaves_is_not_taken_for_its_own() {
    netns::run("mixed-later", |namespace| {
        let target: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let mut arguments =
            ["--listen", "udp://127.0.0.1:8080", "--listen", "127.0.0.1:8080", "--workers", "2", "--"]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(python::command(DATAGRAMS_LATER, &["127.0.0.1", "8080"]));
        let steer = Steer::run(namespace, &arguments);
        let workers = || -> std::collections::BTreeSet<String> {
            (1..=CLIENTS).map(|number| by_udp(client(target, number), target)).collect()
        };
        let group = group_of(&steer);
        let pids = group.workers.iter().filter_map(|worker| Some(worker.pid?.to_string()));
        assert_eq!(workers(), pids.collect());
        assert_eq!(group.mode, "auto");
    });
}
