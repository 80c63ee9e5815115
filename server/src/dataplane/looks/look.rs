//! One look at the queues of all watched listeners.

use server_common::looks::{QueueCell, TCP_LISTEN};

use super::watched::{Transport, Watched};

/// The state of a bound UDP socket that is not connected.
const UNCONNECTED: u32 = 7;

/// What the kernel had at one listener, exactly, whatever was half-open elsewhere.
///
/// A handshake that ends leaves the half-open before it is among the unaccepted. For an instant it is in neither: two looks in a
/// row that find nothing prove that there is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queue {
    /// Whether it takes what is new: a TCP socket that listens, a UDP socket that is not connected. What a listener that was closed
    /// still has is seen, without this, for as long as half-open handshakes of it live.
    pub listens: bool,
    /// Handshakes whose final ACK has not come, those of TCP_DEFER_ACCEPT among them: their clients have said nothing yet. Not those
    /// of Fast Open, whose connections are unaccepted or open already.
    pub half_open: u32,
    /// Connections that no process has accepted.
    pub unaccepted: u32,
    /// What waits in a UDP socket's queue: datagrams, where GRO has not put several into one.
    pub datagrams: u32,
}

/// What one look has found. A value of its own: later looks do not change it.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Looks are numbered from 1 on; 0 is none.
    pub(super) number: u64,
    pub(super) cells: Vec<QueueCell>,
}

impl Look {
    /// What it has found at a listener; `None` where the kernel had no such socket any more: the last descriptor is closed, and no
    /// half-open handshake is left. Also `None` of a handle that is newer than the look, see [`covers`](Self::covers).
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

    /// Whether the listener was watched when the look began. If not, the look says nothing of it.
    pub fn covers(&self, watched: &Watched) -> bool {
        self.number > watched.since()
    }
}
