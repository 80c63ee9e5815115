//! The worker that is built in: an HTTP/1.1 server that names itself in each answer, drains on SIGTERM, and can be
//! told to misbehave. The demo, the benchmarks and the tests run it; it is also an example of what a worker does.

mod answer;
mod datagrams;
mod listeners;
mod load;
mod options;
mod packet_info;
mod serve;

use std::{
    convert::Infallible,
    future::Future,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit};
use server_common::load::Cell;
use tokio::{
    net::{TcpListener, UdpSocket},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::dataplane::shared_array::SharedArray;

pub use self::options::SampleOptions;
use self::{answer::Identity, serve::Shared};

/// How long the process that `--fork-holder` leaves behind lives.
const HOLDER_LIFE: Duration = Duration::from_secs(30);

/// Runs the sample worker to its end: until SIGTERM, and then until its last connection ends. Builds its own
/// runtime, so it must not be called in one.
pub fn run_with(options: SampleOptions) -> anyhow::Result<()> {
    anyhow::ensure!(!options.exit_at_once, "told to exit at once");
    raise_descriptor_limit();
    if let Some(milliseconds) = options.start_delay {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
    let served = listeners::take_or_bind(&options.listen)?;
    let load = load::take()?.filter(|_| !options.silent);
    if options.fork_holder {
        fork_holder();
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    runtime.block_on(async {
        let watched = |result: std::io::Result<_>| result.context("cannot watch the listeners");
        let listeners = watched(served.listeners.into_iter().map(TcpListener::from_std).collect())?;
        let sockets: std::io::Result<Vec<_>> = served.sockets.into_iter().map(UdpSocket::from_std).collect();
        let sockets = sockets.context("cannot watch the datagram sockets")?;
        let told_to_stop = stop_signal(options.ignore_term)?;
        serve_until(listeners, sockets, Identity::of_environment(), &options, load, told_to_stop).await;
        Ok(())
    })
}

/// Serves until `told_to_stop`, then accepts what is queued, lets every connection end, and returns.
async fn serve_until(
    listeners: Vec<TcpListener>,
    sockets: Vec<UdpSocket>,
    identity: Identity,
    options: &SampleOptions,
    load: Option<SharedArray<Cell>>,
    told_to_stop: impl Future<Output = ()>,
) {
    let (drain, draining) = watch::channel(false);
    // Each connection has a sender; when the last is gone so are the connections.
    let (open, mut all_ended) = mpsc::channel::<Infallible>(1);
    let mut accepting = JoinSet::new();
    for socket in sockets.into_iter().filter(|_| !options.no_accept) {
        accepting.spawn(datagrams::echo(socket, identity.clone(), draining.clone()));
    }
    let shared = Shared::new(identity, draining);
    // With --no-accept they stay open and nothing looks at them.
    let mut idle = Vec::new();
    for listener in listeners {
        if options.no_accept {
            idle.push(listener);
        } else {
            let close_after = options.close_listener_after.map(Duration::from_millis);
            accepting.spawn(serve::accept(listener, shared.clone(), open.clone(), close_after));
        }
    }
    if let Some(memory) = load {
        tokio::spawn(load::publish(memory, open.downgrade(), accepting.len()));
    }
    drop(open);
    if !options.never_ready
        && let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready])
    {
        // Whatever stderr is connected to, the worker serves.
        let _ = writeln!(io::stderr(), "cannot tell that this worker is ready: {error}");
    }
    told_to_stop.await;
    drain.send_replace(true);
    while accepting.join_next().await.is_some() {}
    drop(idle);
    while all_ended.recv().await.is_some() {}
}

/// Ends with the first SIGTERM or SIGINT; never where these are to be ignored.
fn stop_signal(ignore: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if !ignore {
                break;
            }
        }
    })
}

/// A connection is a descriptor: as many as are allowed.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // The soft limit can always be raised to the hard one; where not, fewer connections fit.
    let _ = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
}

/// Leaves a child behind that holds the listeners and nothing else of a worker.
fn fork_holder() {
    // SAFETY: before the runtime is made, this process has one thread, so the child may do anything; it only waits.
    if unsafe { libc::fork() } == 0 {
        std::thread::sleep(HOLDER_LIFE);
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests;
