//! Where a group's generations come from.

use crate::daemon::settings::{GroupSettings, Mode};

/// Who starts a generation, and who makes its listeners. Everything after that is the same for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The daemon makes the listeners and passes them to the process that it starts.
    Inherit,
    /// The process that the daemon starts binds its listeners itself; the daemon looks for them and takes them in.
    Own {
        /// How many at each address.
        sockets: u32,
    },
}

impl Origin {
    pub(crate) fn of(settings: &GroupSettings) -> Self {
        match settings.mode {
            Mode::Inherit => Self::Inherit,
            Mode::Own => Self::Own { sockets: settings.sockets },
        }
    }

    /// Whether the processes bind their listeners themselves.
    pub(crate) fn binds(self) -> bool {
        matches!(self, Self::Own { .. })
    }

    /// How many sockets a worker is to have at each address.
    pub(crate) fn sockets(self) -> u32 {
        match self {
            Self::Inherit => 1,
            Self::Own { sockets } => sockets,
        }
    }
}
