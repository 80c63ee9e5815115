//! Threads that close descriptors, so that nobody else waits for a close.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use socket2::SockRef;
use tokio::sync::Notify;

/// How many senders can keep a thread each before the others' descriptors have to wait.
const THREADS: usize = 4;

/// Descriptors of one sender that wait to be closed; with as many, its socket is not read until there are fewer. One message brings
/// up to 253 more (SCM_MAX_FD).
const WAITING_MAX: usize = 256;

/// Closes descriptors on threads of its own, made when it is started. Cheap to clone.
///
/// Each [`Sender`]'s descriptors are closed in order, by one thread at a time: a descriptor whose close waits keeps one thread and
/// the rest of its sender's, and nobody else's. The threads end with the last handle and what was still to be closed by then.
#[derive(Debug, Clone)]
pub struct Closer(Arc<Handles>);

/// Counts the handles: the threads hold what is shared, and must not keep themselves going.
#[derive(Debug)]
struct Handles(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queues: Mutex<Queues>,
    /// A sender has come to have something, or the threads are to end.
    changed: Condvar,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Queues {
    /// Senders whose descriptors wait for a thread.
    ready: VecDeque<u64>,
    /// Of each sender that has any, those not yet closed; also of one that a thread is at.
    waiting: BTreeMap<u64, (VecDeque<OwnedFd>, Arc<Outstanding>)>,
    is_over: bool,
}

/// How many of a sender's descriptors are not closed yet.
#[derive(Debug, Default)]
struct Outstanding {
    count: Mutex<usize>,
    fewer: Notify,
}

/// One peer, or one socket that many peers write to: what it passes is bounded apart from all others'.
#[derive(Debug)]
pub struct Sender {
    closer: Closer,
    number: u64,
    outstanding: Arc<Outstanding>,
}

/// A duplicate of a socket that is closed by the [`Closer`] after all others, with what was passed to it and never read.
///
/// In a struct, declare it after what holds the socket itself: fields are dropped in that order.
#[derive(Debug)]
pub struct ClosedElsewhere {
    sender: Sender,
    duplicate: Option<OwnedFd>,
    is_connection: bool,
}

impl Closer {
    /// Starts the threads. Fails where the system lets none be made.
    pub fn start() -> io::Result<Self> {
        let closer = Self(Arc::new(Handles(Arc::default())));
        for _ in 0..THREADS {
            let shared = closer.0.0.clone();
            thread::Builder::new().name("closer".to_owned()).spawn(move || shared.work())?;
        }
        Ok(closer)
    }

    /// For the descriptors of one more sender.
    pub fn sender(&self) -> Sender {
        let number = self.0.0.next.fetch_add(1, Relaxed);
        Sender { closer: self.clone(), number, outstanding: Arc::default() }
    }
}

impl Sender {
    /// Has the descriptors closed, in their order. Never waits; [`Self::is_full`] tells when to read no more.
    pub fn close(&self, descriptors: Vec<OwnedFd>) {
        descriptors.iter().for_each(take_linger);
        self.close_as_they_are(descriptors);
    }

    pub(super) fn close_as_they_are(&self, descriptors: Vec<OwnedFd>) {
        if descriptors.is_empty() {
            return;
        }
        *lock(&self.outstanding.count) += descriptors.len();
        let shared = &self.closer.0.0;
        let mut queues = lock(&shared.queues);
        match queues.waiting.get_mut(&self.number) {
            Some((waiting, _)) => waiting.extend(descriptors),
            None => {
                let outstanding = self.outstanding.clone();
                queues.waiting.insert(self.number, (descriptors.into(), outstanding));
                queues.ready.push_back(self.number);
                shared.changed.notify_one();
            }
        }
    }

    /// Whether so many are left to close that no more should be read.
    pub fn is_full(&self) -> bool {
        *lock(&self.outstanding.count) >= WAITING_MAX
    }

    /// Whether all are closed.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        *lock(&self.outstanding.count) == 0
    }

    /// Returns once so few of the sender's descriptors are left to close that more may be read. Can be dropped and called again.
    pub async fn has_room(&self) {
        loop {
            let fewer = self.outstanding.fewer.notified();
            if !self.is_full() {
                return;
            }
            fewer.await;
        }
    }
}

impl ClosedElsewhere {
    /// Keeps a duplicate of the socket, a descriptor more.
    pub fn new(socket: impl AsFd, sender: Sender) -> io::Result<Self> {
        let duplicate = Some(socket.as_fd().try_clone_to_owned()?);
        Ok(Self { sender, duplicate, is_connection: false })
    }

    /// The same of a connection, whose peer is to see its end at once, however long the close takes.
    pub fn of_connection(socket: impl AsFd, sender: Sender) -> io::Result<Self> {
        let mut last = Self::new(socket, sender)?;
        last.is_connection = true;
        Ok(last)
    }

    /// Who passes what is read from the socket.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }
}

impl Drop for ClosedElsewhere {
    fn drop(&mut self) {
        let Some(duplicate) = self.duplicate.take() else { return };
        if self.is_connection {
            // An error says that it has none any more.
            let _ = rustix::net::shutdown(&duplicate, rustix::net::Shutdown::Both);
        }
        self.sender.close(vec![duplicate]);
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        lock(&self.0.queues).is_over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        let mut queues = lock(&self.queues);
        loop {
            let Some(number) = queues.ready.pop_front() else {
                if queues.is_over {
                    return;
                }
                queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some((waiting, outstanding)) = queues.waiting.get_mut(&number) else { continue };
            let (batch, outstanding) = (std::mem::take(waiting), outstanding.clone());
            drop(queues);
            for descriptor in batch {
                drop(descriptor);
                *lock(&outstanding.count) -= 1;
                outstanding.fewer.notify_waiters();
            }
            queues = lock(&self.queues);
            if queues.waiting.get(&number).is_some_and(|(waiting, _)| !waiting.is_empty()) {
                queues.ready.push_back(number);
            } else {
                queues.waiting.remove(&number);
            }
        }
    }
}

/// Makes the close of a socket that lingers take no time, unless its sender, who may still have it, undoes that.
fn take_linger(descriptor: &OwnedFd) {
    // Not to be had of what is no socket, or of none that lingers.
    let _ = SockRef::from(descriptor).set_linger(None);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
