//! Reads ahead in the queue of the notification socket: what was read stays there until it is taken out.

use std::{collections::VecDeque, io, os::fd::AsFd as _, sync::Arc, time::Duration};

use tokio::io::Interest;

use super::{Notification, NotifyError, NotifySocket, understand};
use crate::sockets::{
    options,
    passed::{self, Received},
};

/// Longer datagrams are ignored, in bytes; `systemd` has the same bound.
pub(super) const DATAGRAM_MAX: usize = 4096;

/// How many datagrams are read without a pause.
const BATCH: u32 = 16;

/// The pause after them: a thousand workers that are started together are heard within a second.
const PAUSE: Duration = Duration::from_millis(10);

/// The one reader of a notification socket.
///
/// What it reads it leaves in the queue, also when this process is killed: a duplicate of the socket that is kept elsewhere has the same
/// queue.
#[derive(Debug)]
pub struct NotifyReader {
    socket: Arc<NotifySocket>,
    /// The lengths of the datagrams that were peeked and are in the queue, first come first.
    ahead: VecDeque<usize>,
    /// How many were peeked, ever.
    peeked: u32,
}

impl NotifyReader {
    /// Begins at the head of the queue.
    pub fn new(socket: Arc<NotifySocket>) -> Self {
        Self { socket, ahead: VecDeque::new(), peeked: 0 }
    }

    /// The next datagram that was not peeked yet: a notification, or nothing where it says nothing that we act on. Cancelling loses
    /// nothing. Each has to be [taken](Self::take) in its turn.
    ///
    /// Every process that reaches the path may write there, and whose it is has to be read from `/proc`: so only so many datagrams
    /// are read in a time, and who writes more waits, or finds the queue full.
    pub async fn peek(&mut self) -> Result<Option<Notification>, NotifyError> {
        if self.peeked % BATCH == BATCH - 1 {
            tokio::time::sleep(PAUSE).await;
        }
        let socket = &self.socket.socket;
        let offset: usize = self.ahead.iter().sum();
        let mut bytes = vec![0; DATAGRAM_MAX];
        let peek = || {
            // Each time: the kernel moves it by what a read had room for, and the socket may be one that another daemon has read.
            options::set_peek_offset(socket, offset)?;
            passed::peek(socket.as_fd(), &mut bytes)
        };
        let found = socket.async_io(Interest::READABLE, peek).await;
        let Received { length, is_cut, sender, .. } =
            found.map_err(|source| self.socket.unreadable(source))?;
        self.ahead.push_back(length);
        self.peeked = self.peeked.wrapping_add(1);
        bytes.truncate(length);
        // A sender in a pid namespace that cannot be seen from here has pid 0.
        let sender = sender.filter(|sender| sender.pid > 0 && !is_cut);
        Ok(sender.and_then(|sender| understand(&bytes, sender.pid.unsigned_abs(), sender.uid)))
    }

    /// Takes the first of those that were peeked out of the queue.
    ///
    /// Only now are the descriptors closed that came along: `systemd-notify` waits for that with BARRIER=1, so as to live until it is
    /// known whose child it is.
    pub async fn take(&mut self) -> Result<(), NotifyError> {
        let Some(wanted) = self.ahead.pop_front() else { return Ok(()) };
        loop {
            let closer = self.socket.last.sender();
            closer.has_room().await;
            match passed::take(&self.socket.socket) {
                Ok(Received { length, descriptors, .. }) => {
                    closer.close(descriptors);
                    // A peek passes over an empty one that an earlier daemon has peeked.
                    if length > 0 || wanted == 0 {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(source) => return Err(self.socket.unreadable(source)),
            }
        }
    }
}
