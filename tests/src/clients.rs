//! TCP clients that stand at any point of a connection's life for as long as a test wants, and whose answers tell who served
//! them.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};
use server_common::{choice::bucket, limits::CHOICES};
use socket2::{Domain, Socket, Type};
use steer::{
    daemon::flows::{bucket_of, hash_of},
    engine::assign::{Member, NOBODY, assign},
};

/// The seed that groups under test are given, so that the test knows which worker a 4-tuple belongs to.
pub const SEED: [u64; 2] = [0x5eed_0000_0000_0001, 0x5eed_0000_0000_0002];

/// How long an answer may take: far beyond the kernel's longest wait in a test, a SYN-ACK timer that was doubled three
/// times.
const ANSWER: Duration = Duration::from_secs(30);

/// MSG_FASTOPEN of `include/linux/socket.h`: connect, and send this with the SYN.
const MSG_FASTOPEN: i32 = 0x2000_0000;

/// [`SEED`] as `--seed` takes it.
pub fn seed_argument() -> String {
    format!("{:016x}{:016x}", SEED[0], SEED[1])
}

/// Which worker has which flow, while these and no others work: worked out here, without asking the daemon.
#[derive(Debug, Clone)]
pub struct Owners(Vec<u32>);

impl Owners {
    /// With these workers, by index.
    pub fn among(workers: impl IntoIterator<Item = u32>) -> Self {
        let members: Vec<Member> = workers.into_iter().map(|index| Member { index, weight: 1_000 }).collect();
        let owners = assign(&members);
        assert!(!owners.contains(&NOBODY), "a table without workers names nobody");
        Self(owners)
    }

    /// The worker that has the client's connection.
    pub fn of(&self, client: &Client) -> u32 {
        self.of_flow(client.address, client.server)
    }

    /// The worker that has the connection from one address to the other.
    pub fn of_flow(&self, client: SocketAddr, server: SocketAddr) -> u32 {
        self.0[bucket_of(&SEED, client, server)]
    }

    /// The workers of the choices that the connection's hash gives, the first one first.
    pub fn choices(&self, client: SocketAddr, server: SocketAddr) -> [u32; CHOICES as usize] {
        let hash = hash_of(&SEED, client, server);
        std::array::from_fn(|choice| self.0[bucket(hash, choice as u32)])
    }
}

/// One client with one connection.
#[derive(Debug)]
pub struct Client {
    /// The client's side.
    pub address: SocketAddr,
    /// The server's side, as the client knows it.
    pub server: SocketAddr,
    stream: TcpStream,
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The worker's index, of `X-Worker`.
    pub worker: u32,
    /// `X-Generation`.
    pub generation: u64,
}

impl Client {
    /// Connects from any port of this address. Returns when the SYN-ACK has come: the server may know less.
    #[track_caller]
    pub fn connect(client: IpAddr, server: SocketAddr) -> Self {
        Self::connect_from(SocketAddr::new(client, 0), server)
    }

    /// Connects from this address and port; port 0 is any.
    #[track_caller]
    pub fn connect_from(client: SocketAddr, server: SocketAddr) -> Self {
        let socket = bound(client);
        let connected = socket.connect_timeout(&server.into(), ANSWER);
        connected.unwrap_or_else(|error| panic!("connecting from {client} to {server}: {error}"));
        Self::new(socket, server)
    }

    /// Connects with the request in the SYN: TCP Fast Open, without a cookie (`net.ipv4.tcp_fastopen`, bits 0 to 2 and 9).
    #[track_caller]
    pub fn connect_asking(client: SocketAddr, server: SocketAddr) -> Self {
        let socket = bound(client);
        let sent = socket.send_to_with_flags(&request(server), &server.into(), MSG_FASTOPEN);
        let sent = sent.unwrap_or_else(|error| panic!("fast open from {client} to {server}: {error}"));
        assert_eq!(sent, request(server).len(), "a request fits a SYN");
        Self::new(socket, server)
    }

