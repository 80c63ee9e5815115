//! The sample worker's datagrams: echoed with its names in front, and enough of a protocol to see a flow go astray.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::SocketAddr,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use tokio::{io::Interest, net::UdpSocket, sync::watch};

use super::{
    answer::Identity,
    packet_info::{receive, send},
};

/// The largest datagram that there is, and the most that one carries over IPv4.
const DATAGRAM_MAX: usize = 65_535;
const PAYLOAD_MAX: usize = DATAGRAM_MAX - 28;

/// How long a session is kept without a datagram.
const SESSION: Duration = Duration::from_secs(600);

/// A datagram that begins with this byte opens a session here, as a handshake would.
const OPEN: u8 = b'+';
/// A datagram that begins with this byte belongs to a session: without one it is answered with an error.
const WITHIN: u8 = b'=';

/// Who has opened a session, and when a datagram of it came last.
#[derive(Debug, Default)]
pub(super) struct Sessions(HashMap<SocketAddr, Instant>);

impl Sessions {
    /// Whether a datagram is answered as it should be: of a flow that is not known here, one within a session is not.
    fn knows(&mut self, client: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        match datagram.first() {
            Some(&OPEN) => {
                if self.0.len().is_power_of_two() {
                    self.0.retain(|_, seen| now.duration_since(*seen) < SESSION);
                }
                self.0.insert(client, now);
                true
            }
            Some(&WITHIN) => self.0.get_mut(&client).map(|seen| *seen = now).is_some(),
            _ => true,
        }
    }
}

/// Answers every datagram until draining begins and none is left: `web/0 3 4711 ok` (or `unknown-flow`), a newline, and what
/// came.
pub(super) async fn echo(socket: UdpSocket, identity: Identity, mut draining: watch::Receiver<bool>) {
    let mut sessions = Sessions::default();
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut is_ending = false;
    while !is_ending {
        is_ending = tokio::select! {
            readable = socket.readable() => readable.is_err(),
            // Its sender lives for as long as the worker, so there is no error.
            _ = draining.wait_for(|draining| *draining) => true,
        };
        loop {
            let received = socket.try_io(Interest::READABLE, || receive(socket.as_fd(), &mut buffer));
            match received {
                Ok((length, client, mut local)) => {
                    let datagram = &buffer[..length];
                    let knows = sessions.knows(client, datagram, Instant::now());
                    let mut answer = identity.line(if knows { "ok" } else { "unknown-flow" });
                    answer.extend_from_slice(datagram);
                    // What there is no room for beside the names is left out.
                    answer.truncate(PAYLOAD_MAX);
                    // Whoever is gone gets nothing, and whose queue is full gets it no later.
                    let _ = send(socket.as_fd(), &answer, client, &mut local);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // An error of a datagram that was sent before, as ICMP tells it.
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_open_session_is_known() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let [client, other]: [SocketAddr; 2] = ["10.0.0.1:5".parse().unwrap(), "10.0.0.1:6".parse().unwrap()];
        assert!(sessions.knows(client, b"plain", now) && sessions.knows(client, b"", now));
        assert!(!sessions.knows(client, b"=1", now));
        assert!(sessions.knows(client, b"+", now) && sessions.knows(client, b"=1", now));
        assert!(!sessions.knows(other, b"=1", now));
        assert!(sessions.knows(other, b"+", now + 2 * SESSION));
        assert_eq!(sessions.0.len(), 1, "who was silent for so long is forgotten");
    }
}
