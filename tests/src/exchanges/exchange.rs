//! One exchange from a socket of its own, in any protocol: connect, ask, read the answer, close.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::dns;

/// Longer than a server takes to stop and to start again.
const TIMEOUT: Duration = Duration::from_secs(20);
/// After which a datagram is lost. It is not sent again.
const DATAGRAM_TIMEOUT: Duration = Duration::from_secs(5);

/// What carries it.
#[derive(Debug, Clone, Copy)]
pub enum Over {
    /// A connection for each.
    Tcp,
    /// A datagram and its answer.
    Udp,
}

impl fmt::Display for Over {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// What is asked, and how the answer is known.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// What carries it.
    pub over: Over,
    /// What is asked.
    pub request: Vec<u8>,
    /// The answer holds one of these.
    pub answers: &'static [&'static str],
}

impl Exchange {
    /// An HTTP/1.1 request of a server that answers "ok".
    pub fn http() -> Self {
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec();
        Self { over: Over::Tcp, request, answers: &["ok\n", "</html>", "\r\n\r\nok"] }
    }

    /// A command of redis.
    pub fn redis() -> Self {
        Self { over: Over::Tcp, request: b"PING\r\n".to_vec(), answers: &["+PONG"] }
    }

    /// A question of DNS, by datagram and by connection.
    pub fn dns() -> [Self; 2] {
        let question = dns::question();
        let by_connection = dns::with_length(&question);
        [(Over::Udp, question), (Over::Tcp, by_connection)].map(|(over, request)| Self {
            over,
            request,
            answers: &["pong"],
        })
    }

    /// Does it once, and says how long the answer took.
    pub fn run(&self, client: IpAddr, target: SocketAddr) -> io::Result<Duration> {
        let kind = match self.over {
            Over::Tcp => Type::STREAM,
            Over::Udp => Type::DGRAM,
        };
        let socket = Socket::new(Domain::for_address(target), kind, None)?;
        socket.bind(&SocketAddr::new(client, 0).into())?;
        let began = Instant::now();
        match self.over {
            Over::Tcp => self.by_connection(socket, target)?,
            Over::Udp => self.by_datagram(&socket.into(), target)?,
        }
        Ok(began.elapsed())
    }

    fn by_connection(&self, socket: Socket, target: SocketAddr) -> io::Result<()> {
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect_timeout(&target.into(), TIMEOUT).map_err(step("connect"))?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(&self.request).map_err(step("write"))?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let read = stream.read(&mut piece).map_err(step("read"))?;
            answer.extend_from_slice(&piece[..read]);
            if self.is_answered_by(&answer) {
                return Ok(());
            }
            if read == 0 {
                return Err(unexpected("closed after", &answer));
            }
        }
    }

    fn by_datagram(&self, socket: &UdpSocket, target: SocketAddr) -> io::Result<()> {
        socket.set_read_timeout(Some(DATAGRAM_TIMEOUT))?;
        socket.connect(target).map_err(step("connect"))?;
        socket.send(&self.request).map_err(step("send"))?;
        let mut answer = [0; 4096];
        let length = socket.recv(&mut answer).map_err(step("receive"))?;
        let answer = &answer[..length];
        if self.is_answered_by(answer) { Ok(()) } else { Err(unexpected("answered", answer)) }
    }

    fn is_answered_by(&self, answer: &[u8]) -> bool {
        let text = String::from_utf8_lossy(answer);
        self.answers.iter().any(|expected| text.contains(expected))
    }
}

fn step(step: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{step}: {error}"))
}

fn unexpected(what: &str, answer: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(answer).chars().take(80).collect::<String>();
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("{what} {text:?}"))
}