    fn new(socket: Socket, server: SocketAddr) -> Self {
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("a connection can be set up");
        stream.set_read_timeout(Some(ANSWER)).expect("a connection can be set up");
        let address = stream.local_addr().expect("a connection has an address");
        Self { address, server, stream }
    }

    /// Sends the request.
    #[track_caller]
    pub fn ask(&mut self) {
        self.ask_for("/");
    }

    /// Sends a request for this path and query.
    #[track_caller]
    pub fn ask_for(&mut self, path: &str) {
        let sent = self.stream.write_all(&request_for(self.server, path));
        sent.unwrap_or_else(|error| panic!("asking {} from {}: {error}", self.server, self.address));
    }

    /// Whether something has come that can be read: an answer, or the connection's end.
    #[track_caller]
    pub fn has_answer(&self) -> bool {
        let mut descriptors = [PollFd::new(&self.stream, PollFlags::IN)];
        poll(&mut descriptors, Some(&Timespec::default())).expect("a connection can be polled") > 0
    }

    /// Reads to the end of the connection: whether that is a reset before any answer.
    #[track_caller]
    pub fn is_reset(mut self) -> bool {
        let mut answer = Vec::new();
        let read = self.stream.read_to_end(&mut answer);
        matches!(read, Err(error) if error.kind() == ErrorKind::ConnectionReset) && answer.is_empty()
    }

    /// Reads the whole answer, to the end of the connection. Panics where none comes, with what came instead.
    #[track_caller]
    pub fn answer(self) -> Answer {
        let text = self.text();
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("no number: {text:?}"));
        let worker = header(&text, "x-worker:");
        let worker = number(worker.rsplit('/').next().unwrap_or_default());
        Answer {
            worker: worker.try_into().expect("indices are small"),
            generation: number(&header(&text, "x-generation:")),
        }
    }

    /// Reads the whole answer as [`Self::answer`] does, and gives one of its headers.
    #[track_caller]
    pub fn answered_header(self, name: &str) -> String {
        header(&self.text(), name)
    }

    #[track_caller]
    fn text(mut self) -> String {
        let mut answer = Vec::new();
        let read = self.stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Err(error) = read {
            panic!("no answer from {} to {}: {error}; read so far: {text:?}", self.server, self.address);
        }
        assert!(text.starts_with("HTTP/1.1 200 "), "{} answered {}: {text:?}", self.server, self.address);
        text
    }
}

/// The header whose line begins with this, in lower case.
#[track_caller]
fn header(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in {text:?}")).trim().to_owned()
}

/// A socket with this address; connections of other tests' lives in TIME_WAIT are not in its way.
fn bound(client: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(client), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a socket can be set up");
    socket.bind(&client.into()).unwrap_or_else(|error| panic!("binding {client}: {error}"));
    socket
}

fn request(server: SocketAddr) -> Vec<u8> {
    request_for(server, "/")
}

/// `close`, so that the answer's end is the connection's, and a drain does not wait for the client.
fn request_for(server: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Asks for all, then reads all answers: each is checked against who is expected to give it. Returns how many each gave.
#[track_caller]
pub fn ask_all(mut clients: Vec<Client>, expected: impl Fn(&Client) -> Answer) -> BTreeMap<Answer, usize> {
    clients.iter_mut().for_each(Client::ask);
    answers(clients, expected)
}

/// Reads all answers, which have been asked for: each is checked against who is expected to give it.
#[track_caller]
pub fn answers(clients: Vec<Client>, expected: impl Fn(&Client) -> Answer) -> BTreeMap<Answer, usize> {
    let mut by_answer = BTreeMap::new();
    for client in clients {
        let (wanted, flow) = (expected(&client), (client.address, client.server));
        let answer = client.answer();
        assert_eq!(answer, wanted, "who answered {flow:?}");
        *by_answer.entry(answer).or_default() += 1;
    }
    by_answer
}

/// How many of the clients' connections each worker has, by index.
pub fn count_by_owner<'a>(
    clients: impl IntoIterator<Item = &'a Client>,
    owners: &Owners,
) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    for client in clients {
        *counts.entry(owners.of(client)).or_default() += 1;
    }
    counts
}
