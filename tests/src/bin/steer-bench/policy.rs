//! How long a change of policy takes, from the command to the first instant of the new one, and what thousands leave behind.

use std::time::Instant;

use anyhow::{Result, ensure};
use steer::{
    control::{
        api::{Request, Response},
        client::Client,
    },
    policy::Policy,
};
use steer_tests::{footprint::Footprint, netns::Namespace, steer::Steer};

use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

/// What is made once, on the way: buffers, the events that are remembered.
const WARM_UP: u32 = 256;
/// To and fro: each has another key, another rule or other loads to look at.
const POLICIES: [&str; 4] = ["source", "least-loaded", "hash", "cpu"];
/// How much more memory the daemon may have afterwards, in KiB.
const GROWTH: f64 = 1024.0;

/// Changes the policy again and again, through one connection to the control socket.
pub(crate) fn run(namespace: &Namespace, quick: bool) -> Result<Report> {
    let flips = if quick { 8 } else { 4_096 };
    let steer = Steer::run(namespace, &["--listen", "127.0.0.1:8080", "--workers", "4"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (took, before, after) = runtime.block_on(async {
        let mut client = Client::connect(&steer.socket()).await?;
        for number in 0..if quick { 4 } else { WARM_UP } {
            flip(&mut client, number).await?;
        }
        let before = Footprint::settled(steer.pid());
        let mut took = Samples::default();
        for number in 0..flips {
            let began = Instant::now();
            flip(&mut client, number).await?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let after = Footprint::settled(steer.pid());
        ensure!(after.counts() == before.counts(), "left behind: {before:?} before, {after:?} after");
        anyhow::Ok((took, before, after))
    })?;
    let [descriptors, maps, programs] = after.counts();
    let mut report = Report::new(
        "policy",
        "milliseconds",
        format!(
            "{flips} changes of policy in a row through the control socket, after {WARM_UP}; each is answered when the kernel's \
             grace period is over. Left behind, asserted: no descriptor more than {descriptors}, no map more than {maps}, no \
             program more than {programs}"
        ),
    );
    report.add(Row::new("from the command to the first instant", &took));
    let mut growth = Samples::default();
    growth.push(after.resident as f64 - before.resident as f64);
    let aim = Aim::at_most("the daemon's growth in KiB", growth.median(), GROWTH);
    report.add(Row::new("the daemon's memory, beyond what it was", &growth).in_unit("KiB").with_aim(aim));
    let mut memory = Samples::default();
    memory.push(after.resident as f64);
    report.add(Row::new("the daemon's memory", &memory).in_unit("KiB"));
    Ok(report)
}

async fn flip(client: &mut Client, number: u32) -> Result<()> {
    let policy: Policy = POLICIES[number as usize % POLICIES.len()].parse()?;
    let request = Request::SetPolicy { group: "web".parse()?, policy, dry_run: false, clients: Vec::new() };
    let answer = client.call(request, |_| ()).await?;
    let is_applied = matches!(&answer, Response::Change(change) if change.applied);
    ensure!(is_applied, "a change to {policy} was answered with {answer:?}");
    Ok(())
}
