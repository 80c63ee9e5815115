//! Log messages: to stderr, by RUST_LOG.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts logging at `level` (`info`, `warn`), or at what RUST_LOG says. Call it once.
pub(super) fn start(level: &str) {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(wanted) if !wanted.trim().is_empty() => EnvFilter::builder().parse_lossy(wanted),
        _ => EnvFilter::new(level),
    };
    let colour = super::output::colour_wanted() && io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour).init();
}
