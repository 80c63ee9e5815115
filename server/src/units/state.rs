//! The state of a unit, and what it means for those who wait for its server.

use std::fmt;

/// What systemd says of a unit in one word, `ActiveState`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActiveState {
    /// It runs.
    Active,
    /// It runs and reads its configuration again.
    Reloading,
    /// It is being started. A service that waits for its automatic restart is too, with the sub-state `auto-restart`.
    Activating,
    /// It is being stopped, or has ended and its `ExecStop=` and `ExecStopPost=` run.
    Deactivating,
    /// It does not run.
    Inactive,
    /// It does not run, and not because it was told to end.
    Failed,
    /// It does not run, and `systemctl clean` is at its files.
    Maintenance,
    /// One that this program does not know.
    Other(String),
}

impl From<&str> for ActiveState {
    fn from(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            // systemd 257 and later, while it puts in place what the unit sees of the file system; the unit runs.
            "reloading" | "refreshing" => Self::Reloading,
            "activating" => Self::Activating,
            "deactivating" => Self::Deactivating,
            "inactive" => Self::Inactive,
            "failed" => Self::Failed,
            "maintenance" => Self::Maintenance,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for ActiveState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Reloading => "reloading",
            Self::Activating => "activating",
            Self::Deactivating => "deactivating",
            Self::Inactive => "inactive",
            Self::Failed => "failed",
            Self::Maintenance => "maintenance",
            Self::Other(other) => other,
        })
    }
}

/// What a watch tells of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// The state.
    pub active: ActiveState,
    /// The same in more detail, for messages: `running`, `auto-restart`, `stop-sigterm`.
    pub sub_state: String,
    /// Whether somebody has asked for a start, stop, restart or reload that is not done yet.
    pub has_job: bool,
    /// Its cgroup, as a path in the unified hierarchy, while it has one. Restarted it has another directory of the same name.
    pub control_group: Option<String>,
    /// Its main process; 0 where there is none.
    pub main_pid: u32,
}

impl UnitState {
    /// A unit that is not loaded: it does not run, and nobody has asked for it.
    pub(super) fn unloaded() -> Self {
        Self {
            active: ActiveState::Inactive,
            sub_state: "dead".to_owned(),
            has_job: false,
            control_group: None,
            main_pid: 0,
        }
    }
}

/// Whether the unit runs or will without anybody's doing: connections to it are worth being held.
///
/// `deactivating` is not decided yet, with a job or without one: a service with `Restart=` that has ended passes through it on its way
/// to `auto-restart` and has no job. In the end it is inactive or failed; if it has no job then, it stays so.
pub fn is_coming_back(state: &UnitState) -> bool {
    match state.active {
        ActiveState::Inactive | ActiveState::Failed | ActiveState::Maintenance => state.has_job,
        ActiveState::Active
        | ActiveState::Reloading
        | ActiveState::Activating
        | ActiveState::Deactivating
        // To hold too long costs less than to refuse what could have been served.
        | ActiveState::Other(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(active: &str, has_job: bool) -> UnitState {
        UnitState { active: active.into(), has_job, ..UnitState::unloaded() }
    }

    #[test]
    fn a_unit_is_gone_once_it_has_ended_and_has_no_job() {
        let comes_back = |active, has_job| is_coming_back(&state(active, has_job));
        for active in ["inactive", "failed", "maintenance"] {
            assert!(!comes_back(active, false), "{active}");
            // `systemctl restart` passes through `inactive`.
            assert!(comes_back(active, true), "{active}");
        }
        for active in ["active", "reloading", "refreshing", "activating", "deactivating", "unheard-of"] {
            assert!(comes_back(active, false), "{active}");
            assert!(comes_back(active, true), "{active}");
        }
        assert!(!is_coming_back(&UnitState::unloaded()));
    }
}
