//! Answers scrapes: gathers what all groups have published, no more often than the daemon can spare.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Mutex, task::JoinHandle};

use crate::{
    control::api::GroupStatus,
    metrics::{
        self, Limits, MetricsAddress, MetricsListener, Snapshot, Source, kernel::KernelCounters, render,
        usage::Usage,
    },
    names::GroupName,
};

use super::registry::Daemon;

/// What was gathered serves for this many times as long as it took: however many scrape, and however often, gathering takes
/// a tenth of the daemon's time at most.
const SPARED: u32 = 9;

/// How long the groups' loop may take until its turn comes, before they are said not to answer.
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

/// Serves metrics in a task of its own, which ends with the runtime.
pub(super) fn start(listener: MetricsListener, daemon: Daemon) -> JoinHandle<()> {
    match listener.address() {
        MetricsAddress::Tcp(address) => tracing::info!("metrics at http://{address}/metrics"),
        unix => tracing::info!("metrics at {unix}"),
    }
    tokio::spawn(metrics::serve(Limits::default(), listener, daemon))
}

impl Daemon {
    async fn gather(&self) -> Result<String, String> {
        let began = Instant::now();
        let views = self.views();
        let statuses = self.statuses(&views).await;
        if let Err(fault) = &statuses {
            tracing::debug!("there are no numbers for a scrape: {}", fault.message);
        }
        let mut known: BTreeMap<GroupName, GroupStatus> =
            statuses.unwrap_or_default().into_iter().map(|status| (status.name.clone(), status)).collect();
        let of = |name: GroupName| {
            let status = known.remove(&name).filter(|_| self.how_ended(&name).is_none());
            (name, status)
        };
        let groups = self.names().into_iter().map(of).collect();
        let (program, started) = (self.inner.program, self.inner.started);
        let rendered = self.inner.threads.reading.run(move || {
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
        match self.is_alive(PATIENCE).await {
            true => Vec::new(),
            false => self.names().iter().map(is_silent).collect(),
        }
    }

    async fn unready(&self) -> Vec<String> {
        let mut reasons = self.ailing().await;
        for name in self.names() {
            match self.view(&name).await {
                Ok(view) => reasons.extend(view.unready()),
                Err(fault) => reasons.push(fault.message),
            }
        }
        reasons
    }
}

fn is_silent(name: &GroupName) -> String {
    format!("the group {name} has not answered within {PATIENCE:?}")
}
