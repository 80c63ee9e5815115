//! The same 4-tuples through reloads, as the server itself tells: nginx names the process that answers, and the listener that it polls is found.

use std::{
    collections::{BTreeMap, HashSet},
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use steer::sockets::{
    address::{ListenAddress, Protocol},
    diag::Diag,
    pollers::{self, Taken},
};
use steer_tests::steer::Steer;

use super::{nginx, plain};
use crate::{
    case::Case,
    changing::{Changing, Led},
    site::Site,
};

pub(super) const CASES: &[Case] = &[Case {
    few: 10,
    ..plain("nginx reuseport", "HUP, by its answers", nginx::NEEDS, |site| Box::new(Sticky::start(site)))
}];

/// How many 4-tuples are followed at each address.
const TUPLES: u16 = 64;
const TIMEOUT: Duration = Duration::from_secs(20);

struct Sticky {
    led: Box<Led>,
    addresses: Vec<SocketAddr>,
    /// The listener, by its inode, that each 4-tuple went to; none before steer has adopted the server.
    before: Vec<u64>,
    moved: u64,
}

impl Sticky {
    fn start(site: &Site) -> Self {
        let led = nginx::hup(site, " reuseport");
        Self { led, addresses: site.addresses.clone(), before: Vec::new(), moved: 0 }
    }

    /// The listener that each 4-tuple goes to now.
    fn taken_by(&self) -> Vec<u64> {
        let visit = |address: &SocketAddr| {
            let polled = self.polled(*address);
            let client: IpAddr =
                if address.is_ipv4() { "127.1.0.201" } else { "fd00:57ee:7::201" }.parse().expect("an IP");
            (0..TUPLES)
                .map(|number| {
                    let pid = answering(SocketAddr::new(client, 30_000 + number), *address);
                    *polled.get(&pid).unwrap_or_else(|| panic!("{pid} answers and polls none of {polled:?}"))
                })
                .collect::<Vec<u64>>()
        };
        self.addresses.iter().flat_map(visit).collect()
    }

    /// The listener that each worker polls at an address.
    fn polled(&self, address: SocketAddr) -> BTreeMap<u32, u64> {
        let address = ListenAddress { protocol: Protocol::Tcp, address };
        let found =
            Diag::open().and_then(|mut diag| diag.listeners(address)).expect("listeners can be listed");
        let inodes: HashSet<u64> = found.iter().map(|it| u64::from(it.inode)).collect();
        let workers: Vec<u32> = self.led.program.workers().into_iter().collect();
        let attention = pollers::look(&workers, &inodes);
        let by = |inode: u64| match attention.taken(inode) {
            Taken::Polled { by } => by,
            _ => Default::default(),
        };
        inodes.iter().flat_map(|inode| by(*inode).into_iter().map(|pid| (pid, *inode))).collect()
    }
}

/// The process that answers a connection of this 4-tuple.
fn answering(client: SocketAddr, target: SocketAddr) -> u32 {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&client.into()).expect("its own port");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    socket.connect_timeout(&target.into(), TIMEOUT).expect("it connects");
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it is asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let pid = answer.lines().find_map(|line| line.strip_prefix("X-Pid: ")?.trim().parse().ok());
    pid.unwrap_or_else(|| panic!("no process is named in {answer:?}"))
}

impl Changing for Sticky {
    fn change(&mut self, round: u32, steer: Option<&Steer<'_>>) {
        if steer.is_some() && self.before.is_empty() {
            self.before = self.taken_by();
        }
        self.led.change(round, steer);
        if steer.is_some() {
            let now = self.taken_by();
            self.moved += self.before.iter().zip(&now).filter(|(before, now)| before != now).count() as u64;
            self.before = now;
        }
    }

    fn listeners(&self) -> usize {
        self.led.listeners()
    }

    fn pid(&self) -> u32 {
        self.led.pid()
    }

    fn moved(&self) -> u64 {
        self.moved
    }

    fn end(self: Box<Self>) {
        self.led.end();
    }
}
