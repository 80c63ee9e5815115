//! Servers of datagrams that somebody else starts, taken under management while they serve.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use rustix::process::Signal;
use steer_tests::{
    datagrams::{FlowTally, Flows, Habit},
    netns::{self, Namespace},
    process,
    python::{ByHand, DATAGRAM_SERVER},
    steer::{Steer, binary},
    wait,
};

const SOON: Duration = Duration::from_secs(30);
/// As the configuration says it.
const IDLE: Duration = Duration::from_millis(300);
const ENDLESS: Habit = Habit { length: None, size: 60, idle: IDLE };
const LIVELY: Habit = Habit { length: Some(100), size: 60, idle: IDLE };

fn daemon<'a>(namespace: &'a Namespace, configuration: &str) -> Steer<'a> {
    let mut steer = Steer::service(namespace, &binary(), configuration);
    steer.start_daemon();
    steer.until_reachable();
    steer
}

fn configured(address: &str) -> String {
    format!(
        "[[group]]\nname = \"dns\"\nlisten = [{address:?}]\n[group.flows]\nidle = \"300ms\"\n[group.adopt]\nuser = \"0\"\n"
    )
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn serves(address: SocketAddr) {
    let client = UdpSocket::bind(if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
    let client = client.expect("a port is free");
    client.connect(address).expect("it can be reached");
    client.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
    wait::until("the server serves", SOON, || {
        client.send(b"+").and_then(|_| client.recv(&mut [0; 100])).map_err(|error| error.to_string())
    });
}

fn working(steer: &Steer<'_>, count: usize) {
    steer.until("its workers are the server's sockets", SOON, |status| {
        let [group] = &status.groups[..] else { return false };
        let works = |worker: &&steer::control::api::WorkerStatus| worker.state == "working";
        group.workers.len() == count && group.workers.iter().filter(works).count() == count
    });
}

fn sockets(flows: &Flows) -> BTreeSet<String> {
    flows.owners().into_values().map(|owner| owner.worker).collect()
}

fn nothing_lost(name: &str, tally: FlowTally) {
    println!("{name}: {tally:?}");
    assert!(tally.datagrams > 0);
    assert_eq!((tally.lost, tally.refused), (0, 0), "{name}");
}

/// How many datagrams the daemon has said came to a socket of its own.
fn said_to_be_lost(messages: &str) -> u64 {
    let lines = messages.lines().filter_map(|line| line.split_once(" datagrams came to a socket of steer's"));
    lines.filter_map(|(line, _)| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// One socket that knows nothing of SO_REUSEPORT, adopted and released over and over: each flow stays, and no datagram is lost but those
/// that are told of.
fn one_socket(name: &str, host: &str, address: &str) {
    netns::run(name, |namespace| {
        let mut steer = daemon(namespace, "");
        let server = ByHand::start(DATAGRAM_SERVER, &[host, "8053", "1"]);
        serves(at(address));
        let flows = Flows::start(&[at(address)], 50, ENDLESS);
        for _ in 0..5 {
            let asked = format!("udp://{address}");
            let said = steer.command(["adopt", &asked, "--name", "dns"]).succeeded();
            assert!(said.stdout.contains(&format!("{asked}: 1 listener, 1 process")), "{}", said.stdout);
            working(&steer, 1);
            flows.more(3);
            let group = steer.status().groups.remove(0);
            assert!(group.counters.outcome.kept > 0, "the program steers: {:?}", group.counters);
            assert_eq!(group.strangers, 0);
            steer.command(["release", "dns"]).succeeded();
            flows.more(3);
        }
        let tally = flows.end();
        println!("{name}: {tally:?}");
        // The kernel makes a group of it only as another socket is bound for some microseconds. The daemon counts what came to that.
        let told = said_to_be_lost(&steer.messages());
        println!("{name}: {told} lost as the kernel made the groups");
        assert_eq!((tally.astray, tally.refused), (0, 0));
        assert!(tally.lost <= told, "{} lost, {told} told of", tally.lost);
        drop(server);
        steer.stop(SOON);
    });
}

#[test]
fn a_socket_that_knows_nothing_of_it_is_adopted_and_released() {
    one_socket("adopted-udp-one", "127.0.0.1", "127.0.0.1:8053");
}

#[test]
fn so_is_one_of_ipv6() {
    one_socket("adopted-udp-v6", "::1", "[::1]:8053");
}

#[test]
fn a_drained_socket_keeps_its_flows_and_new_ones_go_to_the_others() {
    netns::run("adopted-udp-drain", |namespace| {
        let server = ByHand::start(DATAGRAM_SERVER, &["127.0.0.1", "8053", "3", "reuse"]);
        serves(at("127.0.0.1:8053"));
        let before = Flows::start(&[at("127.0.0.1:8053")], 60, LIVELY);
        let mut steer = daemon(namespace, &configured("udp://127.0.0.1:8053"));
        working(&steer, 3);
        before.more(1);
        // Which socket the flows go to was chosen anew; these are of now.
        let flows = Flows::start(&[at("127.0.0.1:8053")], 60, ENDLESS);
        let owners = flows.owners();
        assert_eq!(sockets(&flows).len(), 3);
        let drain = ["drain", "dns/1", "--timeout", "2s"];
        let epoch = steer.status().groups[0].epoch;
        let drained = std::thread::scope(|scope| {
            let drained = scope.spawn(|| steer.command(drain));
            steer.until("it drains by a table that is published", SOON, |status| {
                status.groups[0].workers[1].state == "draining" && status.groups[0].epoch > epoch
            });
            flows.more(2);
            assert_eq!(flows.owners(), owners, "each flow stays while it lasts");
            let new = Flows::start(&[at("127.0.0.1:8053")], 60, ENDLESS);
            assert_eq!(sockets(&new).len(), 2, "new flows go to the two others");
            nothing_lost("adopted-udp-drain, new flows", new.end());
            drained.join().expect("the command ends")
        });
        // The flows have no end, so the deadline is what ends it; they go on elsewhere.
        println!("{}", drained.stdout);
        assert_eq!(drained.code, Some(6), "{drained:?}");
        flows.more(2);
        assert_eq!(sockets(&flows).len(), 2);
        nothing_lost("adopted-udp-drain", flows.end());
        nothing_lost("adopted-udp-drain, across the adoption", before.end());
        steer.command(["undrain", "dns/1"]).succeeded();
        working(&steer, 3);
        let again = Flows::start(&[at("127.0.0.1:8053")], 60, ENDLESS);
        assert_eq!(sockets(&again).len(), 3);
        nothing_lost("adopted-udp-drain, undrained", again.end());
        drop(server);
        steer.stop(SOON);
    });
}

#[test]
fn sockets_that_come_and_go_are_workers_that_come_and_go() {
    netns::run("adopted-udp-several", |namespace| {
        namespace.sysctl("net.ipv4.ip_local_port_range", "20000 60000");
        let mut steer = daemon(namespace, "");
        let server = ByHand::start(DATAGRAM_SERVER, &["0.0.0.0", "8053", "2", "4", "1", "3"]);
        // The second bind is refused without SO_REUSEPORT, so this one has it.
        drop(server);
        let server = ByHand::start(DATAGRAM_SERVER, &["0.0.0.0", "8053", "2", "4", "1", "3", "reuse"]);
        let target = at("127.0.0.1:8053");
        serves(target);
        let pid = server.pid().to_string();
        let said = steer.command(["adopt", "--pid", &pid, "--name", "dns"]).succeeded().stdout;
        assert!(said.contains("udp://0.0.0.0:8053: 2 listeners, 1 process"), "{said}");
        assert!(said.contains("note: udp://0.0.0.0:8053: which of its 2 sockets"), "{said}");
        working(&steer, 2);
        let mut refused = 0;
        for count in [4, 1, 3] {
            let flows = Flows::start(&[target], 60, LIVELY);
            process::signal(server.pid(), Signal::HUP);
            steer.until("its sockets are workers", SOON, |status| {
                let works = |worker: &&steer::control::api::WorkerStatus| worker.state == "working";
                status.groups[0].workers.iter().filter(works).count() == count
            });
            flows.more(2);
            let tally = flows.end();
            println!("adopted-udp-several: {count} sockets: {tally:?}");
            // What a socket has that is closed is lost with it, as is what comes until that is seen.
            refused += tally.lost + tally.refused;
            if count > 1 {
                assert_eq!((tally.lost, tally.refused), (0, 0));
            }
            let after = Flows::start(&[target], 60, ENDLESS);
            assert_eq!(sockets(&after).len(), count, "each socket has some of the flows");
            nothing_lost("adopted-udp-several", after.end());
        }
        println!("adopted-udp-several: {refused} lost as sockets were closed");
        steer.command(["release", "dns"]).succeeded();
        drop(server);
        steer.stop(SOON);
    });
}

#[test]
fn a_server_that_is_restarted_is_followed_also_by_the_next_daemon() {
    netns::run("adopted-udp-restart", |namespace| {
        let mut steer = daemon(namespace, "");
        let target = at("127.0.0.1:8053");
        let start = || ByHand::start(DATAGRAM_SERVER, &["127.0.0.1", "8053", "1"]);
        let mut server = start();
        serves(target);
        steer.command(["adopt", "udp://127.0.0.1:8053", "--name", "dns"]).succeeded();
        working(&steer, 1);
        for is_killed in [false, true, false] {
            if is_killed {
                steer.kill();
                steer.start_daemon();
                steer.until_reachable();
                working(&steer, 1);
            }
            server.end();
            server = start();
            steer.until("the new process works", SOON, |status| {
                let workers = &status.groups[0].workers;
                workers.len() == 1 && workers[0].state == "working" && workers[0].pid == Some(server.pid())
            });
            let flows = Flows::start(&[target], 20, ENDLESS);
            flows.more(2);
            nothing_lost("adopted-udp-restart", flows.end());
            let status = steer.status();
            assert_eq!((status.groups[0].strangers, status.groups[0].workers.len()), (0, 1));
        }
        steer.command(["release", "dns"]).succeeded();
        serves(target);
        drop(server);
        steer.stop(SOON);
    });
}
