//! Has lines written by a thread of their own: who logs never waits for who reads.

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    queue::{Queue, ROOM, Source},
    writer::write_all,
};

/// How soon a thread that could not be made is tried again.
const THREAD_RETRY: Duration = Duration::from_secs(1);

/// How soon it is tried again to tell of dropped lines where a write has failed and no line comes: at first, and at last.
const TELL_RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Makes a thread that runs this.
type MakeThread = fn(Box<dyn FnOnce() + Send>) -> io::Result<()>;

/// Lines on their way to a file. Clones are one. It lasts as long as the process: its thread is never told to end.
#[derive(Clone)]
pub struct Delivery(Arc<Inner>);

struct Inner {
    file: Box<dyn AsFd + Send + Sync>,
    tell: fn(u64) -> String,
    state: Mutex<State>,
    /// There is something to write.
    due: Condvar,
    /// Something was written, or was not.
    progress: Condvar,
    dropped: AtomicU64,
    make_thread: MakeThread,
    has_thread: AtomicBool,
    /// When it was tried last to make the thread.
    tried: Mutex<Option<Instant>>,
}

struct State {
    queue: Queue,
    /// How many lines are written, or known not to be.
    done: u64,
    /// Whether the last write has failed.
    is_failing: bool,
}

impl Delivery {
    /// Starts the thread that writes to `file`. Where it cannot be made now, it is tried again with later lines, which wait.
    ///
    /// `tell` makes a line of how many were dropped.
    pub(crate) fn start(file: impl AsFd + Send + Sync + 'static, tell: fn(u64) -> String) -> Self {
        Self::with(file, tell, |body| thread::Builder::new().name("log".to_owned()).spawn(body).map(drop))
    }

    fn with(
        file: impl AsFd + Send + Sync + 'static,
        tell: fn(u64) -> String,
        make_thread: MakeThread,
    ) -> Self {
        let state = State { queue: Queue::new(ROOM), done: 0, is_failing: false };
        let delivery = Self(Arc::new(Inner {
            file: Box::new(file),
            tell,
            state: Mutex::new(state),
            due: Condvar::new(),
            progress: Condvar::new(),
            dropped: AtomicU64::new(0),
            make_thread,
            has_thread: AtomicBool::new(false),
            tried: Mutex::new(None),
        }));
        delivery.require_thread();
        delivery
    }

    /// Takes a line in, with its end, or drops it where there is no room. Never waits, never fails.
    pub fn put(&self, source: Source, line: &[u8]) {
        self.require_thread();
        if !self.0.lock().queue.put(source, line) {
            self.0.dropped.fetch_add(1, Relaxed);
        }
        self.0.due.notify_one();
    }

    /// How many lines were dropped: for want of room, or because they could not be written.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Waits, but no longer than this, until every line so far is written or dropped, and the dropped are told of. Returns whether
    /// that is so.
    pub fn flush(&self, patience: Duration) -> bool {
        self.require_thread();
        let state = self.0.lock();
        let last = state.queue.accepted();
        let is_open = |state: &mut State| {
            state.done < last || (state.queue.has_gap() && state.queue.is_empty() && !state.is_failing)
        };
        let waited = self.0.progress.wait_timeout_while(state, patience, is_open);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn require_thread(&self) {
        if self.0.has_thread.load(Relaxed) {
            return;
        }
        // Another thread is at it.
        let Ok(mut tried) = self.0.tried.try_lock() else { return };
        let is_early = tried.is_some_and(|at| at.elapsed() < THREAD_RETRY);
        if is_early || self.0.has_thread.load(Relaxed) {
            return;
        }
        *tried = Some(Instant::now());
        let inner = Arc::clone(&self.0);
        let made = (self.0.make_thread)(Box::new(move || inner.run()));
        self.0.has_thread.store(made.is_ok(), Relaxed);
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Delivery").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that happens under the lock leaves the books half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut is_torn = false;
        let mut patience = TELL_RETRY[0];
        let mut state = self.lock();
        loop {
            state = self.until_due(state, &mut patience);
            let Some(chunk) = state.queue.take(self.tell) else { continue };
            drop(state);
            // After a line that was written in part: the next begins at a line's begin.
            let mended = if is_torn { write_all(&*self.file, b"\n").map_err(|_| 0) } else { Ok(()) };
            let written = mended.and_then(|()| {
                is_torn = false;
                write_all(&*self.file, &chunk.bytes).map_err(|(written, _)| written)
            });
            state = self.lock();
            state.is_failing = written.is_err();
            match written {
                Ok(()) => patience = TELL_RETRY[0],
                Err(written) => {
                    is_torn |= written > 0 && chunk.bytes[written - 1] != b'\n';
                    self.dropped.fetch_add(state.queue.not_written(&chunk, written), Relaxed);
                }
            }
            state.done = state.queue.taken();
            self.progress.notify_all();
        }
    }

    /// Waits until there is a line, or dropped ones to tell of: that at once where the file has not failed, else after a while.
    fn until_due<'a>(&self, state: MutexGuard<'a, State>, patience: &mut Duration) -> MutexGuard<'a, State> {
        let is_idle =
            |state: &mut State| state.queue.is_empty() && (state.is_failing || !state.queue.has_gap());
        if !(state.is_failing && state.queue.has_gap()) {
            return self.due.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner);
        }
        let (state, waited) =
            self.due.wait_timeout_while(state, *patience, is_idle).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            *patience = (*patience * 2).min(TELL_RETRY[1]);
        }
        state
    }
}

#[cfg(test)]
mod tests;
