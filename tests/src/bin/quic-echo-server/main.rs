//! A QUIC server on quinn for the tests, as a worker or by itself. Each connection's state is in this process alone, so that a
//! packet that reaches another process is of no use there.

mod connection_ids;
mod echo;
mod endpoint;

use std::{env, net::SocketAddr, process};

use anyhow::{Context, Result};
use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

/// Echo what comes on bidirectional streams, after a line of who answers: WORKER GENERATION PID COUNT, the last being which of
/// its connection's streams it is.
///
/// With SIGTERM no connection is taken any more, and the end comes with the last one's.
#[derive(Debug, Parser)]
struct Arguments {
    /// Bind here with SO_REUSEPORT, where no sockets are inherited (LISTEN_FDS)
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let identity = identity();
    // Before anybody is told that this works.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let (stop, stopping) = watch::channel(false);
    let mut serving = JoinSet::new();
    for endpoint in endpoint::open(&arguments.listen, connection_ids::from_environment()?)? {
        serving.spawn(echo::serve(endpoint, identity.clone(), stopping.clone()));
    }
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).context("cannot tell that this worker is ready")?;
    terminate.recv().await;
    stop.send_replace(true);
    while let Some(ended) = serving.join_next().await {
        ended.context("an endpoint has not ended by itself")?;
    }
    Ok(())
}

/// The line's first words. Nobody's worker is `-`, generation 0.
fn identity() -> String {
    let variable = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    format!("{} {} {}", variable("STEER_WORKER", "-"), variable("STEER_GENERATION", "0"), process::id())
}
