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
    sockets::procfs,
    units::{Manager, Unit, UnitError, UnitName, is_template},
};

use super::{find::FoundUnit, given_up};

/// How long a server's own restart may take, where nobody says otherwise.
const RESTARTS_WITHIN: Duration = Duration::from_secs(120);

impl Daemon {
    /// The unit of this name.
    pub(super) async fn find_unit(&self, name: &str) -> Result<FoundUnit, Fault> {
        let found = async {
            let (manager, name) = (Manager::connect().await?, UnitName::complete(name)?);
            let units = match name.is_template() {
                true => manager.instances(name.as_str()).await?,
                false => vec![manager.find(name.as_str()).await?],
            };
            Ok((name, units))
        };
        let (name, units) = found.await.map_err(|error: UnitError| fault(&error))?;
        let triggered_by = units.iter().flat_map(Unit::sockets).map(str::to_owned).collect();
        // An alias is another name of its unit.
        let name = match name.is_template() {
            true => name.to_string(),
            false => units.first().map(|unit| unit.name.clone()).unwrap_or_default(),
        };
        let control_groups = units.into_iter().filter_map(|unit| unit.control_group).collect();
        Ok(FoundUnit { name, control_groups, triggered_by })
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
                let restarted = async {
                    let manager = Manager::connect().await?;
                    let instances = match is_template(&unit) {
                        true => manager.instances(&unit).await?.into_iter().map(|it| it.name).collect(),
                        false => vec![unit],
                    };
                    // One after another: the others serve meanwhile.
                    for unit in instances {
                        manager.reload_or_restart(&unit, limit).await?;
                    }
                    Ok(())
                };
                restarted.await.map_err(|error: UnitError| fault(&error))?;
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

impl Daemon {
    /// The workers of a group whose processes are a unit's.
    pub(in crate::daemon) async fn workers_of(
        &self,
        group: &GroupName,
        unit: String,
    ) -> Result<Vec<u32>, Fault> {
        let workers = self.view(group).await?.engine.workers();
        let pids: Vec<(u32, u32)> = workers.iter().filter_map(|it| Some((it.index, it.pid?))).collect();
        let is_units = |pid: u32, unit: &str| {
            procfs::cgroup_of(pid).is_some_and(|path| path.split('/').any(|part| part == unit))
        };
        let (name, reading) = (unit.clone(), &self.inner.threads.reading);
        let found =
            move || pids.into_iter().filter(|(_, pid)| is_units(*pid, &name)).map(|(it, _)| it).collect();
        let workers: Vec<u32> = reading.run(found).await.map_err(given_up)?;
        if workers.is_empty() {
            let fault = Fault::new(FaultKind::NoSuch, format!("no worker of {group} is a process of {unit}"));
            return Err(
                fault.with_hint(format!("`steer status {group}` lists the workers with their processes"))
            );
        }
        Ok(workers)
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
