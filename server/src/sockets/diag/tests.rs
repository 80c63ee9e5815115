//! Dumps against real sockets on loopback, as any user.

use std::{
    io::Write,
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    time::Instant,
};

use super::*;
use crate::sockets::{listener::make_listener, options};

fn listen(text: &str, backlog: i32) -> (TcpListener, ListenAddress) {
    let address: ListenAddress = text.parse().unwrap();
    let listener = make_listener(address, None, backlog).unwrap();
    let bound = ListenAddress { address: options::local_address(&listener).unwrap(), ..address };
    (listener.into(), bound)
}

/// With data that has not come, TCP_DEFER_ACCEPT keeps a handshake half-open after its last ACK: half-open
/// handshakes without privilege.
fn defer_accept(listener: impl AsFd, seconds: libc::c_int) {
    // SAFETY: the option takes an int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}

/// Polls a state until it holds; the last state seen is in the failure.
fn await_state<T: std::fmt::Debug>(what: &str, mut read: impl FnMut() -> T, holds: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let state = read();
        if holds(&state) {
            return state;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {state:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_listener_shows_its_queue_and_its_backlog() {
    let mut diag = Diag::open().unwrap();
    for text in ["127.0.0.1:0", "[::1]:0"] {
        let (listener, address) = listen(text, 7);
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address.address).unwrap()).collect();
        let found =
            await_state("3 wait", || diag.listeners(address).unwrap(), |found| found[0].unaccepted == 3);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].backlog, 7);
        assert_eq!(found[0].cookie, options::socket_cookie(&listener).unwrap());
        assert_eq!(found[0].local, address.address);
        assert_eq!(found[0].uid, rustix::process::geteuid().as_raw());
        let connections = diag.connections(address).unwrap();
        assert!(connections.is_empty(), "unaccepted ones are nobody's: {connections:?}");
        let accepted: Vec<_> = clients.iter().map(|_| listener.accept().unwrap()).collect();
        let connections = diag.connections(address).unwrap();
        assert_eq!(connections.len(), accepted.len(), "{connections:?}");
    }
}

#[test]
fn an_address_has_its_own_listeners_and_no_others() {
    let mut diag = Diag::open().unwrap();
    let (_specific, address) = listen("127.0.0.1:0", 8);
    let port = address.address.port();
    let (wildcard, wildcard_address) = listen(&format!("0.0.0.0:{port}"), 8);
    let (dual, dual_address) = listen(&format!("[::]:{port}"), 8);
    for (listener, address) in [(wildcard, wildcard_address), (dual, dual_address)] {
        let found = diag.listeners(address).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].cookie, options::socket_cookie(&listener).unwrap());
    }
    let elsewhere = ListenAddress { address: format!("127.0.0.2:{port}").parse().unwrap(), ..address };
    assert!(diag.listeners(elsewhere).unwrap().is_empty());
}

#[test]
fn a_bound_datagram_socket_is_a_listener() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = ListenAddress { protocol: Protocol::Udp, address: socket.local_addr().unwrap() };
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"hello", address.address).unwrap();
    let mut diag = Diag::open().unwrap();
    let found = await_state(
        "a datagram waits",
        || diag.listeners(address).unwrap(),
        |found| found.first().is_some_and(|socket| socket.unaccepted > 0),
    );
    assert_eq!(found[0].cookie, options::socket_cookie(&socket).unwrap());
}

#[test]
fn connections_are_those_that_a_process_holds() {
    let mut diag = Diag::open().unwrap();
    for (listen_at, connect_to) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        ("[::]:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.2"),
    ] {
        let (listener, address) = listen(listen_at, 8);
        let target = SocketAddr::new(connect_to.parse().unwrap(), address.address.port());
        let client = TcpStream::connect(target).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let found = diag.connections(address).unwrap();
        // The client's own end has the port as its remote one, so it is not there.
        assert_eq!(found.len(), 1, "{listen_at}: {found:?}");
        assert_eq!(found[0].local, target, "{listen_at}: as IPv4, not mapped");
        assert_eq!(found[0].remote, client.local_addr().unwrap());
        assert_eq!(found[0].state, ConnectionState::Established);
        let held = crate::sockets::procfs::socket_inodes_of(&[std::process::id()]);
        assert!(held.contains(&u64::from(found[0].inode)));

        client.shutdown(std::net::Shutdown::Write).unwrap();
        await_state(
            "closed by the client, still held",
            || diag.connections(address).unwrap(),
            |found| found.len() == 1 && found[0].state == ConnectionState::CloseWait,
        );
        drop(accepted);
        assert!(diag.connections(address).unwrap().is_empty(), "held by no process");
    }
}

