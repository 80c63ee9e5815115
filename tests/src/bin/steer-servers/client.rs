//! Clients of one exchange per connection, in any protocol: connect, ask, read the answer, close.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use steer_tests::wait;

/// Connections open at once, each in a thread of its own.
pub(crate) const CLIENTS: u8 = 16;

/// Longer than a server takes to stop and to start again.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What is asked, and how the answer begins.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) request: Vec<u8>,
    /// The answer holds one of these.
    pub(crate) answers: &'static [&'static str],
}

/// What has come of the connections so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    connections: AtomicU64,
    failed: AtomicU64,
    longest_us: AtomicU64,
    first_failures: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// From `connect` to the answer, at worst.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }

    pub(crate) fn first_failures(&self) -> Vec<String> {
        self.first_failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, result: io::Result<Duration>) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(took) => drop(self.longest_us.fetch_max(took.as_micros() as u64, Ordering::Relaxed)),
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let mut first = self.first_failures.lock().unwrap_or_else(PoisonError::into_inner);
                if first.len() < 5 {
                    first.push(error.to_string());
                }
            }
        }
    }
}

/// Loads a server while `body` does something to it.
pub(crate) fn under_load(target: SocketAddr, exchange: &Exchange, body: impl FnOnce(&Tally)) -> Tally {
    let (tally, is_over) = (Tally::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for number in 1..=CLIENTS {
            let (tally, is_over) = (&tally, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    tally.count(converse(client(number, target), target, exchange));
                }
            });
        }
        // Also where it panics: the scope waits for all.
        let _end = Ending(&is_over);
        body(&tally);
    });
    tally
}

/// Waits for this many connections more.
pub(crate) fn more(tally: &Tally, count: u64) {
    let wanted = tally.connections() + count;
    wait::until("the load goes on", TIMEOUT, || {
        let found = tally.connections();
        if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted}")) }
    });
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An address for each thread, so that none runs out of ports.
fn client(number: u8, target: SocketAddr) -> IpAddr {
    match target {
        SocketAddr::V4(_) => Ipv4Addr::new(127, 1, 0, number).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 0, 0, 1, u16::from(number)).into(),
    }
}

fn converse(client: IpAddr, target: SocketAddr, exchange: &Exchange) -> io::Result<Duration> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let began = Instant::now();
    let step = |step| move |error: io::Error| io::Error::new(error.kind(), format!("{step}: {error}"));
    socket.connect_timeout(&target.into(), TIMEOUT).map_err(step("connect"))?;
    let mut stream = std::net::TcpStream::from(socket);
    stream.write_all(&exchange.request).map_err(step("write"))?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece).map_err(step("read"))?;
        answer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&answer);
        if exchange.answers.iter().any(|expected| text.contains(expected)) {
            return Ok(began.elapsed());
        }
        if read == 0 {
            return Err(io::Error::other(format!(
                "closed after {:?}",
                text.chars().take(80).collect::<String>()
            )));
        }
    }
}
