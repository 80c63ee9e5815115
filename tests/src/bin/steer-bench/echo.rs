//! Datagrams that are answered: servers that share an address, with a program or with the kernel alone, and clients that keep some
//! datagrams of each flow in flight.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use steer::sockets::{
    address::{ListenAddress, Protocol},
    listener::make_listener,
};

use crate::{
    contender::{Contender, Program, Steering},
    flow_clients,
    samples::Samples,
};

const FLOWS: u16 = 64;
const SERVERS: usize = 4;
const ROUND: Duration = Duration::from_millis(200);
/// None is lost on loopback while a flow has one in flight: an answer that does not come is an error.
const ANSWER: Duration = Duration::from_secs(5);

/// Servers and their clients.
pub(crate) struct Echo {
    /// Keeps the program.
    _contender: Option<Contender>,
    target: SocketAddr,
    servers: Vec<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
    /// Datagrams per second, one for each round.
    pub(crate) samples: Samples,
}

impl Echo {
    pub(crate) fn start(steering: Option<Steering>, port: u16) -> Result<Self> {
        let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let address = ListenAddress { protocol: Protocol::Udp, address: target };
        let sockets = (0..SERVERS)
            .map(|_| Ok(UdpSocket::from(make_listener(address, None, 0)?)))
            .collect::<Result<Vec<_>>>()?;
        let contender = steering
            .map(|steering| Contender::with_sockets(Program::Steer(steering), &sockets))
            .transpose()?;
        let is_over = Arc::new(AtomicBool::new(false));
        // So that each sees the end.
        sockets.iter().try_for_each(|socket| socket.set_read_timeout(Some(ROUND)))?;
        let servers = sockets.into_iter().map(|socket| serve(socket, is_over.clone())).collect();
        Ok(Self { _contender: contender, target, servers, is_over, samples: Samples::default() })
    }

    /// One round: a datagram of every flow, then all the answers, again and again.
    ///
    /// Its flows are others than those of the rounds before: how many of them a server has decides how often it is woken, and is not
    /// to be the same draw of luck in all of them.
    pub(crate) fn round(&mut self, number: usize) -> Result<()> {
        let client = Ipv4Addr::new(127, 0, 1 + (number / 250) as u8, 1 + (number % 250) as u8);
        let clients = flow_clients::connect(client.into(), self.target, FLOWS)?;
        clients.iter().try_for_each(|(socket, _)| socket.set_read_timeout(Some(ANSWER)))?;
        let (began, mut answered) = (Instant::now(), 0);
        let mut answer = [0; 128];
        while began.elapsed() < ROUND {
            for (socket, packet) in &clients {
                socket.send(packet)?;
            }
            for (socket, packet) in &clients {
                let length = socket.recv(&mut answer)?;
                ensure!(answer[..length] == packet[..], "another's answer");
            }
            answered += clients.len();
        }
        self.samples.push(answered as f64 / began.elapsed().as_secs_f64());
        Ok(())
    }
}

fn serve(socket: UdpSocket, is_over: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut datagram = [0; 128];
        while !is_over.load(Relaxed) {
            if let Ok((length, client)) = socket.recv_from(&mut datagram) {
                // Whose client is gone, it is told with the next.
                let _ = socket.send_to(&datagram[..length], client);
            }
        }
    })
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        self.servers.drain(..).for_each(|server| drop(server.join()));
    }
}
