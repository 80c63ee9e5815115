//! Log messages: to stderr, as text or JSON, by RUST_LOG.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::values::LogFormat;

/// Starts logging at `level` (`info`, `warn`), or at what RUST_LOG says. Call it once.
pub(super) fn start(level: &str, format: LogFormat) {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(wanted) if !wanted.trim().is_empty() => EnvFilter::builder().parse_lossy(wanted),
        _ => EnvFilter::new(level),
    };
    let colour = super::output::colour_wanted() && io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
