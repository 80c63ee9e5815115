//! Why something could not be learned from systemd, or done by it.

use std::{io, path::PathBuf, time::Duration};

use thiserror::Error;

/// A unit that cannot be used, or a systemd that does not do what it was asked for.
#[derive(Debug, Error)]
pub enum UnitError {
    /// There is no system bus, or no systemd on it.
    #[error("cannot reach systemd by D-Bus")]
    Unreachable {
        /// What came of it.
        #[source]
        source: zbus::Error,
    },
    /// No answer in time.
    #[error("systemd has not answered {call} within {limit:?}")]
    TimedOut {
        /// The D-Bus method.
        call: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The call failed, or its answer was not understood.
    #[error("systemd has refused {call}")]
    Call {
        /// The D-Bus method.
        call: &'static str,
        /// The answer.
        #[source]
        source: zbus::Error,
    },
    /// The connection ended before what was waited for had come.
    #[error("the connection to systemd ended")]
    Lost,
    /// No unit can have this name.
    #[error("{0:?} is no unit name")]
    Name(String),
    /// A unit, but not one that has processes of a server.
    #[error("{0} is no service")]
    NotService(String),
    /// A template, of which only instances run.
    #[error("{0} is a template: it has instances and no processes of its own")]
    Template(String),
    /// There is no such unit.
    #[error("there is no unit {0}")]
    NotFound(String),
    /// The unit is masked.
    #[error("{0} is masked: it cannot be started")]
    Masked(String),
    /// The unit's files are wrong.
    #[error("systemd cannot load {name}: its load state is {load_state}")]
    NotLoaded {
        /// The unit.
        name: String,
        /// `bad-setting`, `error` and so on.
        load_state: String,
    },
    /// A job of the unit has ended without success.
    #[error("the job of {name} ended with the result {result}")]
    Job {
        /// The unit.
        name: String,
        /// As systemd has it: `failed`, `timeout`, `canceled`, `dependency` and so on.
        result: String,
    },
    /// A job of the unit was not waited for any longer.
    #[error("the job of {name} has not ended within {limit:?}; it goes on")]
    JobGoesOn {
        /// The unit.
        name: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The drop-in could not be written, read or removed.
    #[error("cannot {operation} {}", path.display())]
    DropIn {
        /// `write`, `read`, `remove`.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl UnitError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some(
                "units need systemd and the system bus (the package dbus); without them name the server by its address or pid",
            ),
            Self::TimedOut { .. } => Some("systemd is overloaded or hangs: does `systemctl status` answer?"),
            Self::Call { source: zbus::Error::FDO(error), .. } if is_denied(error) => {
                Some("changing units needs root")
            }
            Self::Name(_) => Some("a unit's name is like nginx.service or app@1.service"),
            Self::NotService(_) => {
                Some("name the .service that serves; `systemctl list-units --type=service` lists them")
            }
            Self::Template(_) => Some("name an instance, for example app@1.service"),
            Self::NotFound(_) => {
                Some("`systemctl list-units --type=service` lists the units that are loaded")
            }
            Self::Masked(_) => Some("`systemctl unmask` makes it startable"),
            Self::NotLoaded { .. } => {
                Some("`systemctl status` and `systemd-analyze verify` say what is wrong in its files")
            }
            Self::JobGoesOn { .. } => {
                Some("`systemctl list-jobs` shows it, `systemctl status` what it waits for")
            }
            Self::Job { .. } => Some("`systemctl status` and `journalctl --unit` say why"),
            Self::DropIn { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("changing units needs root")
            }
            Self::Call { .. } | Self::Lost | Self::DropIn { .. } => None,
        }
    }

    /// Whether systemd has answered with this error of its own, `NoSuchUnit` for example.
    pub(super) fn is(&self, name: &str) -> bool {
        let Self::Call { source: zbus::Error::MethodError(found, ..), .. } = self else { return false };
        found.strip_prefix("org.freedesktop.systemd1.") == Some(name)
    }
}

fn is_denied(error: &zbus::fdo::Error) -> bool {
    use zbus::fdo::Error;
    matches!(
        error,
        Error::AccessDenied(_) | Error::AuthFailed(_) | Error::InteractiveAuthorizationRequired(_)
    )
}
