//! How a daemon tells of itself: metrics and log, for `run` and `daemon`.

use clap::{Args, ValueEnum};

use crate::{metrics::MetricsAddress, values::LogFormat};

/// What both take.
#[derive(Debug, Clone, Args)]
pub struct Reporting {
    /// Serve metrics, /healthz and /readyz over HTTP, at a loopback address (127.0.0.1:9464) or a unix socket (unix:PATH)
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<MetricsAddress>,
    /// How log messages, and what workers print, are written to stderr; RUST_LOG says which [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormatName>,
}

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatName {
    /// Lines for people
    Text,
    /// A JSON object on each line
    Json,
}

impl From<LogFormatName> for LogFormat {
    fn from(name: LogFormatName) -> Self {
        match name {
            LogFormatName::Text => Self::Text,
            LogFormatName::Json => Self::Json,
        }
    }
}
