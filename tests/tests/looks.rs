//! Exact looks: what is half-open, unaccepted and unread at each listener, and which connections a process holds.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use steer::dataplane::looks::{Looks, LooksError, Queue, Watched};
use steer_tests::{exact, frozen, netns, wait};

const SOON: Duration = Duration::from_secs(20);
/// One listen address of each kind, and where clients of it connect to.
const SITES: [(&str, &[&str]); 3] = [
    ("127.0.0.1:8080", &["127.0.0.1:8080"]),
    ("[::1]:8080", &["[::1]:8080"]),
    // Of both families: its IPv4 clients have mapped addresses.
    ("[::]:8080", &["127.0.0.3:8080", "[::1]:8080"]),
];

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a literal is an address")
}

fn socket(address: SocketAddr, kind: Type) -> Socket {
    let socket = Socket::new(Domain::for_address(address), kind, None).expect("a socket can be made");
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified()).expect("it is of IPv6");
    }
    socket.set_reuse_port(true).expect("the option is there");
    socket.bind(&address.into()).expect("the address is free");
    socket
}

/// A listener that others can share the address with.
fn listen(address: SocketAddr) -> TcpListener {
    let socket = socket(address, Type::STREAM);
    socket.listen(4096).expect("it can listen");
    socket.into()
}

fn receive(address: SocketAddr) -> UdpSocket {
    socket(address, Type::DGRAM).into()
}

fn connect(server: &str, count: usize) -> Vec<TcpStream> {
    let connect = |_| TcpStream::connect(address(server)).expect("the listener answers");
    (0..count).map(connect).collect()
}

/// Accepts all that is in the queue.
fn accept(listener: &TcpListener) -> Vec<TcpStream> {
    listener.set_nonblocking(true).expect("it can be set");
    std::iter::from_fn(|| listener.accept().ok().map(|(stream, _)| stream)).collect()
}

#[track_caller]
fn queue(looks: &Looks, watched: &Watched) -> Queue {
    looks.read().expect("a look succeeds").of(watched).expect("the socket is there")
}

