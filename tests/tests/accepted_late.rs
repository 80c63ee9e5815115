//! A connection that comes to a draining worker after the first look at it and before the first instant is waited for, though that look
//! found nothing.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use steer_tests::{control::Control, netns, python, skip::skip, steer::Steer};

const ADDRESS: &str = "127.0.0.1:8080";
const SOON: Duration = Duration::from_secs(30);
/// Most clients come too late for the worker that drains.
const ROUNDS: usize = 24;
/// For how long the first instant is awaited, at the least, in milliseconds.
const WINDOW: u64 = 8;
const CLIENTS: usize = 8;

/// Accepts at once, and answers with its process when a drain's queue would long be empty: well before the second in which open
/// connections may end by themselves.
const SLOW_SERVER: &str = r#"
import os, socket, sys, threading, time
listener = socket.socket()
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(128)
def answer(connection):
    connection.recv(64)
    time.sleep(0.3)
    connection.sendall(b"%d" % os.getpid())
    connection.close()
while True:
    threading.Thread(target=answer, args=(listener.accept()[0],)).start()
"#;

/// Asks, and says which process has answered.
fn ask(target: SocketAddr) -> Result<u32, std::io::Error> {
    let mut stream = TcpStream::connect(target)?;
    stream.write_all(b"?")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer.parse().map_err(|_| std::io::Error::other(format!("answered {answer:?}")))
}

#[test]
fn a_connection_between_the_first_look_and_the_first_instant_is_answered() {
    netns::run("accepted-late", |namespace| {
        let target: SocketAddr = ADDRESS.parse().expect("an address");
        let mut arguments = ["--listen", ADDRESS, "--workers", "1", "--"].map(str::to_owned).to_vec();
        arguments.extend(python::command(SLOW_SERVER, &["127.0.0.1", "8080"]));
        let steer = Steer::run(namespace, &arguments);
        let mut by_the_old_one = 0;
        for round in 1..=ROUNDS {
            let old = Control::new(&steer.socket()).status().workers[0].pid.expect("it works");
            // They begin together, at once: what is left until the first instant is some milliseconds.
            let begin = Barrier::new(CLIENTS + 1);
            let answers = thread::scope(|scope| {
                let client = || {
                    namespace.inside(|| {
                        begin.wait();
                        ask(target)
                    })
                };
                let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
                let restart = scope.spawn(|| Control::new(&steer.socket()).restart(0));
                let deadline = Instant::now() + SOON;
                while steer.messages().matches(" draining: ").count() != round {
                    assert!(Instant::now() < deadline, "it drains");
                }
                // Each round a little later: before the first look they are seen, and after the first instant they go elsewhere.
                thread::sleep(Duration::from_millis(round as u64 % WINDOW));
                begin.wait();
                let answers: Vec<_> =
                    clients.into_iter().map(|client| client.join().expect("it ends")).collect();
                let receipt = restart.join().expect("it ends");
                assert_eq!(receipt.outcome, "drained", "{receipt:?}");
                answers
            });
            for answer in answers {
                let pid = answer.unwrap_or_else(|error| panic!("round {round}: {error}"));
                by_the_old_one += u32::from(pid == old);
            }
        }
        println!("answered by the worker that drained: {by_the_old_one}");
        if by_the_old_one == 0 {
            skip(&format!("in {ROUNDS} rounds no client came before the first instant"));
        }
    });
}
