//! Has systemd do something with a unit, and waits for what comes of it.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;
use zbus::{MessageStream, OwnedObjectPath};

use super::{Manager, UnitError, signals};

/// The result of a job that did what it was for.
const DONE: &str = "done";

impl Manager {
    /// Has the unit with this full name reload, or restart if it cannot, as `systemctl reload-or-restart` does, and waits for the end of
    /// that job: `limit` at most, after which it goes on without being waited for. A service that starts slowly takes as long as
    /// its `TimeoutStartSec=` and `TimeoutStopSec=` allow.
    pub async fn reload_or_restart(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let connection = self.connection().await?;
        // First, so that the end of a short job is not missed.
        let mut ended = connection.signals(signals::job_removed(unit)?).await?;
        // As systemctl does: what is queued for the unit and contradicts it is replaced.
        let job: OwnedObjectPath =
            connection.call_manager("ReloadOrRestartUnit", &(unit, "replace")).await.map_err(|error| {
                if error.is("NoSuchUnit") { UnitError::NotFound(unit.to_owned()) } else { error }
            })?;
        let result = timeout(limit, result_of(&mut ended, &job)).await;
        let result = result.map_err(|_| UnitError::JobGoesOn { name: unit.to_owned(), limit })??;
        if result == DONE { Ok(()) } else { Err(UnitError::Job { name: unit.to_owned(), result }) }
    }
}

/// Waits for the end of this job.
async fn result_of(ended: &mut MessageStream, job: &OwnedObjectPath) -> Result<String, UnitError> {
    while let Some(Ok(signal)) = ended.next().await {
        let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
            signal.body().deserialize().map_err(|source| UnitError::Call { call: "JobRemoved", source })?;
        if path == *job {
            return Ok(result);
        }
    }
    Err(UnitError::Lost)
}
