//! How long a handover of an idle worker takes beyond the worker's own start, and where the time goes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use steer::control::{
    api::{Event, Receipt, Request, Response},
    client::Client,
};
use steer_tests::{netns::Namespace, steer::Steer};

use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

/// Hands one worker over again and again.
pub(crate) fn run(namespace: &Namespace, quick: bool) -> Result<Report> {
    let rounds = if quick { 3 } else { 100 };
    let steer = Steer::run(namespace, &["--listen", "127.0.0.1:8080", "--workers", "4"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = Report::new(
        "handover",
        "milliseconds",
        format!(
            "`restart` of one idle worker of four, {rounds} times; its start is from its process to its READY=1"
        ),
    );
    runtime.block_on(async {
        let mut client = Client::connect(&steer.socket()).await?;
        let [mut whole, mut start, mut beyond, mut publish] = [(); 4].map(|()| Samples::default());
        for _ in 0..rounds {
            let mut receipts: Vec<Receipt> = Vec::new();
            let began = Instant::now();
            let restart =
                Request::Restart { group: "web".parse()?, worker: Some(0), timeout_ms: None, canary: None };
            client
                .call(restart, |answer| {
                    if let Response::Receipt(receipt) = answer {
                        receipts.push(receipt);
                    }
                })
                .await?;
            let took = began.elapsed().as_secs_f64() * 1000.0;
            ensure!(receipts.len() == 1, "{} receipts of one handover", receipts.len());
            let own =
                own_start(&mut client, receipts[0].successor.context("a handover has a successor")?).await?;
            whole.push(took);
            start.push(own);
            beyond.push(took - own);
            let step = receipts[0].steps.iter().find(|step| step.name == "publish");
            publish.push(step.context("a drain begins with a table")?.milliseconds as f64);
        }
        report.add(Row::new("beyond the worker's start", &beyond).with_aim(Aim::at_most(
            "the median beyond the worker's start",
            beyond.median(),
            100.0,
        )));
        report.add(Row::new("the worker's own start", &start));
        report.add(Row::new("the whole command", &whole));
        report.add(Row::new("  of it: table and grace period", &publish));
        anyhow::Ok(())
    })?;
    Ok(report)
}

/// From the start of worker 0's generation to the moment that it was ready, which is when its predecessor begins to drain.
async fn own_start(client: &mut Client, generation: u64) -> Result<f64> {
    let mut events: Vec<Event> = Vec::new();
    let all = Request::Events { group: None, since: 0, follow: false };
    client
        .call(all, |answer| {
            if let Response::Event(event) = answer {
                events.push(event);
            }
        })
        .await?;
    let of = |kind: &str, number: u64| {
        let is_it = |event: &&Event| {
            event.kind == kind
                && event.generation == Some(number)
                && event.worker.as_ref().is_some_and(|worker| worker.index == 0)
        };
        events.iter().find(is_it).map(|event| event.unix_ms)
    };
    let started = of("started", generation).context("a generation that works was started")?;
    let ready = of("draining", generation - 1).context("its predecessor drains")?;
    Ok(ready.saturating_sub(started) as f64)
}
