//! Servers that somebody else starts, taken under management while they serve.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use steer_tests::{
    netns::{self, Namespace},
    process,
    python::{PLAIN_SERVER, interpreter, script},
    steer::{Steer, binary},
    traffic::Traffic,
    wait,
};

const SOON: Duration = Duration::from_secs(30);
const PORT: u16 = 8080;
/// A daemon needs no group to begin with.
const EMPTY: &str = "";

fn address() -> SocketAddr {
    (IpAddr::from(Ipv4Addr::LOCALHOST), PORT).into()
}

/// A process of a server, killed in the end.
struct Server(Child);

impl Server {
    fn start(steer: &Steer<'_>, source: &str) -> Self {
        let program = script(steer.path("").as_path(), "server.py", source);
        let mut command = Command::new(interpreter());
        command.arg(program).args(["127.0.0.1", &PORT.to_string()]);
        Self(command.stdin(Stdio::null()).spawn().expect("python3 runs"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn end(mut self) {
        process::signal(self.pid(), Signal::TERM);
        self.0.wait().expect("it is this process's child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One that knows nothing of SO_REUSEPORT.
fn plain() -> String {
    PLAIN_SERVER.replace("SO_REUSEPORT", "SO_REUSEADDR")
}

fn serves() {
    wait::until("the server serves", SOON, || {
        std::net::TcpStream::connect(address()).map(drop).map_err(|error| error.to_string())
    });
}

fn working(steer: &Steer<'_>, count: usize) {
    steer.until("its workers are the server's listeners", SOON, |status| {
        let works = |worker: &&steer::control::api::WorkerStatus| worker.state == "working";
        status.groups[0].workers.len() == count
            && status.groups[0].workers.iter().filter(works).count() == count
    });
}

fn daemon<'a>(namespace: &'a Namespace) -> Steer<'a> {
    let mut steer = Steer::service(namespace, &binary(), EMPTY);
    steer.start_daemon();
    steer.until_reachable();
    steer
}

#[test]
fn a_server_that_knows_nothing_of_it_is_adopted_restarted_and_released() {
    netns::run("adopted-plain", |namespace| {
        let steer = daemon(namespace);
        let mut server = Server::start(&steer, &plain());
        serves();
        let traffic = Traffic::start(&[address()]);
        let said = steer.command(["adopt", "127.0.0.1:8080", "--name", "web", "--dry-run"]).succeeded();
        assert!(said.stdout.contains("tcp://127.0.0.1:8080: 1 listener, 1 process"), "{}", said.stdout);
        steer.command(["adopt", "127.0.0.1:8080", "--name", "web"]).succeeded();
        working(&steer, 1);
        traffic.more(200);
        let before = steer.status().groups[0].workers[0].selected;
        assert!(before > 0, "the program selects");
        for round in 0..3 {
            steer.command(["drain", "web/*", "--until-replaced", "--timeout", "10s"]).succeeded();
            let old = server.pid();
            server.end();
            server = Server::start(&steer, &plain());
            assert_ne!(server.pid(), old);
            steer.until("the new process works", SOON, |status| {
                status.groups[0].workers[0].state == "working"
                    && status.groups[0].workers[0].pid == Some(server.pid())
            });
            traffic.more(100);
            println!("adopted-plain: restart {round}");
        }
        steer.command(["release", "web"]).succeeded();
        traffic.more(100);
        let tally = traffic.end();
        println!(
            "adopted-plain: connections: {}, failed: {}, selected: {before}",
            tally.connections, tally.failed
        );
        server.end();
        steer_stop(steer);
    });
}

/// A look at the server's listeners takes some milliseconds, in which a holding listener is made: it was then taken for one that the server
/// has closed, in one restart of six.
#[test]
fn a_holding_listener_is_not_taken_for_gone_by_a_look_that_was_begun_before() {
    const RESTARTS: u32 = 20;
    netns::run("adopted-holds", |namespace| {
        let steer = daemon(namespace);
        let mut server = Server::start(&steer, &plain());
        serves();
        let traffic = Traffic::start(&[address()]);
        steer.command(["adopt", "127.0.0.1:8080", "--name", "web"]).succeeded();
        working(&steer, 1);
        for _ in 0..RESTARTS {
            steer.command(["drain", "web/*", "--until-replaced", "--timeout", "10s"]).succeeded();
            server.end();
            server = Server::start(&steer, &plain());
            steer.until("the new process works", SOON, |status| {
                status.groups[0].workers[0].pid == Some(server.pid())
                    && status.groups[0].workers[0].state == "working"
            });
        }
        let tally = traffic.end();
        let strangers = steer.status().groups[0].strangers_total;
        println!(
            "adopted-holds: {} connections, {} failed, {strangers} strangers",
            tally.connections, tally.failed
        );
        assert_eq!(strangers, 0, "a holding listener that was forgotten is seen as a stranger's");
        steer.command(["release", "web"]).succeeded();
        server.end();
        steer_stop(steer);
    });
}

fn steer_stop(mut steer: Steer<'_>) {
    steer.stop(SOON);
}

#[test]
fn listeners_of_several_processes_come_and_go_as_workers() {
    netns::run("adopted-several", |namespace| {
        let steer = daemon(namespace);
        let mut servers: Vec<Server> = (0..3).map(|_| Server::start(&steer, PLAIN_SERVER)).collect();
        serves();
        let traffic = Traffic::start(&[address()]);
        wait::until("all three listen", SOON, || {
            let said = steer.command(["adopt", "127.0.0.1:8080", "--dry-run"]);
            if said.stdout.contains("3 listeners, 3 processes") { Ok(()) } else { Err(said.stdout) }
        });
        steer.command(["adopt", "127.0.0.1:8080", "--name", "web"]).succeeded();
        working(&steer, 3);
        traffic.more(200);
        // One more comes; one goes, drained before.
        servers.push(Server::start(&steer, PLAIN_SERVER));
        working(&steer, 4);
        traffic.more(200);
        let leaving = steer.status().groups[0].workers[1].pid;
        steer.command(["drain", "web/1"]).succeeded();
        let at = servers.iter().position(|server| Some(server.pid()) == leaving).expect("one of them");
        servers.remove(at).end();
        traffic.more(200);
        let status = steer.status();
        assert_eq!(status.groups[0].workers[1].state, "drained");
        // What comes in its place stays drained, as somebody has said.
        servers.push(Server::start(&steer, PLAIN_SERVER));
        traffic.more(200);
        assert_eq!(steer.status().groups[0].workers[1].state, "drained");
        steer.command(["undrain", "web/1"]).succeeded();
        working(&steer, 4);
        traffic.more(200);
        let tally = traffic.end();
        println!("adopted-several: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.command(["release", "web"]).succeeded();
        servers.into_iter().for_each(Server::end);
        steer_stop(steer);
    });
}

#[test]
fn an_adopted_server_outlives_daemons_and_is_taken_over() {
    netns::run("adopted-lasting", |namespace| {
        let mut steer = daemon(namespace);
        let server = Server::start(&steer, &plain());
        serves();
        let traffic = Traffic::start(&[address()]);
        steer.command(["adopt", "127.0.0.1:8080", "--name", "web"]).succeeded();
        working(&steer, 1);
        // Until the program was attached, the kernel's hash gave the holding listener its part; that moves while there is a daemon.
        steer.until("nothing is held", SOON, |status| status.groups[0].held == 0);
        for _ in 0..3 {
            steer.kill();
            traffic.more(50);
            steer.start_daemon();
            steer.until_reachable();
            working(&steer, 1);
            traffic.more(50);
            assert_eq!(steer.status().groups[0].workers[0].generation, 1, "the same listener");
        }
        // The server is restarted while there is no daemon: the hook and the holding listener are there.
        steer.command(["drain", "web/*", "--until-replaced", "--timeout", "10s"]).succeeded();
        steer.kill();
        server.end();
        let server = Server::start(&steer, &plain());
        steer.start_daemon();
        steer.until_reachable();
        working(&steer, 1);
        traffic.more(50);
        let tally = traffic.end();
        println!("adopted-lasting: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.command(["release", "web"]).succeeded();
        server.end();
        steer_stop(steer);
    });
}

#[test]
fn what_cannot_be_adopted_is_refused_with_the_way_out() {
    netns::run("adopted-refused", |namespace| {
        let steer = daemon(namespace);
        let refused = |arguments: &[&str], code, parts: &[&str]| {
            let said = steer.command([&["adopt"], arguments].concat());
            assert_eq!(said.code, Some(code), "{said:?}");
            for part in parts.iter().chain(&["hint:"]) {
                assert!(said.stderr.contains(part), "{part} is not in {}", said.stderr);
            }
        };
        refused(&["127.0.0.1:8080"], 4, &["nobody listens at 127.0.0.1:8080"]);
        refused(&["--cgroup", "/no/such"], 4, &["no process in the cgroup /no/such"]);
        let unix = "import socket,os,sys,time\ns=socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[0]+'.sock')\ns.listen()\ntime.sleep(60)\n";
        let server = Server::start(&steer, unix);
        wait::until("it listens", SOON, || {
            let said = steer.command(["adopt", "--pid", &server.pid().to_string()]);
            if said.stderr.contains("unix sockets only") { Ok(()) } else { Err(said.stderr) }
        });
        drop(server);
        let server = Server::start(&steer, &plain());
        serves();
        steer.command(["adopt", "127.0.0.1:8080", "--name", "web"]).succeeded();
        refused(&["127.0.0.1:8080", "--name", "other"], 5, &["the group web has it already"]);
        refused(&["127.0.0.1:8080", "--name", "web"], 5, &["there is such a group"]);
        for (arguments, part) in [
            (["scale", "web", "3"].as_slice(), "its server is started by others"),
            (&["restart", "web"], "nothing says what restarts it"),
        ] {
            let said = steer.command(arguments.iter().copied());
            assert!(said.code == Some(5) && said.stderr.contains(part), "{said:?}");
        }
        steer.command(["release", "web"]).succeeded();
        server.end();
        steer_stop(steer);
    });
}
