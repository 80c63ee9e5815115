//! Open connections, counted for those who ask: no more often than the daemon can spare.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::{
    control::api::{Fault, FaultKind},
    group::{Connections, QueueLooks, View},
    names::GroupName,
    sockets::processes::Processes,
    threads::Pool,
};

/// A count serves for this many times as long as it took: however many ask, counting takes a tenth of one CPU's time at most.
const SPARED: u32 = 9;

/// What was counted last, by group. One counts at a time; who asks meanwhile waits and shares what is found.
#[derive(Debug)]
pub(super) struct Readings {
    looks: Option<Arc<QueueLooks>>,
    reading: Pool,
    kept: Mutex<BTreeMap<GroupName, Kept>>,
}

#[derive(Debug)]
struct Kept {
    connections: Arc<Connections>,
    until: Instant,
}

/// One count, and how long it took.
type Counted = (GroupName, Result<Connections, Fault>, Duration);

impl Readings {
    pub(super) fn new(looks: Option<Arc<QueueLooks>>, reading: Pool) -> Self {
        Self { looks, reading, kept: Mutex::default() }
    }

    /// How queues are looked at.
    pub(super) fn looks(&self) -> Option<&QueueLooks> {
        self.looks.as_deref()
    }

    /// The open connections of each of these groups, of now or of a moment ago.
    pub(super) async fn connections(&self, views: &[Arc<View>]) -> Result<Vec<Arc<Connections>>, Fault> {
        let mut kept = self.kept.lock().await;
        let now = Instant::now();
        let is_known = |view: &Arc<View>| kept.get(&view.settings.name).is_some_and(|kept| now < kept.until);
        let unknown: Vec<Arc<View>> = views.iter().filter(|view| !is_known(view)).cloned().collect();
        if !unknown.is_empty() {
            let looks = self.looks.clone();
            let counting = self.reading.run(move || count(&unknown, looks.as_deref()));
            let counted = counting.await.map_err(|error| Fault::new(FaultKind::Failed, error.to_string()))?;
            for (name, connections, took) in counted {
                let until = Instant::now() + took * SPARED;
                kept.insert(name, Kept { connections: Arc::new(connections?), until });
            }
        }
        let of = |view: &Arc<View>| kept.get(&view.settings.name).map(|kept| kept.connections.clone());
        Ok(views.iter().map(|view| of(view).unwrap_or_default()).collect())
    }

    /// Forgets a group that has ended.
    pub(super) async fn forget(&self, group: &GroupName) {
        self.kept.lock().await.remove(group);
    }
}

fn count(views: &[Arc<View>], looks: Option<&QueueLooks>) -> Vec<Counted> {
    let began = Instant::now();
    let processes = Processes::now();
    let walk = began.elapsed();
    let count = |view: &Arc<View>| {
        let began = Instant::now();
        let connections = view.count_connections(looks, &processes);
        (view.settings.name.clone(), connections, walk + began.elapsed())
    };
    views.iter().map(count).collect()
}
