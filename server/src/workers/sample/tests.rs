//! The sample worker with real clients, in this process.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
};

use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::sockets::{listener::make_listener, options as socket_options};

struct Sample {
    address: SocketAddr,
    /// As the daemon's duplicate.
    listener: OwnedFd,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

async fn sample(options: SampleOptions) -> Sample {
    let listener = make_listener("127.0.0.1:0".parse().unwrap(), None, 128).unwrap();
    let address = socket_options::local_address(&listener).unwrap();
    let own = std::net::TcpListener::from(listener.try_clone().unwrap());
    own.set_nonblocking(true).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let own = TcpListener::from_std(own).unwrap();
        let stopped = async {
            let _ = stopped.await;
        };
        serve_until(vec![own], vec![], Identity::new("web/3", "7"), &options, None, stopped).await;
    });
    Sample { address, listener, stop: Some(stop), task }
}

impl Sample {
    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn ended(self) {
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap();
    }

    async fn client(&self) -> Client {
        let address = self.address;
        tokio::task::spawn_blocking(move || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            Client(BufReader::new(stream))
        })
        .await
        .unwrap()
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn ask(&mut self, path: &str, connection: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// The head and body of an answer; empty where the connection was closed instead.
    fn answer(&mut self) -> String {
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut text).unwrap() == 0 {
                return text;
            }
        }
        let length = "content-length: ";
        let length = text.lines().find_map(|line| line.strip_prefix(length)).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        text + std::str::from_utf8(&body).unwrap()
    }

    fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0]).unwrap() == 0
    }
}

/// Runs blocking client code beside the server.
async fn off<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn an_answer_names_its_worker_and_the_connection_is_kept_or_closed() {
    let mut sample = sample(SampleOptions::default()).await;
    let mut client = sample.client().await;
    off(move || {
        for _ in 0..2 {
            client.ask("/", "keep-alive");
            let answer = client.answer();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            let pid = format!("x-pid: {}\r\n", std::process::id());
            for part in ["x-worker: web/3\r\n", "x-generation: 7\r\n", &pid, "\r\n\r\nweb/3 7\n"] {
                assert!(answer.contains(part), "{answer}");
            }
            assert!(!answer.contains("connection: close"));
        }
        client.ask("/", "close");
        assert!(client.answer().contains("x-worker"));
        assert!(client.is_closed());
    })
    .await;
    sample.stop();
    sample.ended().await;
}

#[tokio::test]
async fn a_drain_answers_what_was_asked_or_will_be_and_closes_what_is_idle() {
    let mut sample = sample(SampleOptions::default()).await;
    let mut idle = sample.client().await;
    let mut busy = sample.client().await;
    let (mut idle, mut busy) = off(move || {
        idle.ask("/", "keep-alive");
        idle.answer();
        busy.ask("/", "keep-alive");
        busy.answer();
        busy.ask("/slow?ms=300", "keep-alive");
        (idle, busy)
    })
    .await;
    let mut fresh = sample.client().await;
    sample.stop();
    off(move || {
        assert!(idle.is_closed());
        assert!(busy.answer().contains("connection: close"), "the slow answer is the last");
        assert!(busy.is_closed());
        fresh.ask("/", "keep-alive");
        assert!(fresh.answer().contains("connection: close"), "its first answer is its last");
        assert!(fresh.is_closed());
    })
    .await;
    sample.ended().await;
}

#[tokio::test]
async fn what_is_queued_when_the_drain_begins_is_served() {
    // Nothing is accepted in between: the connections and the order to stop come within one turn of the runtime.
    let mut sample = sample(SampleOptions::default()).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        let stream = TcpStream::connect(sample.address).unwrap();
        clients.push(Client(BufReader::new(stream)));
    }
    sample.stop();
    off(move || {
        for client in &mut clients {
            client.ask("/", "keep-alive");
            assert!(client.answer().contains("connection: close"));
        }
    })
    .await;
    let listener = sample.listener.try_clone().unwrap();
    sample.ended().await;
    assert!(socket_options::listens(&listener).unwrap(), "the daemon's duplicate goes on");
}

#[tokio::test]
async fn a_listener_that_is_shut_down_ends_accepting_and_nothing_else() {
    let mut sample = sample(SampleOptions::default()).await;
    let mut client = sample.client().await;
    let mut client = off(move || {
        client.ask("/", "keep-alive");
        client.answer();
        client
    })
    .await;
    socket_options::shut_listener(&sample.listener).unwrap();
    off(move || {
        client.ask("/", "keep-alive");
        assert!(client.answer().contains("x-worker"));
    })
    .await;
    assert!(!sample.task.is_finished(), "it waits for the order to stop");
    sample.stop();
    sample.ended().await;
}

#[tokio::test]
async fn a_request_that_hangs_holds_the_drain_until_its_client_goes() {
    let mut sample = sample(SampleOptions::default()).await;
    let mut client = sample.client().await;
    let client = off(move || {
        client.ask("/", "keep-alive");
        client.answer();
        client.ask("/hang", "keep-alive");
        client
    })
    .await;
    sample.stop();
    let early = tokio::time::timeout(Duration::from_millis(100), &mut sample.task).await;
    assert!(early.is_err(), "not before its connection");
    drop(client);
    sample.ended().await;
}

#[tokio::test]
async fn it_misbehaves_as_told() {
    let mut closing =
        sample(SampleOptions { close_listener_after: Some(10), ..SampleOptions::default() }).await;
    // The duplicate is the last: with it the listener goes.
    let begun = std::time::Instant::now();
    drop(std::mem::replace(&mut closing.listener, std::fs::File::open("/dev/null").unwrap().into()));
    while TcpStream::connect(closing.address).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    closing.stop();
    closing.ended().await;

    let mut deaf = sample(SampleOptions { no_accept: true, ..SampleOptions::default() }).await;
    let address = "127.0.0.1:0".parse::<crate::sockets::address::ListenAddress>().unwrap();
    let address = crate::sockets::address::ListenAddress { address: deaf.address, ..address };
    let _client = deaf.client().await;
    let waiting = crate::sockets::diag::Diag::open().unwrap().listeners(address).unwrap()[0].unaccepted;
    assert_eq!(waiting, 1);
    deaf.stop();
    deaf.ended().await;
}