#[track_caller]
fn until(what: &str, looks: &Looks, watched: &Watched, is_it: impl Fn(Option<Queue>) -> bool) {
    wait::until(what, SOON, || match looks.read().expect("a look succeeds").of(watched) {
        found if is_it(found) => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

fn listening(half_open: u32, unaccepted: u32) -> Queue {
    Queue { listens: true, half_open, unaccepted, datagrams: 0 }
}

#[test]
fn frozen_handshakes_are_counted_at_the_listener_that_they_are_of() {
    netns::run("frozen", |_| {
        for (site, servers) in SITES {
            let Some(looks) = exact::looks() else { return };
            let pair = [listen(address(site)), listen(address(site))];
            let watched = [&pair[0], &pair[1]].map(|listener| {
                frozen::freeze(listener);
                looks.watch(listener.as_fd()).expect("it can be watched")
            });
            let mut clients: Vec<_> = servers.iter().flat_map(|server| connect(server, 40)).collect();
            let look = looks.read().unwrap();
            let found = [0, 1].map(|index| look.of(&watched[index]).unwrap());
            let frozen = found.map(|queue| queue.half_open);
            assert_eq!(frozen.iter().sum::<u32>() as usize, clients.len(), "{found:?}");
            assert!(frozen.iter().all(|count| *count > 0), "{found:?}: it shows nothing if one has all");
            assert_eq!(found, frozen.map(|count| listening(count, 0)));

            // Each ends where it was counted.
            pair.iter().for_each(frozen::thaw);
            clients.iter_mut().for_each(|client| client.write_all(b"?").expect("it is open"));
            for index in [0, 1] {
                let wanted = listening(0, frozen[index]);
                until("all have ended", &looks, &watched[index], |found| found == Some(wanted));
                assert_eq!(accept(&pair[index]).len(), frozen[index] as usize);
                assert_eq!(queue(&looks, &watched[index]), listening(0, 0));
            }
            println!("{site}: frozen {frozen:?} of {}, each accepted where it was counted", clients.len());
        }
    });
}

#[test]
fn clients_that_a_deferring_listener_waits_for_are_half_open() {
    netns::run("deferring", |_| {
        for (site, servers) in SITES {
            let Some(looks) = exact::looks() else { return };
            let listener = listen(address(site));
            frozen::defer(&listener, 30);
            let watched = looks.watch(listener.as_fd()).unwrap();
            let mut clients: Vec<_> =
                (0..60).map(|index| connect(servers[index % servers.len()], 1).remove(0)).collect();
            assert_eq!(queue(&looks, &watched), listening(60, 0));
            clients[..20].iter_mut().for_each(|client| client.write_all(b"!").expect("it is open"));
            until("20 have spoken", &looks, &watched, |found| found == Some(listening(40, 20)));
            println!("{site}: silent: 60, counted: 60; 20 spoke: 40 and 20 unaccepted");
        }
    });
}

#[test]
fn unaccepted_connections_are_counted_and_a_listener_that_stops_is_one_that_does_not_listen() {
    netns::run("unaccepted", |_| {
        for (site, servers) in SITES {
            let Some(looks) = exact::looks() else { return };
            let pair = [listen(address(site)), listen(address(site))];
            let watched = [&pair[0], &pair[1]].map(|listener| looks.watch(listener.as_fd()).unwrap());
            let clients: Vec<_> = servers.iter().flat_map(|server| connect(server, 30)).collect();
            let found = [0, 1].map(|index| queue(&looks, &watched[index]));
            assert_eq!(found.iter().map(|queue| queue.unaccepted).sum::<u32>() as usize, clients.len());
            for index in [0, 1] {
                assert_eq!(found[index], listening(0, found[index].unaccepted));
                assert_eq!(accept(&pair[index]).len(), found[index].unaccepted as usize);
            }
            SockRef::from(&pair[0]).shutdown(std::net::Shutdown::Read).unwrap();
            assert_eq!(queue(&looks, &watched[0]), Queue { listens: false, ..listening(0, 0) });
            SockRef::from(&pair[0]).listen(16).unwrap();
            assert_eq!(queue(&looks, &watched[0]), listening(0, 0));
            println!("{site}: unaccepted {:?} of {}", found.map(|queue| queue.unaccepted), clients.len());
        }
    });
}

#[test]
fn unread_datagrams_are_counted_in_both_of_a_sockets_queues() {
    netns::run("unread", |_| {
        for (site, servers) in SITES {
            let Some(looks) = exact::looks() else { return };
            let receiver = receive(address(site));
            let watched = looks.watch(receiver.as_fd()).unwrap();
            let unread = |datagrams| Queue { listens: true, datagrams, ..Queue::default() };
            assert_eq!(queue(&looks, &watched), unread(0));
            for server in servers {
                let sender =
                    UdpSocket::bind((if server.starts_with('[') { "::1" } else { "127.0.0.1" }, 0)).unwrap();
                (0..10).for_each(|_| {
                    sender.send_to(b"datagram", address(server)).unwrap();
                });
            }
            let sent = 10 * servers.len() as u32;
            // The first read moves all of them from the queue that they came into to that of the reader.
            for left in (0..sent).rev() {
                assert_eq!(queue(&looks, &watched), unread(left + 1));
                receiver.recv(&mut [0; 16]).unwrap();
            }
            assert_eq!(queue(&looks, &watched), unread(0));
            receiver.connect((address(servers[0]).ip(), 9)).unwrap();
            assert!(!queue(&looks, &watched).listens, "it is connected");
            drop(receiver);
            until("it is gone", &looks, &watched, |found| found.is_none());
            println!("{site}: {sent} unread, counted one by one");
        }
    });
}

#[test]
fn a_closed_listener_is_seen_while_handshakes_of_it_are_half_open_and_then_no_more() {
    netns::run("closed", |_| {
        let Some(looks) = exact::looks() else { return };
        let [idle, busy] = ["127.0.0.1:8080", "127.0.0.1:8081"].map(|at| listen(address(at)));
        let watched = [&idle, &busy].map(|listener| looks.watch(listener.as_fd()).unwrap());
        frozen::freeze(&busy);
        let clients = connect("127.0.0.1:8081", 5);
        assert_eq!(queue(&looks, &watched[1]), listening(5, 0));
        frozen::thaw(&busy);
        drop((idle, busy));
        until("the idle one is gone", &looks, &watched[0], |found| found.is_none());
        assert_eq!(queue(&looks, &watched[1]), Queue { listens: false, half_open: 5, ..Queue::default() });

        // Its number is given to another, which it must not write for while both are visited.
        let [_, first] = watched;
        drop(first);
        let next = listen(address("127.0.0.1:8082"));
        let second = looks.watch(next.as_fd()).unwrap();
        let _waiting = connect("127.0.0.1:8082", 3);
        for _ in 0..200 {
            assert_eq!(queue(&looks, &second), listening(0, 3));
        }
        assert_eq!(
            steer_tests::sockets::tcp_count_at_port(8081, steer_tests::sockets::TcpState::SynReceived),
            5
        );
        drop(clients);
        println!("closed: with 5 half-open seen, without gone; its number is another's at once");
    });
}

#[test]
fn what_is_half_open_at_a_closed_listener_ends_with_its_clients() {
    netns::run("closed-ends", |_| {
        let Some(looks) = exact::looks() else { return };
        let listener = listen(address("127.0.0.1:8080"));
        let watched = looks.watch(listener.as_fd()).unwrap();
        frozen::freeze(&listener);
        let clients = connect("127.0.0.1:8080", 5);
        frozen::thaw(&listener);
        drop(listener);
        let left = Queue { listens: false, half_open: 5, ..Queue::default() };
        assert_eq!(queue(&looks, &watched), left);
        drop(clients);
        until("they are reset", &looks, &watched, |found| found.is_none());
    });
}

#[test]
fn a_socket_has_one_number_however_often_it_is_watched() {
    netns::run("twice", |_| {
        let Some(looks) = exact::looks() else { return };
        let listener = listen(address("127.0.0.1:8080"));
        let early = looks.read().unwrap();
        let [first, second] = [(); 2].map(|()| looks.watch(listener.as_fd()).unwrap());
        assert!(!early.covers(&first) && early.of(&first).is_none(), "the look is older");
        let _clients = connect("127.0.0.1:8080", 2);
        let look = looks.read().unwrap();
        assert!(look.covers(&first) && look.covers(&second));
        assert_eq!([look.of(&first), look.of(&second)], [Some(listening(0, 2)); 2]);
        drop(first);
        assert_eq!(queue(&looks, &second), listening(0, 2));
        drop(second);
        // Nobody has it now; and again, with a key of its own.
        let third = looks.watch(listener.as_fd()).unwrap();
        assert_eq!(queue(&looks, &third), listening(0, 2));
        assert_eq!(look.of(&third), None);
    });
}

#[test]
fn listeners_of_other_namespaces_are_seen_and_other_sockets_are_refused() {
    let Some(looks) = exact::looks() else { return };
    netns::run("elsewhere", |_| {
        let listener = listen(address("127.0.0.1:8080"));
        let watched = looks.watch(listener.as_fd()).unwrap();
        let _clients = connect("127.0.0.1:8080", 7);
        assert_eq!(queue(&looks, &watched), listening(0, 7));

        let (local, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(looks.watch(local.as_fd()), Err(LooksError::Unwatchable { .. })));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(looks.watch(file.as_fd()), Err(LooksError::Socket(_))));
        match Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) {
            Ok(mptcp) => {
                let error = looks.watch(mptcp.as_fd()).unwrap_err();
                assert_eq!(error.to_string(), "cannot watch an MPTCP listener");
            }
            Err(error) => println!("not supported: an MPTCP socket: {error}"),
        }
    });
}

#[test]
fn no_look_misses_one_of_2000_while_others_come_and_go() {
    const STEADY: usize = 2_000;
    const LOOKS: usize = 300;
    steer_tests::crowd::make_room(STEADY + 500);
    netns::run("coming-and-going", |namespace| {
        let Some(looks) = exact::looks() else { return };
        let steady: Vec<_> = (0..STEADY).map(|_| listen(address("127.0.0.1:0"))).collect();
        let watched: Vec<_> =
            steady.iter().map(|listener| looks.watch(listener.as_fd()).expect("there is room")).collect();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let came = [0, 1].map(std::sync::atomic::AtomicUsize::new);
        let ordering = std::sync::atomic::Ordering::Relaxed;
        // Others have come and gone before the looks are over, however late their threads are.
        let has_churned = || came.iter().all(|came| came.load(ordering) > 50);
        let mut times = thread::scope(|scope| {
            let churn = |of: usize| {
                let (looks, came, is_over) = (&looks, &came[of], &is_over);
                scope.spawn(move || {
                    namespace.inside(|| {
                        let mut live = std::collections::VecDeque::new();
                        while !is_over.load(ordering) {
                            let listener = listen(address("127.0.0.2:0"));
                            let watched = looks.watch(listener.as_fd()).expect("there is room");
                            assert_eq!(queue(looks, &watched), listening(0, 0));
                            live.push_back((listener, watched));
                            if live.len() > 100 {
                                live.pop_front();
                            }
                            came.fetch_add(1, ordering);
                        }
                    })
                })
            };
            let churning = [0, 1].map(churn);
            let mut times = Vec::new();
            while times.len() < LOOKS
                || !has_churned() && !churning.iter().any(thread::ScopedJoinHandle::is_finished)
            {
                let began = Instant::now();
                let look = looks.read().expect("a look succeeds");
                times.push(began.elapsed());
                let missed = watched.iter().filter(|watched| look.of(watched) != Some(listening(0, 0)));
                assert_eq!(missed.count(), 0);
            }
            is_over.store(true, ordering);
            for thread in churning {
                thread.join().expect("no look of its own has missed one");
            }
            times
        });
        times.sort_unstable();
        println!(
            "looks: {} at {STEADY} and {came:?} that came and went, missed: 0; median {:?}",
            times.len(),
            times[times.len() / 2]
        );
    });
}

#[test]
fn a_look_takes_no_longer_beside_20000_other_sockets() {
    const OTHERS: usize = 10_000;
    const AT_EACH: usize = 2_500;
    steer_tests::crowd::make_room(OTHERS + 500);
    netns::run("beside-others", |_| {
        let Some(looks) = exact::looks() else { return };
        let (listener, idle) = (listen(address("127.0.0.1:8080")), listen(address("127.0.0.1:8081")));
        let watched = [&listener, &idle].map(|listener| looks.watch(listener.as_fd()).unwrap());
        let _own = connect("127.0.0.1:8080", 3);
        let time = |what: &str| {
            let mut look = looks.read().unwrap();
            let mut times: Vec<_> = (0..501)
                .map(|_| {
                    let began = Instant::now();
                    looks.read_into(&mut look).unwrap();
                    began.elapsed()
                })
                .collect();
            assert_eq!(
                [0, 1].map(|index| look.of(&watched[index])),
                [3, 0].map(|count| Some(listening(0, count)))
            );
            times.sort_unstable();
            println!(
                "{what}: a look at 2 listeners takes {:?} (median; at worst {:?})",
                times[250], times[500]
            );
        };
        time("alone");
        // Each is two sockets of the table: the client's and the one that nobody accepts.
        let crowded: Vec<_> = (0..OTHERS / AT_EACH).map(|_| listen(address("127.0.0.9:0"))).collect();
        let others: Vec<_> = crowded
            .iter()
            .flat_map(|listener| connect(&listener.local_addr().unwrap().to_string(), AT_EACH))
            .collect();
        time("beside 20,000");

        // A dump of sock_diag goes through all of them: how many looks one takes the time of.
        let mut diag = steer::sockets::diag::Diag::open().unwrap();
        let at = "127.0.0.1:8080".parse().expect("an address");
        let began = Instant::now();
        let dumps = 10;
        (0..dumps).for_each(|_| assert_eq!(diag.connections(at).unwrap().len(), 0));
        let (took, began) = (began.elapsed(), Instant::now());
        let mut count = 0;
        while began.elapsed() < took {
            looks.read().unwrap();
            count += 1;
        }
        println!("{dumps} dumps of {} connections took {took:?}, and so did {count} looks", others.len());
        assert!(count > 10 * dumps, "a look is no cheaper than a dump");
    });
}
