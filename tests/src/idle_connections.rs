//! Many TCP connections over which nothing goes, held by processes of their own: of each, the limit of open files is one's own.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddrV4},
    process::{Child, Command, Stdio},
};

use rustix::process::{Resource, getrlimit};

use crate::python;

/// What each process runs: connects so many clients to a server, or to a listener of its own, and holds them until its stdin ends.
const HOLDER: &str = r#"
import resource, socket, struct, sys
server, own = (sys.argv[1], int(sys.argv[2])), sys.argv[3] == "own"
network, first, count = sys.argv[4], int(sys.argv[5]), int(sys.argv[6])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if own:
    listener = socket.create_server(server)
held = []
def hold(own):
    # Closed by a reset: thousands in TIME_WAIT would slow down whoever looks at the host's sockets for a minute more.
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    held.append(own)
for number in range(first, first + count):
    address, port = divmod(number, 50000)
    client = socket.socket()
    client.bind((f"{network}.{address}", 10000 + port))
    client.connect(server)
    hold(client)
    if own:
        hold(listener.accept()[0])
print("connected", flush=True)
sys.stdin.read()
"#;

/// Descriptors of a process beside its sockets.
const BESIDE: u64 = 64;

/// More are not held by one process, for the time that it takes to make them one after another.
const SOCKETS_MAX: u64 = 20_000;

/// Connections that are open until this is dropped, or their server ends them.
#[derive(Debug, Default)]
pub struct IdleConnections {
    holders: Vec<Child>,
    sockets: usize,
}

impl IdleConnections {
    /// Connects so many clients to a server, from 127.3.0.0/24; nothing is sent. Returns once all are connected, which the server
    /// may know later. A server has one such set of clients at a time.
    #[track_caller]
    pub fn to(server: SocketAddrV4, count: usize) -> Self {
        let mut connections = Self::default();
        let mut first = 0;
        while first < count {
            let part = (count - first).min(sockets_of_one());
            connections.hold(server, ["other", "127.3.0"], first, part);
            first += part;
        }
        connections.sockets = count;
        connections
    }

    /// Makes more, both ends of each being held here, until there are so many sockets: for those who look at all that a host has.
    #[track_caller]
    pub fn fill_up(&mut self, sockets: usize) {
        while self.sockets < sockets {
            let part = (sockets - self.sockets).min(sockets_of_one());
            let number = u8::try_from(self.holders.len()).expect("some dozens of processes are enough");
            let server = SocketAddrV4::new(Ipv4Addr::new(127, 9, 9, number), 9);
            self.hold(server, ["own", &format!("127.2.{number}")], 0, part / 2);
            self.sockets += part;
        }
    }

    /// How many sockets are held.
    pub fn sockets(&self) -> usize {
        self.sockets
    }

    #[track_caller]
    fn hold(&mut self, server: SocketAddrV4, [kind, network]: [&str; 2], first: usize, count: usize) {
        let (address, port) = (server.ip().to_string(), server.port().to_string());
        let numbers = [first, count].map(|number| number.to_string());
        let words = python::command(HOLDER, &[&address, &port, kind, network, &numbers[0], &numbers[1]]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("running {}: {error}", words[0]));
        let stdout = process.stdout.take().expect("it is a pipe");
        self.holders.push(process);
        // One after another: together they would have the machine for themselves.
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).expect("it prints text");
        assert_eq!(said, "connected\n", "it has said why");
    }
}

impl Drop for IdleConnections {
    fn drop(&mut self) {
        for holder in &mut self.holders {
            // An error says that it has ended already.
            let _ = holder.kill();
        }
        for holder in &mut self.holders {
            let _ = holder.wait();
        }
    }
}

fn sockets_of_one() -> usize {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    // Even: of some, both ends.
    (limit.saturating_sub(BESIDE).min(SOCKETS_MAX) & !1) as usize
}
