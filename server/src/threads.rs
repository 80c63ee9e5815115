//! Threads for work that can block, made when the daemon starts.
//!
//! No loop of the daemon waits: whatever asks a disk, a process, `/proc`, netlink or the kernel's grace period is a job of a [`Pool`].
//! The threads are made once, so that nothing fails later for want of one (`pids.max`, RLIMIT_NPROC); queues are bounded,
//! and handing a job in never waits.

use std::{
    any::Any,
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use tokio::sync::oneshot;

/// Jobs that wait in one pool; with more the daemon is so far behind that the next is better tried again.
const ROOM: usize = 16 * 1024;

/// A thread could not be made.
#[derive(Debug, Error)]
#[error("cannot start the thread {name}")]
pub struct ThreadError {
    name: &'static str,
    #[source]
    source: io::Error,
}

impl ThreadError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        "the limit of processes is reached: see TasksMax=, pids.max and RLIMIT_NPROC"
    }
}

/// A job that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JobError {
    /// As many jobs wait as there is room for.
    #[error("{0} has no room for more work")]
    Full(&'static str),
    /// The job has panicked, a fault of this program.
    #[error("{0} has given a job up, a fault of this program")]
    Panicked(&'static str),
}

type Job = Box<dyn FnOnce() + Send>;

/// Some threads and the jobs that wait for them, taken in order. Clones are one; the threads end with the last of them, after
/// the jobs that wait.
#[derive(Clone)]
pub struct Pool {
    handle: Arc<Handle>,
}

struct Handle {
    name: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.handle.name).finish_non_exhaustive()
    }
}

impl Pool {
    /// Makes the threads, all named `name` (15 bytes at most, as the kernel has it).
    pub fn start(name: &'static str, threads: usize) -> Result<Self, ThreadError> {
        let shared = Arc::new(Shared { queue: Mutex::default(), changed: Condvar::new() });
        // Before the first thread, so that those that are made end where a later one cannot be.
        let pool = Self { handle: Arc::new(Handle { name, shared: shared.clone() }) };
        for _ in 0..threads {
            let shared = shared.clone();
            start(name, move || shared.work(name))?;
        }
        Ok(pool)
    }

    /// Hands a job in. It never waits; a job that panics ends alone.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), JobError> {
        let mut queue = self.handle.shared.lock();
        if queue.jobs.len() >= ROOM {
            return Err(JobError::Full(self.handle.name));
        }
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        self.handle.shared.changed.notify_one();
        Ok(())
    }

    /// Hands a job in and waits, as a future does, for what it returns. Dropping the future does not stop the job.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let (sender, result) = oneshot::channel();
        self.submit(move || drop(sender.send(job())))?;
        result.await.map_err(|_| JobError::Panicked(self.handle.name))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No job runs under the lock, so the queue is whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, name: &'static str) {
        while let Some(job) = self.next() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                tracing::error!("a job of {name} panicked, a fault of this program: {}", message_of(&*panic));
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.is_closed {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts a thread that ends by itself.
pub fn start(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), ThreadError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop).map_err(|source| ThreadError { name, source })
}

/// What a panic said.
pub fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}

/// The daemon's pools, one for each thing that can block by itself: what hangs in one does not delay another.
#[derive(Debug, Clone)]
pub struct Threads {
    /// Publishes tables and cells: each job waits for an RCU grace period of some 10 ms, and several at once share one.
    pub publishing: Pool,
    /// Forks workers.
    pub spawning: Pool,
    /// Reaps and kills processes, and looks into `/proc` for what they hold.
    pub processes: Pool,
    /// Writes records.
    pub records: Pool,
    /// Talks to the keeper.
    pub keeping: Pool,
    /// Reads what people ask for: connections, configurations, and groups that are being opened.
    pub reading: Pool,
}

impl Threads {
    /// Makes them all, or none.
    pub fn start() -> Result<Self, ThreadError> {
        Ok(Self {
            publishing: Pool::start("publishing", 8)?,
            spawning: Pool::start("spawning", 1)?,
            processes: Pool::start("processes", 2)?,
            records: Pool::start("records", 1)?,
            keeping: Pool::start("keeping", 1)?,
            reading: Pool::start("reading", 2)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn jobs_run_in_order_and_a_panic_ends_one_alone() {
        let pool = Pool::start("test", 1).unwrap();
        let (sender, done) = mpsc::channel();
        for number in 0..3 {
            let sender = sender.clone();
            pool.submit(move || sender.send(number).unwrap()).unwrap();
        }
        let panicked = pool.run(|| -> u8 { panic!("on purpose") }).await;
        assert_eq!(panicked, Err(JobError::Panicked("test")));
        assert_eq!(pool.run(|| 7).await, Ok(7));
        assert_eq!(done.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_full_queue_refuses_and_waits_for_nobody() {
        let pool = Pool::start("test", 1).unwrap();
        let (gate, opened) = mpsc::channel::<()>();
        pool.submit(move || opened.iter().for_each(drop)).unwrap();
        // The first may have been taken by its thread already.
        let refused = (0..=ROOM).map(|_| pool.submit(|| {})).find(Result::is_err);
        assert_eq!(refused, Some(Err(JobError::Full("test"))));
        drop(gate);
    }

    #[test]
    fn the_threads_end_with_the_last_clone_after_what_waits() {
        let pool = Pool::start("test", 2).unwrap();
        let (sender, done) = mpsc::channel();
        for number in 0..10 {
            let sender = sender.clone();
            pool.submit(move || sender.send(number).unwrap()).unwrap();
        }
        drop((pool, sender));
        assert_eq!(done.iter().count(), 10);
    }
}
