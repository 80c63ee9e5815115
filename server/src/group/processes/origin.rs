//! Where a group's generations come from.

use crate::daemon::settings::{GroupSettings, Mode};

/// Who starts a generation, and who makes its listeners. Everything after that is the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The daemon makes the listeners and passes them to the process that it starts.
    Inherit,
    /// The process that the daemon starts binds its listeners itself; the daemon looks for them and takes them in.
    Own,
    /// Either: the daemon makes listeners and passes them, and looks for those that the process binds itself.
    Auto,
    /// Somebody else starts the processes; each of their listeners is a worker.
    Adopt,
}

/// Which listeners a generation serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// It has not shown yet.
    Unknown,
    /// Those that it was passed.
    Passed,
    /// Those that it has bound itself.
    Own,
}

impl Origin {
    pub(crate) fn of(settings: &GroupSettings) -> Self {
        match settings.mode {
            Mode::Inherit => Self::Inherit,
            Mode::Own => Self::Own,
            Mode::Auto => Self::Auto,
            Mode::Adopt => Self::Adopt,
        }
    }

    /// Whether processes may bind their listeners themselves.
    pub(crate) fn binds(self) -> bool {
        matches!(self, Self::Own | Self::Auto)
    }

    /// Whether processes are passed listeners.
    pub(crate) fn passes(self) -> bool {
        matches!(self, Self::Inherit | Self::Auto)
    }

    /// What is known of a generation that begins.
    pub(crate) fn serves(self) -> Serves {
        match self {
            Self::Inherit => Serves::Passed,
            Self::Own | Self::Adopt => Serves::Own,
            Self::Auto => Serves::Unknown,
        }
    }
}
