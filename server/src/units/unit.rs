//! What systemd knows of a service.

use std::time::Duration;

use zbus::{OwnedObjectPath, OwnedVariant, Structure};

use super::{ActiveState, UnitError, connection::Properties};

/// A service as systemd has it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its full name; of a unit that was asked for by an alias, the name that it has itself.
    pub name: String,
    /// `loaded`; `not-found` or `masked` only while it runs nevertheless.
    pub load_state: String,
    /// The state.
    pub active: ActiveState,
    /// The same in more detail, `running` or `auto-restart`.
    pub sub_state: String,
    /// Its cgroup, as a path in the unified hierarchy; nothing where it does not run.
    pub control_group: Option<String>,
    /// Its main process; 0 where there is none.
    pub main_pid: u32,
    /// Whether somebody has asked for a start, stop, restart or reload that is not done yet.
    pub has_job: bool,
    /// The units that start it when something happens. Of a socket unit among them process 1 holds the listener, and a restart of the
    /// service loses nothing: there is nothing to adopt.
    pub triggered_by: Vec<String>,
    /// Whether it has an `ExecReload=`.
    pub can_reload: bool,
    /// `TimeoutStopSec=`, all of which an `ExecStop=` line may take; nothing where it has no end.
    pub stop_timeout: Option<Duration>,
    /// `User=`; nothing where it is root's, or where each start makes a user (`DynamicUser=`) without a name of its own.
    pub user: Option<String>,
}

impl Unit {
    /// The socket units that start it.
    pub fn sockets(&self) -> impl Iterator<Item = &str> {
        self.triggered_by.iter().map(String::as_str).filter(|name| name.ends_with(".socket"))
    }

    /// Reads it from the properties of every unit and those of services.
    pub(super) fn read(unit: Properties, service: Properties) -> Result<Self, UnitError> {
        let mut all = Reader(unit);
        all.0.extend(service);
        let stop_timeout: u64 = all.take("TimeoutStopUSec")?;
        Ok(Self {
            name: all.take("Id")?,
            load_state: all.take("LoadState")?,
            active: all.take::<String>("ActiveState")?.as_str().into(),
            sub_state: all.take("SubState")?,
            control_group: non_empty(all.take("ControlGroup")?),
            main_pid: all.take("MainPID")?,
            has_job: job_number(all.take("Job")?)? != 0,
            triggered_by: all.take("TriggeredBy")?,
            can_reload: all.take("CanReload")?,
            // systemd's infinity.
            stop_timeout: (stop_timeout != u64::MAX).then(|| Duration::from_micros(stop_timeout)),
            user: non_empty(all.take("User")?),
        })
    }

    /// The unit, unless there is nothing behind its name: one that runs is there, whatever became of its file since.
    pub(super) fn usable(self) -> Result<Self, UnitError> {
        let has_ended = matches!(self.active, ActiveState::Inactive | ActiveState::Failed) && !self.has_job;
        match self.load_state.as_str() {
            "loaded" => Ok(self),
            _ if !has_ended => Ok(self),
            "not-found" => Err(UnitError::NotFound(self.name)),
            "masked" => Err(UnitError::Masked(self.name)),
            _ => Err(UnitError::NotLoaded { name: self.name, load_state: self.load_state }),
        }
    }
}

pub(super) fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

struct Reader(Properties);

impl Reader {
    fn take<T: TryFrom<OwnedVariant, Error = zbus::Error>>(
        &mut self,
        name: &'static str,
    ) -> Result<T, UnitError> {
        let value = self.0.remove(name).ok_or(zbus::Error::MissingParameter(name));
        value.and_then(T::try_from).map_err(malformed)
    }
}

/// The number in `(number, path)`; 0 where there is no job.
fn job_number(job: Structure<'static>) -> Result<u32, UnitError> {
    <(u32, OwnedObjectPath)>::try_from(job).map(|(number, _)| number).map_err(malformed)
}

fn malformed(source: zbus::Error) -> UnitError {
    UnitError::Call { call: "GetAll", source }
}

#[cfg(test)]
mod tests {
    use zbus::{ObjectPath, Variant};

    use super::*;

    fn owned<'v>(value: impl Into<Variant<'v>>) -> OwnedVariant {
        OwnedVariant::try_from(value.into()).unwrap()
    }

    fn named<const N: usize>(all: [(&str, OwnedVariant); N]) -> Properties {
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn unit(load_state: &str, active: &str, job: u32) -> Properties {
        named([
            ("Id", owned("nginx.service")),
            ("LoadState", owned(load_state)),
            ("ActiveState", owned(active)),
            ("SubState", owned("running")),
            ("Job", owned((job, ObjectPath::try_from("/").unwrap()))),
            ("TriggeredBy", owned(vec!["nginx.socket", "nginx.timer"])),
            ("CanReload", owned(true)),
            ("Description", owned("not of interest")),
        ])
    }

    fn service(stop_timeout: u64) -> Properties {
        named([
            ("ControlGroup", owned("/system.slice/nginx.service")),
            ("MainPID", owned(7_u32)),
            ("TimeoutStopUSec", owned(stop_timeout)),
            ("User", owned("")),
        ])
    }

    fn read(load_state: &str, active: &str, job: u32) -> Result<Unit, UnitError> {
        Unit::read(unit(load_state, active, job), service(5_000_000)).unwrap().usable()
    }

    #[test]
    fn a_unit_is_read_from_its_properties() {
        let found = read("loaded", "active", 0).unwrap();
        assert_eq!(found.name, "nginx.service");
        assert_eq!((found.active.clone(), found.main_pid, found.has_job), (ActiveState::Active, 7, false));
        assert_eq!(found.control_group.as_deref(), Some("/system.slice/nginx.service"));
        assert_eq!(found.sockets().collect::<Vec<_>>(), ["nginx.socket"]);
        assert_eq!(found.stop_timeout, Some(Duration::from_secs(5)));
        assert_eq!(found.user, None);
        assert!(read("loaded", "active", 12).unwrap().has_job);
        let endless = Unit::read(unit("loaded", "active", 0), service(u64::MAX)).unwrap();
        assert_eq!(endless.stop_timeout, None);
    }

    #[test]
    fn a_property_that_is_missing_is_named() {
        let error = Unit::read(unit("loaded", "active", 0), Properties::new()).unwrap_err();
        let UnitError::Call { source: zbus::Error::MissingParameter(name), .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(name, "TimeoutStopUSec");
    }

    #[test]
    fn names_with_nothing_behind_them_are_errors_unless_something_runs() {
        let error = |load_state| read(load_state, "inactive", 0).unwrap_err().to_string();
        assert_eq!(error("not-found"), "there is no unit nginx.service");
        assert_eq!(error("masked"), "nginx.service is masked: it cannot be started");
        assert_eq!(error("bad-setting"), "systemd cannot load nginx.service: its load state is bad-setting");
        assert!(read("masked", "active", 0).is_ok());
        assert!(read("not-found", "deactivating", 0).is_ok());
        assert!(read("loaded", "failed", 0).is_ok());
    }
}
