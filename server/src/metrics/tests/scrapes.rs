//! Scrapers, polite and rude, at a server of which the daemon is made up.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::watch,
    time::timeout,
};

use super::super::{
    CONTENT_TYPE, Limits, MetricsAddress, MetricsListener, MetricsListenerError, Source, serve,
};
use crate::sockets::passed::{
    Closer,
    tests::{LINGER, lingering, pass, take_again},
};

/// Far longer than anything here takes.
const SOON: Duration = Duration::from_secs(20);

/// Gives an exposition once it is let to.
#[derive(Clone)]
struct Daemon {
    is_let: watch::Receiver<bool>,
    asked: Arc<AtomicUsize>,
    reasons: Vec<String>,
}

impl Source for Daemon {
    async fn exposition(&self) -> Result<Arc<str>, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.is_let.clone().wait_for(|is_let| *is_let).await.map_err(|error| error.to_string())?;
        Ok("# EOF\n".into())
    }

    async fn ailing(&self) -> Vec<String> {
        Vec::new()
    }

    async fn unready(&self) -> Vec<String> {
        self.reasons.clone()
    }
}

struct Served {
    address: std::net::SocketAddr,
    daemon: Daemon,
    lets: watch::Sender<bool>,
}

fn bind(address: &MetricsAddress) -> Result<MetricsListener, MetricsListenerError> {
    MetricsListener::bind(address, &Closer::start().unwrap())
}

fn start(limits: Limits) -> Served {
    let (lets, is_let) = watch::channel(true);
    let reasons = vec!["the group a is not".to_owned(), "the group b is not".to_owned()];
    let daemon = Daemon { is_let, asked: Arc::default(), reasons };
    let listener = bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let MetricsAddress::Tcp(address) = *listener.address() else { panic!() };
    tokio::spawn(serve(limits, listener, daemon.clone()));
    Served { address, daemon, lets }
}

impl Served {
    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }
}

/// All that comes until the end, which comes by itself; a reset is an end.
async fn read(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the server ends the connection") {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn each_path_has_its_answer_and_the_connection_ends() {
    let served = start(Limits::default());
    let metrics = served.get("/metrics?x=y").await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n") && metrics.ends_with("\r\n\r\n# EOF\n"), "{metrics}");
    assert!(metrics.contains(&format!("content-type: {CONTENT_TYPE}\r\n")), "{metrics}");
    assert!(served.get("/healthz").await.ends_with("\r\n\r\nok\n"));
    let ready = served.get("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.ends_with("\r\n\r\nthe group a is not\nthe group b is not\n"), "{ready}");
    for path in ["/", "/metrics/", "//metrics", "/../metrics", "/METRICS"] {
        assert!(served.get(path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[tokio::test]
async fn only_reading_is_allowed_and_a_head_has_no_body() {
    let served = start(Limits::default());
    let head = served.ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("content-length: 6\r\n"), "{head}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "NONSENSE"] {
        let answer =
            served.ask(&format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
    assert_eq!(served.daemon.asked.load(Ordering::Relaxed), 1, "the head alone");
    for nonsense in ["\x16\x03\x01\x02\r\n\r\n", "GET\r\n\r\n", "GET /metrics HTTP/9.9\r\n\r\n"] {
        let answer = served.ask(nonsense).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let answer = served.ask(&long).await;
    assert!(!answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn one_that_says_nothing_is_left() {
    let limits = Limits { request: Duration::from_millis(50), ..Limits::default() };
    let served = start(limits);
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    let mut half = TcpStream::connect(served.address).await.unwrap();
    half.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
    for stream in [&mut silent, &mut half] {
        let said = read(stream).await;
        assert!(!said.contains(" 200 "), "{said}");
    }
    assert!(served.get("/healthz").await.contains(" 200 "));
}

#[tokio::test]
async fn more_than_have_a_place_wait_for_one() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let served = start(limits);
    served.lets.send_replace(false);
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        streams.push(stream);
    }
    let asked = || served.daemon.asked.load(Ordering::Relaxed);
    timeout(SOON, async {
        while asked() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("two are asked for");
    // The third has no place: what it wants is not begun, however long one looks.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(asked(), 2);
    served.lets.send_replace(true);
    for stream in &mut streams {
        assert!(read(stream).await.ends_with("# EOF\n"));
    }
    assert_eq!(asked(), 3);
}

#[tokio::test]
async fn one_that_takes_nothing_away_gives_its_place_back() {
    let limits = Limits { connections: 1, connection: Duration::from_millis(50), ..Limits::default() };
    let served = start(limits);
    served.lets.send_replace(false);
    let mut stuck = TcpStream::connect(served.address).await.unwrap();
    stuck.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(read(&mut stuck).await, "");
    assert!(served.get("/healthz").await.contains(" 200 "));
}

#[tokio::test]
async fn a_unix_socket_is_served_and_removed_at_the_end() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.sock");
    let address = MetricsAddress::Unix(path.clone());
    // What a killed daemon has left is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = bind(&address).unwrap();
    let error = bind(&address).unwrap_err();
    assert!(error.is_conflict() && error.hint().unwrap().contains("--metrics"), "{error:?}");
    let (_lets, is_let) = watch::channel(true);
    let daemon = Daemon { is_let, asked: Arc::default(), reasons: vec![] };
    let server = tokio::spawn(serve(Limits::default(), listener, daemon));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert!(!path.exists());
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_told_with_a_way_out() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = MetricsAddress::Tcp(taken.local_addr().unwrap());
    let error = bind(&address).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot serve metrics at {address}"));
    assert!(error.is_conflict() && error.hint().unwrap().contains("--metrics"), "{error:?}");
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("file");
    std::fs::write(&path, "").unwrap();
    let error = bind(&MetricsAddress::Unix(path.clone())).unwrap_err();
    assert!(matches!(&error, MetricsListenerError::Unix(_)) && error.is_conflict(), "{error:?}");
    assert!(path.exists(), "what is no socket is left alone");
}

/// Where the kernel refuses nothing; the whole runtime of this test would wait for the close.
#[tokio::test]
async fn a_lingering_socket_that_comes_with_a_request_keeps_nobody() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.sock");
    let listener = bind(&MetricsAddress::Unix(path.clone())).unwrap();
    take_again(listener.as_fd());
    let (_lets, is_let) = watch::channel(true);
    let daemon = Daemon { is_let, asked: Arc::default(), reasons: vec![] };
    let server = tokio::spawn(serve(Limits::default(), listener, daemon));
    let began = std::time::Instant::now();
    let mut peers = Vec::new();
    let mut ask = async |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let (socket, peer) = lingering();
        peers.push(peer);
        pass(&stream, bytes, &socket).unwrap();
        drop(socket);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for _ in 0..3 {
        let answer = ask(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(ask(b"nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    }
    assert!(began.elapsed() < LINGER / 3, "{:?}", began.elapsed());
    server.abort();
}
