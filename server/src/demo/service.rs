//! The one seam of the demo: what is done to workers, whoever manages them.

use super::error::DemoError;

/// Worker processes behind the demo's addresses. One call at a time; each returns when it is done: workers that
/// were started are ready, those that were stopped are gone.
pub(super) trait Service {
    /// Replaces one worker's process by a new one, as gracefully as the service can.
    async fn restart(&mut self, worker: u32) -> Result<(), DemoError>;

    /// Changes the number of workers; the last ones leave, gracefully.
    async fn scale(&mut self, workers: u32) -> Result<(), DemoError>;

    /// Kills one worker's process with SIGKILL, and waits until the worker is back.
    async fn kill(&mut self, worker: u32) -> Result<(), DemoError>;

    /// Ends the service and all of its processes.
    async fn stop(self) -> Result<(), DemoError>;
}
