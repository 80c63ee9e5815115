//! Answers scrapes: gathers what all groups know, no more often than the daemon can spare.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::timeout_at,
};

use crate::{
    metrics::{
        self, Limits, MetricsAddress, MetricsListener, Snapshot, Source, kernel::KernelCounters, render,
        usage::Usage,
    },
    names::GroupName,
    sockets::procfs::Processes,
};

use super::{actor::Message, controller::Daemon};

/// What was gathered serves for this many times as long as it took: however many scrape, and however often, gathering takes
/// a tenth of the daemon's time at most.
const SPARED: u32 = 9;

/// How long a group's loop may take to answer a question that needs nothing else, before it is said not to.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was gathered last. One scrape gathers at a time; those that come meanwhile wait and share what it finds.
#[derive(Debug, Default)]
pub(super) struct Scrapes {
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    exposition: Arc<str>,
    until: Instant,
}

/// What a group's loop says of its readiness.
enum Heard {
    Ready,
    Unready(String),
    /// It has ended.
    Ended,
    /// Nothing, for too long.
    Silent,
}

/// Serves metrics in a task of its own, which ends with the runtime.
pub(super) fn start(listener: MetricsListener, daemon: Daemon) -> JoinHandle<()> {
    match listener.address() {
        MetricsAddress::Tcp(address) => tracing::info!("metrics at http://{address}/metrics"),
        unix => tracing::info!("metrics at {unix}"),
    }
    tokio::spawn(metrics::serve(Limits::default(), listener, daemon))
}

impl Daemon {
    /// A look at all processes, which takes a while on a host of many: not in the loop that groups share.
    pub(super) async fn processes() -> Arc<Processes> {
        // A look that panics has found none.
        Arc::new(spawn_blocking(Processes::now).await.unwrap_or_default())
    }

    async fn gather(&self) -> Result<String, String> {
        let began = Instant::now();
        let processes = Self::processes().await;
        let mut groups = Vec::new();
        // One after another, so that other work comes in between.
        for name in self.names() {
            let processes = Arc::clone(&processes);
            let status = self.ask(&name, |answer| Message::Status { processes, answer }).await;
            if let Err(fault) = &status {
                tracing::debug!("{name} has no numbers for a scrape: {}", fault.message);
            }
            groups.push((name, status.ok()));
        }
        let (program, started) = (self.inner.program, self.inner.started);
        let rendered = spawn_blocking(move || {
            let (kernel, usage) = (KernelCounters::read(), Usage::now());
            let (version, took) = (env!("CARGO_PKG_VERSION"), began.elapsed());
            let log_lines_dropped = crate::log::dropped();
            render(Snapshot { version, program, started, took, log_lines_dropped, groups, kernel, usage })
        });
        match rendered.await {
            Ok(Ok(exposition)) => Ok(exposition),
            Ok(Err(error)) => Err(format!("the metrics cannot be written: {error}")),
            Err(error) => Err(format!("the metrics cannot be written: {error}")),
        }
    }

    /// What each group says of its readiness.
    async fn hear(&self) -> Vec<(GroupName, Heard)> {
        let asked: Vec<_> = self
            .names()
            .into_iter()
            .map(|name| {
                let (sender, answer) = oneshot::channel();
                // One that has ended drops the question, which the answer's end tells of.
                if let Ok(group) = self.group(&name) {
                    let _ = group.send(Message::Readiness(sender));
                }
                (name, answer)
            })
            .collect();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        for (name, answer) in asked {
            let said = match timeout_at(deadline, answer).await {
                Ok(Ok(None)) => Heard::Ready,
                Ok(Ok(Some(reason))) => Heard::Unready(reason),
                Ok(Err(_)) => Heard::Ended,
                Err(_) => Heard::Silent,
            };
            heard.push((name, said));
        }
        heard
    }
}

impl Source for Daemon {
    async fn exposition(&self) -> Result<Arc<str>, String> {
        let mut kept = self.inner.scrapes.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| Instant::now() < kept.until) {
            return Ok(Arc::clone(&kept.exposition));
        }
        let began = Instant::now();
        let exposition: Arc<str> = self.gather().await?.into();
        let ended = Instant::now();
        let until = ended + (ended - began) * SPARED;
        *kept = Some(Kept { exposition: Arc::clone(&exposition), until });
        Ok(exposition)
    }

    async fn ailing(&self) -> Vec<String> {
        let silent =
            |(name, heard): (GroupName, Heard)| matches!(heard, Heard::Silent).then(|| is_silent(&name));
        self.hear().await.into_iter().filter_map(silent).collect()
    }

    async fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for (name, heard) in self.hear().await {
            match heard {
                Heard::Ready => {}
                Heard::Unready(reason) => reasons.push(reason),
                Heard::Ended => reasons.push(self.why_ended(&name).await.message),
                Heard::Silent => reasons.push(is_silent(&name)),
            }
        }
        reasons
    }
}

fn is_silent(name: &GroupName) -> String {
    format!("the group {name} has not answered within {PATIENCE:?}")
}
