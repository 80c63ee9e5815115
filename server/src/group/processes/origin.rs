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
        }
    }

    /// Whether processes may bind their listeners themselves.
    pub(crate) fn binds(self) -> bool {
        self != Self::Inherit
    }

    /// Whether processes are passed listeners.
    pub(crate) fn passes(self) -> bool {
        self != Self::Own
    }

    /// What is known of a generation that begins.
    pub(crate) fn serves(self) -> Serves {
        match self {
            Self::Inherit => Serves::Passed,
            Self::Own => Serves::Own,
            Self::Auto => Serves::Unknown,
        }
    }
}
