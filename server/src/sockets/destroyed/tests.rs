//! Sockets of our own that are destroyed, as any user.

use std::{
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use super::*;

fn listen(address: &str) -> (TcpListener, Destroyed) {
    let listener = TcpListener::bind(address).unwrap();
    let local = listener.local_addr().unwrap();
    let cookie = options::socket_cookie(&listener).unwrap();
    (listener, Destroyed { cookie, local })
}

fn ports(of: &[Destroyed]) -> BTreeSet<u16> {
    of.iter().map(|destroyed| destroyed.local.port()).collect()
}

async fn next(notifications: &mut Notifications) -> Heard {
    let next = notifications.next();
    tokio::time::timeout(Duration::from_secs(10), next).await.expect("nothing is heard").unwrap()
}

/// Whether this kernel tells; without, there is nothing to test.
fn tells() -> bool {
    match try_it() {
        Err(DestroyedError::Silent) => {
            eprintln!("skipped: {}", DestroyedError::Silent);
            false
        }
        tried => {
            tried.unwrap();
            true
        }
    }
}

#[tokio::test]
async fn the_end_of_a_listener_is_heard_and_nothing_else() {
    if !tells() {
        return;
    }
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let (listener, expected) = listen(address);
        let (other, of_other) = listen(address);
        let mut notifications = Notifications::open(&ports(&[expected])).unwrap();
        // Connections at its port, closed by either side, and what has another port.
        let ip = if expected.local.is_ipv4() { "127.0.0.1" } else { "::1" };
        let target = SocketAddr::new(ip.parse().unwrap(), expected.local.port());
        for _ in 0..3 {
            let client = TcpStream::connect(target).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            drop(accepted);
            drop(client);
        }
        drop(other);
        let duplicate = listener.try_clone().unwrap();
        drop(listener);
        SockRef::from(&duplicate).shutdown(Shutdown::Read).unwrap();
        drop(duplicate);
        assert_eq!(next(&mut notifications).await, Heard::Destroyed(expected), "{address}");

        let (more, expected) = listen(&of_other.local.to_string());
        notifications.set_ports(&ports(&[expected])).unwrap();
        drop(more);
        assert_eq!(next(&mut notifications).await, Heard::Destroyed(expected), "{address}, after a change");
    }
}

#[tokio::test]
async fn what_is_missed_is_said() {
    if !tells() {
        return;
    }
    let (listener, last) = listen("127.0.0.1:0");
    let mut notifications = Notifications::open(&ports(&[last])).unwrap();
    // The kernel makes it as small as it can be.
    SockRef::from(&notifications.socket.get_ref().as_fd()).set_recv_buffer_size(1).unwrap();
    let mut witness = Notifications::open(&ports(&[last])).unwrap();
    const WAITING: usize = 50;
    // Those that waited are told of as well, each like a listener that nobody knows.
    let clients: Vec<_> = (0..WAITING).map(|_| TcpStream::connect(last.local).unwrap()).collect();
    drop(listener);
    for _ in 0..=WAITING {
        assert!(
            matches!(next(&mut witness).await, Heard::Destroyed(one) if one.local.port() == last.local.port())
        );
    }
    // An error comes before what is in the queue.
    let heard = next(&mut notifications).await;
    assert_eq!(heard, Heard::Missed);
    drop(clients);
}

#[test]
fn many_ports_have_a_filter_and_more_have_another() {
    for count in [0, 1, PORTS_MAX, PORTS_MAX + 1, 65_535] {
        let ports = (1..=count as u16).collect::<BTreeSet<_>>();
        assert_eq!(ports.len(), count);
        subscribe(&ports).unwrap();
    }
}

/// The beginning of what Linux 6.18 said of a listener at 0.0.0.0:39859 that was closed, without its attributes.
const CAPTURED: &[u8] = &[
    88, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 7, 0, 0, 155, 179, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 180, 1, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

#[test]
fn a_captured_notification_reads() {
    let expected = Destroyed { cookie: 436, local: "0.0.0.0:39859".parse().unwrap() };
    assert_eq!(read(CAPTURED), Some(expected));
    for length in 0..CAPTURED.len() {
        assert_eq!(read(&CAPTURED[..length]), None, "{length}");
    }
}
