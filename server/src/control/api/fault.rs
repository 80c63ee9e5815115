//! Why a request failed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::INTERFACE;

/// Why a request failed. Its kind decides the exit code of the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What sort of failure.
    pub kind: FaultKind,
    /// Operation, object and both values, in one line.
    pub message: String,
    /// The way out.
    #[serde(default)]
    pub hint: Option<String>,
}

/// The sorts of failure; each is a varlink error `io.steer.Control.` and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// It did not work. Exit 1.
    Failed,
    /// The request is malformed. Exit 2.
    Usage,
    /// There is no such group or worker. Exit 4.
    NoSuch,
    /// Refused: a conflict, or not allowed. Exit 5.
    Refused,
    /// Its deadline came first. Exit 6.
    TimedOut,
    /// The configuration is wrong: the message has each error with its line, and its hints. Exit 78.
    Misconfigured,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Failed, Self::Usage, Self::NoSuch, Self::Refused, Self::TimedOut, Self::Misconfigured];

    /// The name of its varlink error, without [`INTERFACE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "Failed",
            Self::Usage => "Usage",
            Self::NoSuch => "NoSuch",
            Self::Refused => "Refused",
            Self::TimedOut => "TimedOut",
            Self::Misconfigured => "Misconfigured",
        }
    }

    /// The kind that a varlink error's full name stands for.
    pub fn from_error_name(error: &str) -> Option<Self> {
        let name = error.strip_prefix(INTERFACE)?.strip_prefix('.')?;
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Fault {
    /// A fault without a way out.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same fault with a way out.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// So that a fault can be carried, unchanged, by any error up to the edge that prints it.
impl std::error::Error for Fault {}
