//! What a UDP socket takes along that is closed while others of its group get datagrams: many as the kernel has it, and next to none
//! where it leaves its group first, as the daemon has its sockets do.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::{Duration, Instant},
};

use steer::sockets::{
    listener::make_listener,
    options::{discard_datagrams, leave_group},
};
use steer_tests::{netns, wait::patient};

const TARGET: &str = "127.0.0.1:8053";
const CLIENT: &str = "127.0.0.1:20000";
/// So many lost that chance does not make the difference.
const ENOUGH: u64 = 4_000;
/// How long a machine may take to lose them.
const SOON: Duration = Duration::from_secs(60);
/// What an empty queue has room for.
const BATCH: u64 = 64;

/// Longer than the others.
const LAST: &[u8] = b"last";

fn member() -> UdpSocket {
    let address = format!("udp://{TARGET}").parse().expect("an address");
    UdpSocket::from(make_listener(address, None, 0).expect("a socket of the group"))
}

/// Has the group's first socket get every datagram: a classic program that returns 0.
fn select_the_first(socket: &UdpSocket) {
    // BPF_RET | BPF_K
    let mut code = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut code };
    // SAFETY: the option's value and the instruction that it points to are there until the call returns.
    let failure = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    assert_eq!(failure, 0, "{}", std::io::Error::last_os_error());
}

/// What came of datagrams through one way to close sockets that nothing selects.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    sent: u64,
    lost: u64,
    closes: u64,
}

/// Sends to a socket while another thread opens and closes others of its group, until `is_enough`.
fn send(close: impl Fn(UdpSocket) + Sync, is_enough: impl Fn(Outcome) -> bool) -> Outcome {
    let receiver = member();
    receiver.set_read_timeout(Some(patient(SOON))).expect("a socket can have a timeout");
    select_the_first(&receiver);
    let sender = UdpSocket::bind(CLIENT).expect("the client's port is free");
    let target: SocketAddr = TARGET.parse().expect("an address");
    let (is_over, closes) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let closing = scope.spawn(|| {
            while !is_over.load(Acquire) {
                close(member());
                closes.fetch_add(1, Relaxed);
            }
        });
        let mut outcome = Outcome { sent: 0, lost: 0, closes: 0 };
        let mut received = 0;
        let read = || discard_datagrams(&receiver).expect("the receiver can be read");
        while !is_enough(outcome) {
            for _ in 0..BATCH {
                sender.send_to(b"x", target).expect("loopback takes it");
            }
            received += read();
            outcome.sent += BATCH;
            // Mostly a datagram is in its socket's queue or nowhere when it has been sent; the kernel may put some off.
            outcome.lost = outcome.sent.saturating_sub(received);
            outcome.closes = closes.load(Relaxed);
        }
        is_over.store(true, Release);
        closing.join().expect("sockets can be opened and closed");
        sender.send_to(LAST, target).expect("loopback takes it");
        let mut datagram = [0; 8];
        while receiver.recv(&mut datagram).expect("the last one comes") < LAST.len() {
            received += 1;
        }
        outcome.lost = outcome.sent - received;
        outcome
    })
}

#[test]
fn a_socket_that_leaves_its_group_before_it_is_closed_takes_next_to_nothing_along() {
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return println!("skipped: one CPU does not look a socket up while it closes another");
    }
    netns::run("flows-closing", |_| {
        let began = Instant::now();
        let plain = send(drop, |outcome| outcome.lost >= ENOUGH || began.elapsed() >= patient(SOON));
        let left = send(
            |socket| leave_group(&socket).expect("the socket leaves its group"),
            |outcome| outcome.sent >= plain.sent && outcome.closes >= plain.closes,
        );
        println!("closed as they are: {plain:?}; taken out of the group before: {left:?}");
        assert!(plain.lost >= ENOUGH, "the kernel does not lose what this is for: {plain:?}");
        let rate = |outcome: Outcome| outcome.lost as f64 / outcome.closes.max(1) as f64;
        assert!(rate(left) < rate(plain) / 100.0, "{left:?}, {plain:?}");
    });
}
