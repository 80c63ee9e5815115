//! The result of one look at all watched listeners.

use server_common::looks::{QueueCell, TCP_LISTEN};

use super::watched::{Transport, Watched};

/// The state of a bound UDP socket that is not connected.
const UNCONNECTED: u32 = 7;

/// The kernel's counts of one listener's queues.
///
/// A handshake that ends leaves `half_open` shortly before it enters `unaccepted`, and may be in neither for an
/// instant. A listener is proven empty by two consecutive looks that find nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queue {
    /// Whether the socket takes new flows: a TCP socket that listens, or a UDP socket that is not connected. A closed
    /// listener is still seen, as not listening, while it has half-open handshakes.
    pub listens: bool,
    /// Handshakes that wait for the final ACK, or for data under TCP_DEFER_ACCEPT. Fast Open connections are not
    /// among them: they are unaccepted or open already.
    pub half_open: u32,
    /// Connections in the accept queue.
    pub unaccepted: u32,
    /// Unread datagrams of a UDP socket. Datagrams that GRO has merged count as one.
    pub datagrams: u32,
}

/// The queues of all watched listeners at one look. A copy: later looks do not change it.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Numbers start at 1; 0 is an empty look.
    pub(super) number: u64,
    pub(super) cells: Vec<QueueCell>,
}

impl Look {
    /// The queues of a listener. `None` if the kernel no longer has the socket: its last descriptor is closed and it
    /// has no half-open handshakes. Also `None` if the handle is newer than the look; check [`covers`](Self::covers)
    /// first where that can be.
    pub fn of(&self, watched: &Watched) -> Option<Queue> {
        let key = watched.key();
        let cell = self.cells.get(key.index as usize)?;
        if cell.look != self.number || cell.generation != key.generation {
            return None;
        }
        Some(Queue {
            listens: match watched.transport() {
                Transport::Tcp => cell.state == u32::from(TCP_LISTEN),
                Transport::Udp => cell.state == UNCONNECTED,
            },
            half_open: cell.half_open,
            unaccepted: cell.unaccepted,
            datagrams: cell.datagrams,
        })
    }

    /// Whether the listener was watched before the look. If not, the look says nothing about it.
    pub fn covers(&self, watched: &Watched) -> bool {
        self.number > watched.since()
    }
}
