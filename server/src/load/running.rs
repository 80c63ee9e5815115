//! A load that runs in threads of its own.

use std::{
    sync::Arc,
    thread::{Builder, JoinHandle},
};

use super::{LoadError, Plan, Probe, Tally, run};

/// Load threads at work. Dropping it tells them to stop and does not wait; [`Running::join`] waits.
#[derive(Debug)]
pub struct Running {
    probe: Arc<Probe>,
    threads: Vec<JoinHandle<Result<Tally, LoadError>>>,
}

/// Half a load would be taken for the whole: what ends one thread, a panic too, ends all.
struct StopOnFailure<'a> {
    probe: &'a Probe,
    failed: bool,
}

impl Running {
    /// Starts one thread per plan, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If a thread cannot be started; those that were are told to stop.
    pub fn start(plans: Vec<Plan>) -> Result<Self, LoadError> {
        let mut running = Self { probe: Arc::new(Probe::default()), threads: Vec::new() };
        for (index, plan) in plans.into_iter().enumerate() {
            let probe = Arc::clone(&running.probe);
            let thread = Builder::new()
                .name(format!("load-{index}"))
                .spawn(move || {
                    let mut guard = StopOnFailure { probe: &probe, failed: true };
                    let result = run(&plan, &probe);
                    guard.failed = result.is_err();
                    result
                })
                .map_err(LoadError::Thread)?;
            running.threads.push(thread);
        }
        Ok(running)
    }

    /// What the threads share: live counts, and the stop.
    pub fn probe(&self) -> &Arc<Probe> {
        &self.probe
    }

    /// Whether every thread has ended, so that [`join`](Self::join) does not block.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the end that the plans set, or [`Probe::stop`], and adds the parts up. After a stop it takes
    /// the plans' timeout at the longest.
    ///
    /// # Errors
    /// The first error of a thread. It has ended the other threads too.
    pub fn join(mut self) -> Result<Tally, LoadError> {
        let mut sum = Tally::new();
        let mut first_error = None;
        for thread in std::mem::take(&mut self.threads) {
            match thread.join().unwrap_or(Err(LoadError::Panicked)) {
                Ok(part) => sum.merge(&part),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(sum), Err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.probe.stop();
    }
}

impl Drop for StopOnFailure<'_> {
    fn drop(&mut self) {
        if self.failed {
            self.probe.stop();
        }
    }
}
