//! What a UDP socket takes along that is closed while another of its group gets datagrams: what a lookup that meets it first was for, and
//! nothing where a lookup meets another first. What lookups meet first in a group of steer's is never a worker's.

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use steer::sockets::{
    listener::make_listener,
    options::{discard_datagrams, leave_group},
};
use steer_tests::{
    netns, process,
    skip::skip,
    sockets::{inodes, udp_inodes},
    steer::Steer,
    wait::patient,
};

const PORT: u16 = 8053;
const IPV4: &str = "127.0.0.1:8053";
const IPV6: &str = "[::1]:8053";
const CLIENT_PORT: u16 = 20_000;
/// So many lost that chance does not make the difference.
const ENOUGH: u64 = 4_000;
/// Members of a group.
const MANY: usize = 256;
/// How long a machine may take to lose them.
const SOON: Duration = Duration::from_secs(60);
/// What an empty queue has room for.
const BATCH: u64 = 64;
/// Longer than the others.
const LAST: &[u8] = b"last";

fn member(target: &str) -> UdpSocket {
    let address = format!("udp://{target}").parse().expect("an address");
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

/// What came of datagrams while sockets were closed that nothing selects.
#[derive(Debug, Clone, Copy, Default)]
struct Outcome {
    sent: u64,
    lost: u64,
    closes: u64,
}

impl Outcome {
    fn plus(self, other: Self) -> Self {
        let Self { sent, lost, closes } = other;
        Self { sent: self.sent + sent, lost: self.lost + lost, closes: self.closes + closes }
    }

    fn lost_of_a_close(self) -> f64 {
        self.lost as f64 / self.closes.max(1) as f64
    }
}

/// Closes others of the group beside the one that gets all, for as long as it is asked to.
struct Closing<'a> {
    is_over: &'a AtomicBool,
    closes: &'a AtomicU64,
}

impl Closing<'_> {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Relaxed)
    }

    fn close(&self, socket: UdpSocket) {
        drop(socket);
        self.closes.fetch_add(1, Relaxed);
    }
}

/// Sends to a socket, which is the group's first, while another thread closes others, until it has closed what it has or that
/// `is_enough`. What that thread leaves open is closed when no more is sent.
fn send(
    receiver: &UdpSocket,
    close: impl FnOnce(Closing<'_>) -> VecDeque<UdpSocket> + Send,
    is_enough: impl Fn(Outcome) -> bool,
) -> Outcome {
    receiver.set_read_timeout(Some(patient(SOON))).expect("a socket can have a timeout");
    let target = receiver.local_addr().expect("it is bound");
    let sender =
        UdpSocket::bind(SocketAddr::new(target.ip(), CLIENT_PORT)).expect("the client's port is free");
    let (is_over, closes) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let closing = scope.spawn(|| close(Closing { is_over: &is_over, closes: &closes }));
        let mut outcome = Outcome::default();
        let mut received = 0;
        while !closing.is_finished() && !is_enough(outcome) {
            for _ in 0..BATCH {
                sender.send_to(b"x", target).expect("loopback takes it");
            }
            received += discard_datagrams(receiver).expect("the receiver can be read");
            outcome.sent += BATCH;
            // Mostly a datagram is in its socket's queue or nowhere when it has been sent; the kernel may put some off.
            outcome.lost = outcome.sent.saturating_sub(received);
            outcome.closes = closes.load(Relaxed);
        }
        is_over.store(true, Relaxed);
        let left = closing.join().expect("sockets can be opened and closed");
        sender.send_to(LAST, target).expect("loopback takes it");
        let mut datagram = [0; 8];
        while receiver.recv(&mut datagram).expect("the last one comes") < LAST.len() {
            received += 1;
        }
        drop(left);
        outcome.lost = outcome.sent - received;
        outcome
    })
}

/// Each closed as soon as it is a member.
fn close_the_newest(
    target: &str,
    prepare: impl Fn(&UdpSocket) + Send,
) -> impl FnOnce(Closing<'_>) -> VecDeque<UdpSocket> + Send {
    move |closing| {
        while closing.goes_on() {
            let newest = member(target);
            prepare(&newest);
            closing.close(newest);
        }
        VecDeque::new()
    }
}

/// Each closed when there are many newer ones: not while a lookup may still be on its way that met it as the newest.
fn close_older_ones(target: &str) -> impl FnOnce(Closing<'_>) -> VecDeque<UdpSocket> + Send {
    move |closing| {
        let mut open: VecDeque<UdpSocket> = (0..MANY).map(|_| member(target)).collect();
        while closing.goes_on() {
            open.push_back(member(target));
            open.pop_front().into_iter().for_each(|oldest| closing.close(oldest));
        }
        open
    }
}

