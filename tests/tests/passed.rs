//! Sockets that linger, passed to the daemon over each of its unix sockets: it answers everybody meanwhile.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::{UnixDatagram, UnixStream},
    time::Instant,
};

use steer_tests::{
    control::Control,
    netns,
    passed::{LINGER, Lingering},
    steer::Steer,
};

const ADDRESS: &str = "127.0.0.1:8080";

/// What others get while the sockets would be waited for, and how long it took.
fn others_are_served(steer: &Steer<'_>, what: &str, began: Instant, passed: &[TcpStream]) {
    let control = Control::new(&steer.socket());
    assert_eq!(control.status().workers.len(), 2);
    assert_eq!(control.restart(1).outcome, "drained");
    let took = began.elapsed();
    println!("{what}: passed: {}, others served within {took:?}", passed.len());
    assert!(took < LINGER / 3, "others have waited: {took:?}");
}

#[test]
fn what_comes_with_a_notification_is_waited_for_by_nobody() {
    netns::run("passed-notify", |namespace| {
        let steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", "2", "--ready", "notify"]);
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.connect(steer.path("steer.sock.web.notify")).expect("everybody may write there");
        let began = Instant::now();
        let texts = [b"READY=1".as_slice(), b"STATUS=here", b"nonsense", &[b'x'; 5_000]];
        let pass = |text: &&[u8]| Lingering::make().pass(&socket, text).expect("they are taken");
        let passed: Vec<TcpStream> = texts.iter().map(pass).collect();
        others_are_served(&steer, "notifications", began, &passed);
    });
}

#[test]
fn what_comes_with_a_call_or_a_scrape_is_refused_or_waited_for_by_nobody() {
    netns::run("passed-calls", |namespace| {
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        let metrics = place.path().join("metrics.sock");
        let at = format!("unix:{}", metrics.display());
        let steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", "2", "--metrics", &at]);
        let began = Instant::now();
        let (mut passed, mut refused) = (Vec::new(), 0);
        let request = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n".as_slice();
        let call = b"{\"method\":\"io.steer.Control.Info\"}\0".as_slice();
        for (path, bytes) in [(steer.socket(), call), (metrics, request)] {
            for bytes in [bytes, &bytes[..5]] {
                let mut stream = UnixStream::connect(&path).expect("it listens");
                match Lingering::make().pass(&stream, bytes) {
                    Ok(peer) => passed.push(peer),
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                        refused += 1;
                    }
                }
                // With nothing passed it is answered all the same.
                stream.write_all(b"\0").expect("it is open");
                if refused == 0 && bytes.len() > 5 {
                    assert_ne!(stream.read(&mut [0]).expect("an answer"), 0);
                }
            }
        }
        println!("refused: {refused}, since Linux 6.16");
        others_are_served(&steer, "calls and scrapes", began, &passed);
    });
}
