//! Node's cluster: the first process listens, and passes connections on to its workers or shares the listener with them.

use rustix::process::Signal;

use super::plain;
use crate::{
    case::Case,
    changing::{Changing, Led, Step},
    site::Site,
};

const NEEDS: &[&str] = &["node"];
const WORKERS: usize = 2;

pub(super) const CASES: &[Case] = &[
    plain("Node cluster", "workers restart", NEEDS, |site| cluster(site, "SCHED_RR")),
    plain("Node cluster, shared", "workers restart", NEEDS, |site| cluster(site, "SCHED_NONE")),
];

/// At SIGUSR2 it starts other workers, and has the old ones end once those listen, as a deployment does.
const CLUSTER: &str = r#"
const cluster = require('cluster'), http = require('http');
const [policy, port, ...hosts] = process.argv.slice(2);
cluster.schedulingPolicy = cluster[policy];
if (cluster.isPrimary) {
  const start = () => new Promise((listens) => {
    const worker = cluster.fork();
    let left = hosts.length;
    worker.on('listening', () => { if (--left === 0) listens(); });
  });
  for (let i = 0; i < 2; i++) start();
  process.on('SIGUSR2', async () => {
    for (const old of Object.values(cluster.workers)) { await start(); old.disconnect(); }
  });
} else {
  for (const host of hosts) {
    http.createServer((_, answer) => { answer.setHeader('Connection', 'close'); answer.end('ok\n'); }).listen(+port, host);
  }
}
"#;

fn cluster(site: &Site, policy: &str) -> Box<dyn Changing> {
    site.write("cluster.js", CLUSTER);
    let hosts = site.each(" BARE");
    let line = site.first(&format!("node DIR/cluster.js {policy} PORT{hosts}"));
    Box::new(Led::start(site, &line, WORKERS, vec![Step::Renews(Signal::USR2, Some(WORKERS))]))
}