fn beside_the_oldest(
    target: &str,
    close: impl FnOnce(Closing<'_>) -> VecDeque<UdpSocket> + Send,
    is_enough: impl Fn(Outcome) -> bool,
) -> Outcome {
    let receiver = member(target);
    select_the_first(&receiver);
    send(&receiver, close, is_enough)
}

/// The group's members but the newest, which gets everything, are closed in the order in which they came.
fn close_the_oldest(target: &str) -> Outcome {
    let mut others: VecDeque<UdpSocket> = (0..MANY).map(|_| member(target)).collect();
    let receiver = member(target);
    select_the_first(&receiver);
    // The kernel puts its last member in the place of its first.
    drop(others.pop_front());
    let close = |closing: Closing<'_>| {
        others.into_iter().for_each(|oldest| closing.close(oldest));
        VecDeque::new()
    };
    send(&receiver, close, |_| false)
}

#[test]
fn only_a_socket_that_lookups_meet_first_takes_datagrams_along() {
    if thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return skip("one CPU does not look a socket up while it closes another");
    }
    netns::run("flows-closing", |_| {
        let began = Instant::now();
        let is_late = || began.elapsed() >= patient(SOON);
        let newest_of_ipv4 = beside_the_oldest(IPV4, close_the_newest(IPV4, |_| ()), |outcome| {
            outcome.lost >= ENOUGH || is_late()
        });
        let as_many =
            |outcome: Outcome| outcome.sent >= newest_of_ipv4.sent && outcome.closes >= newest_of_ipv4.closes;
        let leave = |socket: &UdpSocket| leave_group(socket).expect("the socket leaves its group");
        let left_before = beside_the_oldest(IPV4, close_the_newest(IPV4, leave), as_many);
        let others_of_ipv4 = beside_the_oldest(IPV4, close_older_ones(IPV4), as_many);
        let mut oldest_of_ipv6 = Outcome::default();
        while oldest_of_ipv6.lost < ENOUGH / 10 && !is_late() {
            oldest_of_ipv6 = oldest_of_ipv6.plus(close_the_oldest(IPV6));
        }
        let others_of_ipv6 = beside_the_oldest(IPV6, close_the_newest(IPV6, |_| ()), as_many);
        println!("IPv4, the newest is closed: {newest_of_ipv4:?}");
        println!("IPv4, the newest is closed when it has left its group: {left_before:?}");
        println!("IPv4, others are closed: {others_of_ipv4:?}");
        println!("IPv6, the oldest is closed: {oldest_of_ipv6:?}");
        println!("IPv6, others are closed: {others_of_ipv6:?}");
        assert_eq!((others_of_ipv4.lost, others_of_ipv6.lost), (0, 0), "anchors are met first, and stay");
        assert!(newest_of_ipv4.lost >= ENOUGH, "the kernel does not lose what anchors are for");
        assert!(oldest_of_ipv6.lost >= ENOUGH / 10, "the kernel does not lose what anchors are for");
        assert!(left_before.lost_of_a_close() < newest_of_ipv4.lost_of_a_close() / 100.0);
    });
}

/// What lookups meet first at both addresses; fails where it is a worker's.
#[track_caller]
fn anchors(steer: &Steer<'_>, what: &str) -> [String; 2] {
    let of_workers: Vec<String> = steer.worker_pids().into_iter().flat_map(inodes).collect();
    [false, true].map(|ipv6| {
        let members = udp_inodes(PORT, ipv6);
        assert!(members.len() > steer.worker_pids().len(), "{what}: {members:?}");
        let first = members[0].clone();
        assert!(
            !of_workers.contains(&first),
            "{what}: {first} of {members:?} is one of the workers' {of_workers:?}"
        );
        first
    })
}

#[test]
fn lookups_meet_no_worker_first() {
    netns::run("flows-anchors", |namespace| {
        let configuration = format!(
            "[[group]]\nname = \"web\"\nlisten = [\"udp://{IPV4}\", \"udp://{IPV6}\"]\n[group.workers]\ncount = 3\n[group.flows]\n\
             idle = \"100ms\"\n"
        );
        let mut steer = Steer::configured(namespace, &configuration);
        let begun = anchors(&steer, "at the start");
        steer.command(["restart", "web"]).succeeded();
        anchors(&steer, "after a restart");
        steer.command(["scale", "web", "1"]).succeeded();
        anchors(&steer, "after the newest have ended");
        steer.command(["scale", "web", "4"]).succeeded();
        let victim = steer.worker_pids()[0];
        process::signal(victim, Signal::KILL);
        steer.until("another process works", SOON, |status| {
            let worker = &status.groups[0].workers[0];
            worker.state == "working" && worker.pid.is_some_and(|pid| pid != victim)
        });
        let before = anchors(&steer, "after a crash");
        assert_eq!(before[1], begun[1], "the oldest stays");
        assert_ne!(before[0], begun[0], "each newer member has a newer one before it");
        steer.kill();
        steer.start_daemon();
        steer.until_reachable();
        let after = anchors(&steer, "after the daemon's death");
        assert_eq!(after[1], begun[1], "the oldest outlives the daemon");
        steer.command(["restart", "web"]).succeeded();
        anchors(&steer, "after the next daemon's restart");
        assert_eq!(steer.status().groups[0].strangers, 0);
        println!(
            "met first: {begun:?} at the start, {before:?} before the daemon's death, {after:?} after it"
        );
        steer.stop(SOON);
    });
}
