//! Which of the listeners at an address are an adopted server's, and which worker each is.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use rustix::process::Signal;
use steer_tests::{
    cgroups,
    netns::{self, Namespace},
    process,
    python::{ByHand, CHANGING_SERVER, PLAIN_SERVER, THREADED_SERVER},
    steer::{Steer, binary},
    strangers,
    traffic::Traffic,
    wait,
};

const SOON: Duration = Duration::from_secs(30);
const ADDRESS: &str = "127.0.0.1:8080";

fn daemon<'a>(namespace: &'a Namespace) -> Steer<'a> {
    let mut steer = Steer::service(namespace, &binary(), "");
    steer.start_daemon();
    steer.until_reachable();
    steer
}

fn serves() {
    wait::until("the server serves", SOON, || {
        std::net::TcpStream::connect(ADDRESS).map(drop).map_err(|error| error.to_string())
    });
}

/// HAProxy -sf binds its new listeners and has the old ones closed then. 4-tuples stay with the worker whose place that is.
#[test]
fn listeners_that_come_before_others_go_take_their_places() {
    const RELOADS: u64 = 4;
    netns::run("adopted-anew", |namespace| {
        let mut steer = daemon(namespace);
        let steps = ["127.0.0.1", "8080", "1"].into_iter().chain(["anew"; RELOADS as usize]);
        // Without it, nothing can be bound beside a listener that has connections.
        const REUSE: &str =
            "listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n    listener.bind(";
        let source = CHANGING_SERVER.replace("listener.bind(", REUSE);
        let server = ByHand::start(&source, &steps.collect::<Vec<_>>());
        serves();
        let traffic = Traffic::start(&[ADDRESS.parse().expect("an address")]);
        steer.command(["adopt", ADDRESS, "--name", "web"]).succeeded();
        for reload in 1..=RELOADS {
            process::signal(server.pid(), Signal::HUP);
            let status = steer.until("its new listener works", SOON, |status| {
                let worker = &status.groups[0].workers[0];
                worker.state == "working" && worker.generation == reload + 1
            });
            assert_eq!(status.groups[0].workers.len(), 1, "{:?}", status.groups[0].workers);
            traffic.more(50);
        }
        let tally = traffic.end();
        println!("adopted-anew: {} connections, {} failed", tally.connections, tally.failed);
        steer.command(["release", "web"]).succeeded();
        steer.stop(SOON);
    });
}

/// No descriptor of the server's sockets is kept, and of datagrams none are held: the daemon's anchor is what there is to attach a program
/// through.
#[test]
fn datagrams_to_an_adopted_server_are_steered() {
    const QUESTIONS: u64 = 60;
    netns::run("adopted-datagrams", |namespace| {
        let mut steer = daemon(namespace);
        let _server = ByHand::start(THREADED_SERVER, &["127.0.0.1", "8080", "2"]);
        wait::until("both threads have a socket", SOON, || {
            let said = steer.command(["adopt", "udp://127.0.0.1:8080", "--dry-run"]);
            if said.stdout.contains("2 listeners") { Ok(()) } else { Err(said.stdout + &said.stderr) }
        });
        steer.command(["adopt", "udp://127.0.0.1:8080", "--name", "names"]).succeeded();
        steer.until_working();
        let before = steer.status().groups[0].counters.asked.datagram;
        let answered = (0..QUESTIONS).filter(|_| is_answered(ADDRESS.parse().expect("an address"))).count();
        let asked = steer.status().groups[0].counters.asked.datagram - before;
        println!("adopted-datagrams: {answered} of {QUESTIONS} answered, {asked} seen by the program");
        assert_eq!((answered as u64, asked), (QUESTIONS, QUESTIONS));
        steer.command(["release", "names"]).succeeded();
        steer.stop(SOON);
    });
}

fn is_answered(target: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    socket.connect(target).expect("an address");
    socket.send(b"?").expect("it is sent");
    socket.recv(&mut [0; 64]).is_ok()
}

/// A cgroup of a test; removed in the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(name: &str) -> Self {
        let path = cgroups::mount().join(format!("steer-tests-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup can be made");
        Self(path)
    }

    /// As `/proc/PID/cgroup` has it.
    fn name(&self) -> String {
        format!("/{}", self.0.file_name().expect("it has a name").to_string_lossy())
    }

    fn enter(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("a process can be moved");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let emptied = || fs::remove_dir(&self.0).map_err(|error| error.to_string());
        // A process that has been killed leaves it a moment later.
        if std::thread::panicking() {
            let _ = emptied();
        } else {
            wait::until("the cgroup is empty", SOON, emptied);
        }
    }
}

#[test]
fn a_stranger_of_the_same_user_in_another_cgroup_gets_nothing() {
    netns::run("adopted-cgroup", |namespace| {
        let cgroup = Cgroup::make("server");
        let mut steer = daemon(namespace);
        let servers: Vec<ByHand> =
            (0..2).map(|_| ByHand::start(PLAIN_SERVER, &["127.0.0.1", "8080"])).collect();
        servers.iter().for_each(|server| cgroup.enter(server.pid()));
        wait::until("both listen", SOON, || {
            let said = steer.command(["adopt", "--cgroup", &cgroup.name(), "--dry-run"]);
            if said.stdout.contains("2 listeners") { Ok(()) } else { Err(said.stdout + &said.stderr) }
        });
        steer.command(["adopt", "--cgroup", &cgroup.name(), "--name", "web"]).succeeded();
        steer.until_working();
        let stranger = strangers::join(ADDRESS);
        let traffic = Traffic::start(&[ADDRESS.parse().expect("an address")]);
        steer.until("the stranger is seen", SOON, |status| status.groups[0].strangers == 1);
        traffic.more(300);
        // One of the server's own goes and another comes while the stranger is there.
        let [leaving, staying] = <[ByHand; 2]>::try_from(servers).expect("there are two");
        steer.command(["drain", "web/*", "--until-replaced", "--timeout", "10s"]).succeeded();
        drop(leaving);
        drop(staying);
        let again: Vec<ByHand> =
            (0..2).map(|_| ByHand::start(PLAIN_SERVER, &["127.0.0.1", "8080"])).collect();
        again.iter().for_each(|server| cgroup.enter(server.pid()));
        steer.until_working();
        traffic.more(300);
        let tally = traffic.end();
        let got = strangers::accepted(&stranger);
        println!("adopted-cgroup: {} connections, the stranger got {got}", tally.connections);
        assert_eq!((got, tally.failed), (0, 0));
        steer.command(["release", "web"]).succeeded();
        drop(again);
        steer.stop(SOON);
    });
}
