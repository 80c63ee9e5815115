//! Why the demo could not run.

use std::{io, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::{load::LoadError, sockets::netns::NetnsError};

/// A part of the demo could not run. What the clients lose is no error: it is the result.
#[derive(Debug, Error)]
pub enum DemoError {
    /// The namespace that the demo runs in.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The load client itself.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A call without an object worth naming.
    #[error("cannot {operation}")]
    System {
        /// The call.
        operation: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// A call on a file or directory of the demo's own.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// The call.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// A process of the demo could not be started.
    #[error("cannot start {name}")]
    Start {
        /// The process.
        name: String,
        /// The error of fork or exec.
        source: io::Error,
    },
    /// A process of the demo ended by itself.
    #[error("{name} ended by itself: {status}{output}")]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: String,
        /// The last lines that it wrote, with a newline in front; empty if there are none.
        output: String,
    },
    /// A process of the demo did not do in time what it was asked.
    #[error("{name} is not {wanted} after {} s: {last}", waited.as_secs())]
    TooLate {
        /// The process.
        name: String,
        /// The state that was waited for.
        wanted: &'static str,
        /// How long.
        waited: Duration,
        /// The last state seen.
        last: String,
    },
    /// The daemon could not be asked, or refused.
    #[error("the daemon did not {request}: {message}")]
    Control {
        /// What was asked.
        request: String,
        /// Its answer, or what is wrong with the connection to it.
        message: String,
    },
    /// SIGINT, SIGTERM or SIGHUP came first.
    #[error("interrupted; everything that the demo had started is stopped")]
    Interrupted,
}

impl DemoError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Netns(error) => Some(error.hint()),
            Self::Ended { .. } | Self::TooLate { .. } | Self::Control { .. } => {
                Some("`steer check` says what this kernel and these privileges lack")
            }
            _ => None,
        }
    }
}
