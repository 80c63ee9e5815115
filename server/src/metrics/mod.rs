//! Metrics: what the daemon counts, in the text format of OpenMetrics, and whether it is well, over HTTP.
//!
//! [`snapshot`] is what is known at one look, [`exposition`] makes text of it, [`answer`] decides what a request gets; all
//! three are pure. [`listener`] and [`server`] serve it on a loopback address or a unix socket; [`kernel`] and [`usage`] read
//! `/proc`. The daemon stands behind [`Source`].

pub mod address;
mod answer;
mod daemon_families;
mod exposition;
mod group_families;
pub mod kernel;
pub mod listener;
pub mod server;
pub mod snapshot;
pub mod usage;
mod worker_families;

use std::{future::Future, sync::Arc};

pub use self::{
    address::{MetricsAddress, MetricsAddressError},
    exposition::render,
    listener::{MetricsListener, MetricsListenerError},
    server::{Limits, serve},
    snapshot::Snapshot,
};

/// The media type of what [`render`] writes. Prometheus understands it since 2.5.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the numbers come from: the daemon.
///
/// Calls of several scrapers overlap; dropping one's future stops nothing that others wait for.
pub trait Source: Clone + Send + Sync + 'static {
    /// The exposition, of now or of a moment ago; an error, for people, where it cannot be had.
    fn exposition(&self) -> impl Future<Output = Result<Arc<str>, String>> + Send;

    /// Which groups' loops do not answer; none where all do.
    fn ailing(&self) -> impl Future<Output = Vec<String>> + Send;

    /// Why new connections may not reach a worker, a reason for each group that is not ready; none where all are.
    fn unready(&self) -> impl Future<Output = Vec<String>> + Send;
}

#[cfg(test)]
mod tests;