#[test]
fn a_half_open_handshake_is_seen_in_either_family() {
    let mut diag = Diag::open().unwrap();
    for (listen_at, connect_to) in
        [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")]
    {
        let (listener, address) = listen(listen_at, 8);
        defer_accept(&listener, 30);
        let target = SocketAddr::new(connect_to.parse().unwrap(), address.address.port());
        let mut client = TcpStream::connect(target).unwrap();
        let found = diag.handshakes(address).unwrap();
        assert_eq!(found.len(), 1, "{listen_at} from {connect_to}: {found:?}");
        assert_eq!((found[0].local, found[0].remote), (target, client.local_addr().unwrap()));
        assert_eq!(diag.listeners(address).unwrap()[0].unaccepted, 0);

        client.write_all(b"x").unwrap();
        await_state("completed", || diag.handshakes(address).unwrap(), Vec::is_empty);
        listener.accept().unwrap();
    }
}

#[test]
fn a_dump_of_many_parts_is_whole() {
    let mut diag = Diag::open().unwrap();
    let (listener, address) = listen("127.0.0.1:0", 1024);
    let mut held = Vec::new();
    for _ in 0..400 {
        let client = TcpStream::connect(address.address).unwrap();
        held.push((client, listener.accept().unwrap()));
    }
    assert_eq!(diag.connections(address).unwrap().len(), 400);
    assert_eq!(diag.connections(address).unwrap().len(), 400, "and the next dump is its own");
}

/// What Linux 6.18 answered for a listener with one half-open handshake: two parts, then the end.
const CAPTURED: &[&[u8]] = &[
    &[
        124, 0, 0, 0, 20, 0, 2, 0, 7, 0, 0, 0, 149, 64, 0, 0, 2, 10, 0, 0, 150, 79, 0, 0, 127, 0, 0, 1, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 211, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 63, 182, 0, 0, 5, 0, 8, 0, 0, 0, 0, 0,
        8, 0, 15, 0, 0, 0, 0, 0, 12, 0, 21, 0, 1, 0, 0, 0, 0, 0, 0, 0, 6, 0, 22, 0, 82, 0, 0, 0, //
        96, 0, 0, 0, 20, 0, 2, 0, 7, 0, 0, 0, 149, 64, 0, 0, 2, 3, 1, 0, 150, 79, 157, 176, 127, 0, 0, 1, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 212,
        0, 0, 0, 0, 0, 0, 0, 232, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 15, 0, 0, 0,
        0, 0,
    ],
    &[20, 0, 0, 0, 3, 0, 2, 0, 7, 0, 0, 0, 149, 64, 0, 0, 0, 0, 0, 0],
];

#[test]
fn a_captured_answer_reads() {
    let mut dump = Dump::default();
    dump.add(CAPTURED[0], 7).unwrap();
    assert!(!dump.finished);
    dump.add(CAPTURED[1], 7).unwrap();
    assert!(dump.finished && !dump.interrupted);
    let [listener, half_open] = &dump.sockets[..] else { panic!("{:?}", dump.sockets) };
    let expected = ListenerInfo {
        cookie: 211,
        inode: 0xb63f,
        uid: 0,
        cgroup: Some(1),
        local: "127.0.0.1:38479".parse().unwrap(),
        unaccepted: 0,
        backlog: 9,
    };
    assert_eq!(listener_info(listener), expected);
    assert_eq!(half_open.cgroup, None);
    let handshake = handshake(&half_open.header);
    assert_eq!(handshake.local, expected.local);
    assert_eq!(handshake.remote, "127.0.0.1:40368".parse().unwrap());
}

#[test]
fn parts_of_an_earlier_dump_are_left_out() {
    let mut dump = Dump::default();
    dump.add(CAPTURED[0], 8).unwrap();
    dump.add(CAPTURED[1], 8).unwrap();
    assert!(dump.sockets.is_empty() && !dump.finished);
}

#[test]
fn the_kernel_can_interrupt_and_refuse() {
    let mut interrupted = CAPTURED[0].to_vec();
    interrupted[6] |= 0x10;
    let mut dump = Dump::default();
    dump.add(&interrupted, 7).unwrap();
    assert!(dump.interrupted);

    let mut failed = CAPTURED[1].to_vec();
    failed[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
    let error = Dump::default().add(&failed, 7).unwrap_err();
    assert!(matches!(&error, DiagError::Refused(source) if source.raw_os_error() == Some(libc::ENOENT)));
    assert!(error.hint().unwrap().contains("modprobe"));

    let mut refused = vec![0_u8; 36];
    refused[..16].copy_from_slice(&CAPTURED[1][..16]);
    refused[0] = 36;
    refused[4] = 2;
    refused[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
    let error = Dump::default().add(&refused, 7).unwrap_err();
    assert!(matches!(error, DiagError::Refused(source) if source.raw_os_error() == Some(libc::EPERM)));
}

#[test]
fn an_answer_that_does_not_read_is_an_error() {
    let mut whole = Dump::default();
    assert!(matches!(whole.add(&[1, 2, 3], 1), Err(DiagError::Malformed(_))));
    // A header that promises more than there is.
    let mut frame = vec![0_u8; 20];
    frame[0] = 200;
    assert!(matches!(whole.add(&frame, 1), Err(DiagError::Malformed(_))));
    // A part that is cut short, at every length.
    for length in 1..CAPTURED[0].len() {
        assert!(length == 124 || Dump::default().add(&CAPTURED[0][..length], 7).is_err(), "{length}");
    }
}
