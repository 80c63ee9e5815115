//! Units of systemd, as adoption needs them.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    control::api::{Done, Fault, FaultKind, Response},
    daemon::{
        clock::millis,
        describe::describe,
        registry::Daemon,
        settings::{AdoptSettings, Server},
    },
    engine::event::Millis,
    names::GroupName,
    units::{Manager, UnitError},
};

use super::find::FoundUnit;

/// How long a server's own restart may take, where nobody says otherwise.
const RESTARTS_WITHIN: Duration = Duration::from_secs(120);

impl Daemon {
    /// The unit of this name.
    pub(super) async fn find_unit(&self, name: &str) -> Result<FoundUnit, Fault> {
        let found = async { Manager::connect().await?.find(name).await };
        let unit = found.await.map_err(|error| fault(&error))?;
        let triggered_by = unit.sockets().map(str::to_owned).collect();
        Ok(FoundUnit { name: unit.name, control_group: unit.control_group, triggered_by })
    }
}

impl Daemon {
    /// Restarts a server by its own means: a unit's reload or restart, or the command that is configured.
    pub(in crate::daemon) async fn restart_adopted(
        &self,
        group: &GroupName,
        adopted: AdoptSettings,
        worker: Option<u32>,
        timeout: Option<Millis>,
    ) -> Result<Response, Fault> {
        let began = Instant::now();
        let refused =
            |message: String, hint: &str| Err(Fault::new(FaultKind::Refused, message).with_hint(hint));
        if let Some(index) = worker {
            let message =
                format!("cannot restart {group}/{index}: its server is adopted, and is restarted whole");
            return refused(message, &format!("write steer restart {group}"));
        }
        let limit = timeout.map_or(RESTARTS_WITHIN, Duration::from_millis);
        match (adopted.restart, adopted.server) {
            (Some(command), _) => run(&command, limit).await?,
            (None, Server::Unit(unit)) => {
                let restarted = async { Manager::connect().await?.reload_or_restart(&unit, limit).await };
                restarted.await.map_err(|error| fault(&error))?;
            }
            (None, _) => {
                let message = format!(
                    "cannot restart {group}: its server is adopted, and nothing says what restarts it"
                );
                return refused(message, "write restart = [\"PROGRAM\", \"ARGUMENT\"] into [group.adopt]");
            }
        }
        self.journal().add("restarted", group, None, None, "its server, by its own means".to_owned());
        Ok(Response::Done(Done { answers: 0, milliseconds: millis(began.elapsed()) }))
    }
}

/// Runs a command to its end.
async fn run(command: &[String], limit: Duration) -> Result<(), Fault> {
    let failed = |why: String| Fault::new(FaultKind::Failed, format!("cannot restart by {command:?}: {why}"));
    let Some((program, arguments)) = command.split_first() else {
        return Err(failed("it is empty".to_owned()));
    };
    let mut child = tokio::process::Command::new(program);
    let running = child.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    match tokio::time::timeout(limit, running).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(format!("{}: {}", output.status, said.lines().last().unwrap_or_default())))
        }
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("it has not ended within {limit:?}"))),
    }
}

/// Why a unit cannot be adopted, for a client.
pub(super) fn fault(error: &UnitError) -> Fault {
    let kind = match error {
        UnitError::NotFound(_) => FaultKind::NoSuch,
        _ => FaultKind::Failed,
    };
    Fault { kind, message: describe(error), hint: error.hint().map(str::to_owned) }
}
