//! One flow of a crowd: its datagrams, and what an answer says.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use super::WORKERS;

/// A datagram: what it is, which one of the flow, and the rest.
const LENGTH: usize = 48;
const OPEN: u8 = b'+';
const WITHIN: u8 = b'=';

/// Who has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) worker: usize,
    pub(super) generation: u64,
    pub(super) pid: u32,
}

/// An answer to the last datagram of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) owner: Owner,
    /// Whether its process knows the session.
    pub(super) knows: bool,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) socket: UdpSocket,
    /// The number of its target.
    pub(super) target: usize,
    /// Who has answered it; nobody before the first answer.
    pub(super) owner: Option<Owner>,
    /// The last generation of each worker that was known to get first datagrams when this one's was sent.
    pub(super) newest: [u64; WORKERS],
    pub(super) is_waiting: bool,
    pub(super) left: Option<u32>,
    sent: Option<Instant>,
    number: u32,
}

impl Flow {
    pub(super) fn new(socket: UdpSocket, target: usize, left: Option<u32>) -> Self {
        Self {
            socket,
            target,
            owner: None,
            newest: [0; WORKERS],
            is_waiting: false,
            left,
            sent: None,
            number: 0,
        }
    }

    /// How long ago its last datagram was sent.
    pub(super) fn silent(&self, now: Instant) -> Duration {
        self.sent.map_or(Duration::ZERO, |sent| now.duration_since(sent))
    }

    pub(super) fn send(&mut self, now: Instant) -> std::io::Result<()> {
        self.number += 1;
        self.sent = Some(now);
        self.socket.send(&self.datagram())?;
        self.is_waiting = true;
        Ok(())
    }

    fn datagram(&self) -> [u8; LENGTH] {
        let mut datagram = [b'.'; LENGTH];
        datagram[0] = if self.owner.is_some() { WITHIN } else { OPEN };
        datagram[1..5].copy_from_slice(&self.number.to_ne_bytes());
        datagram
    }

    /// The answer to the last datagram, if this is it: `web/0 3 4711 ok`, a newline, and what was sent.
    pub(super) fn understand(&self, answer: &[u8]) -> Option<Answer> {
        let end = answer.iter().position(|byte| *byte == b'\n')?;
        if answer[end + 1..] != self.datagram() {
            return None;
        }
        let line = std::str::from_utf8(&answer[..end]).ok()?;
        let mut words = line.split(' ');
        let worker = words.next()?.split('/').nth(1)?.parse().ok()?;
        let owner =
            Owner { worker, generation: words.next()?.parse().ok()?, pid: words.next()?.parse().ok()? };
        Some(Answer { owner, knows: words.next()? == "ok" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_last_datagram_counts() {
        let mut flow = Flow::new(UdpSocket::bind("127.0.0.1:0").unwrap(), 0, None);
        flow.number = 7;
        let answer = |first: &[u8], flow: &Flow| [first, &flow.datagram()].concat();
        let owner = Owner { worker: 3, generation: 12, pid: 4711 };
        let opened = answer(b"web/3 12 4711 ok\n", &flow);
        assert_eq!(flow.understand(&opened), Some(Answer { owner, knows: true }));
        flow.owner = Some(owner);
        assert_eq!(flow.understand(&opened), None, "it is within the session now");
        let astray = answer(b"web/3 12 4711 unknown-flow\n", &flow);
        assert_eq!(flow.understand(&astray), Some(Answer { owner, knows: false }));
        flow.number = 8;
        assert_eq!(flow.understand(&astray), None, "it is of the one before");
        assert_eq!(flow.understand(b"web/3 12"), None);
    }
}
