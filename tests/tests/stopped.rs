//! A daemon that is stopped, and one that is only long at something: commands give up the one and wait for the other.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use steer::control::api::Receipt;
use steer_tests::{netns, output::Output, process, steer::Steer};

const SOON: Duration = Duration::from_secs(60);
const ADDRESS: &str = "127.0.0.1:8080";
/// Longer than a daemon may be silent.
const LONG_DRAIN: Duration = Duration::from_secs(17);

fn spawn(steer: &Steer<'_>, line: &str) -> Child {
    let mut command = Command::new(steer_tests::steer::binary());
    command.arg("--socket").arg(steer.socket()).args(line.split(' '));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is there")
}

#[track_caller]
fn end(line: &str, mut child: Child) -> Output {
    if process::wait_for(&mut child, SOON).is_none() {
        child.kill().expect("our child can be killed");
        panic!("{line}: has not ended within {SOON:?}");
    }
    let output = child.wait_with_output().expect("it has ended");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn every_command_gives_a_stopped_daemon_up_and_says_so() {
    netns::run("stopped", |namespace| {
        let steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", "2"]);
        process::freeze(steer.pid());
        let lines = [
            "status",
            "table web",
            "events --follow --since 1000",
            "restart web",
            "drain web/0",
            "undrain web/0",
            "scale web 3",
            "policy web source",
        ];
        let started = lines.map(|line| (line, spawn(&steer, line)));
        for (line, child) in started {
            let output = end(line, child).exited(3);
            for part in ["error: ", &steer.socket().display().to_string(), "for 10 s"] {
                assert!(output.stderr.contains(part), "{line}: {output:?}");
            }
            let hint =
                format!("hint: its process {0} is stopped: `kill -CONT {0}` lets it go on", steer.pid());
            assert!(output.stderr.contains(&hint), "{line}: {output:?}");
        }
        process::signal(steer.pid(), Signal::CONT);
        // What was sent is done; of the two that undo one another either may have come last.
        steer.until("the changes are made", SOON, |status| {
            let group = &status.groups[0];
            group.workers.len() == 3
                && group.policy.starts_with("source")
                && group.workers.iter().skip(1).all(|worker| worker.state == "working")
        });
    });
}

#[test]
fn a_drain_that_takes_longer_than_a_daemon_may_be_silent_is_waited_for() {
    netns::run("long-drain", |namespace| {
        let steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", "1"]);
        let target: SocketAddr = ADDRESS.parse().expect("an address");
        let mut client = TcpStream::connect(target).expect("it listens");
        client.write_all(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is connected");
        steer.until("it is accepted", SOON, |status| status.groups[0].workers[0].connections == 1);
        let began = Instant::now();
        let drain = spawn(&steer, "drain web/0 --timeout 1h --json");
        // How long it takes is what is tried.
        thread::sleep(LONG_DRAIN);
        drop(client);
        let receipt: Receipt = end("drain", drain).succeeded().parse();
        assert_eq!((receipt.outcome.as_str(), receipt.connections.began), ("drained", 1));
        assert!(began.elapsed() >= LONG_DRAIN);
    });
}
