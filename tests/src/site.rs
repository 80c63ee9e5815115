//! Where a group under test listens and where its clients are: both families at once.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    clients::{Client, seed_argument},
    netns::Namespace,
    nft::{self, Frozen},
    sockets::{TcpState, tcp_count_at_port},
    wait,
};

/// The port of every group under test: each has a network namespace to itself.
pub const PORT: u16 = 8080;

/// How long the kernel may take for what it does at once.
const SOON: Duration = Duration::from_secs(20);

/// Listen addresses, and an address of each family to connect to.
#[derive(Debug, Clone, Copy)]
pub struct Site {
    /// What the group listens at.
    pub listen: &'static [&'static str],
    servers: [&'static str; 2],
}

/// One kernel group for each family, at specific addresses.
pub const SPECIFIC: Site =
    Site { listen: &["127.0.0.1:8080", "[::1]:8080"], servers: ["127.0.0.1:8080", "[::1]:8080"] };

/// One kernel group for both: its IPv4 clients have mapped addresses.
pub const WILDCARD: Site =
    Site { listen: &["[::]:8080"], servers: ["127.0.0.3:8080", "[fd00:57ee:7::3]:8080"] };

impl Site {
    /// Arguments of `steer run` for a group here.
    pub fn arguments(&self, workers: u32, more: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
        let listen = self.listen.iter().flat_map(|address| ["--listen".to_owned(), (*address).to_owned()]);
        let rest = ["--workers".to_owned(), workers.to_string(), "--seed".to_owned(), seed_argument()];
        listen.chain(rest).chain(more.into_iter().map(Into::into)).collect()
    }

    /// Where clients connect to: IPv4, IPv6.
    pub fn servers(&self) -> [SocketAddr; 2] {
        self.servers.map(|server| server.parse().expect("a literal is an address"))
    }

    /// Connects `count` clients of each family, from their address with this number.
    #[track_caller]
    pub fn connect(&self, number: u8, count: usize) -> Vec<Client> {
        let mut clients = Vec::new();
        for server in self.servers() {
            clients.extend((0..count).map(|_| Client::connect(client_address(server, number), server)));
        }
        clients
    }

    /// Freezes the handshakes of the clients with this number, of both families.
    pub fn freeze<'a>(&self, namespace: &'a Namespace, number: u8) -> [Frozen<'a>; 2] {
        self.servers()
            .map(|server| nft::freeze_final_ack_from(namespace, PORT, client_address(server, number)))
    }

    /// Waits until this many handshakes are half-open.
    #[track_caller]
    pub fn until_half_open(&self, wanted: usize) {
        wait::until(&format!("{wanted} handshakes are half-open"), SOON, || match half_open() {
            found if found == wanted => Ok(()),
            found => Err(format!("{found} are")),
        });
    }
}

/// How many handshakes are half-open at the group, of both families.
pub fn half_open() -> usize {
    tcp_count_at_port(PORT, TcpState::SynReceived)
}

/// The address with this number of clients of a server's family.
pub fn client_address(server: SocketAddr, number: u8) -> IpAddr {
    match server {
        SocketAddr::V4(_) => IpAddr::from([127, 0, 0, number]),
        SocketAddr::V6(_) => IpAddr::from([0xfd00, 0x57ee, 7, 0, 0, 0, 0, u16::from(number)]),
    }
}
