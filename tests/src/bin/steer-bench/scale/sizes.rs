//! What groups and workers cost, by how many there are.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use steer::control::{
    api::{Request, Response, Status},
    client::{Client, ClientError},
};
use steer_tests::{
    cpu::Meter,
    footprint::Footprint,
    netns::Namespace,
    service,
    steer::{Steer, binary},
};
use tokio::runtime::Runtime;

use super::once;
use crate::{
    report::{Report, Row},
    samples::Samples,
};

/// What a group of one worker at one address takes of the daemon's descriptors: 26, and some more while its worker starts.
const DESCRIPTORS: usize = 36;

/// How long a start, or a takeover, may take.
const LONG: Duration = Duration::from_secs(900);
/// Between two looks, beside as long as a look takes: the looks are not to be what is measured.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the daemon is let be: what has happened has it look more often for some seconds.
const REST: Duration = Duration::from_secs(8);
const IDLE: Duration = Duration::from_secs(10);

/// A service of so many groups with so many workers each.
#[derive(Debug, Clone, Copy)]
struct Size {
    groups: usize,
    workers: u32,
}

pub(super) fn run(namespace: &Namespace, quick: bool, report: &mut Report) -> Result<()> {
    let (groups, workers): (&[usize], &[u32]) =
        if quick { (&[1, 3], &[4]) } else { (&[1, 10, 100, 1_000], &[4, 64, 1_024]) };
    for &groups in groups {
        // As many as the host lets one process have descriptors for.
        let groups = groups.min(steer_tests::crowd::room_for(groups * DESCRIPTORS) / DESCRIPTORS);
        measure(namespace, quick, Size { groups, workers: 1 }, report)?;
    }
    for &workers in workers {
        measure(namespace, quick, Size { groups: 1, workers }, report)?;
    }
    Ok(())
}

fn measure(namespace: &Namespace, quick: bool, size: Size, report: &mut Report) -> Result<()> {
    let (rest, idle, rounds) =
        if quick { (Duration::ZERO, Duration::from_millis(300), 3) } else { (REST, IDLE, 30) };
    let name = match size {
        Size { groups: 1, workers } if workers > 1 => format!("{workers} workers of one group"),
        Size { groups, .. } => format!("{groups} groups of one worker"),
    };
    let asking = Asking::new()?;
    let began = Instant::now();
    let mut steer = Steer::started(namespace, &configuration(size));
    if let Err(error) = asking.until_working(&steer, size) {
        // More than this release takes.
        let said = steer.messages();
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        eprintln!("{name}: not measured: {error:#}; its last words, from the end: {last:#?}");
        return Ok(());
    }
    report.add(once(format!("{name}: start"), began.elapsed().as_secs_f64() * 1e3));
    let mut status = Samples::default();
    for _ in 0..rounds {
        let began = Instant::now();
        asking.status(&steer)?;
        status.push(began.elapsed().as_secs_f64() * 1e3);
    }
    report.add(Row::new(format!("{name}: status"), &status));
    thread::sleep(rest);
    let meter = Meter::start(steer.pid());
    thread::sleep(idle);
    report.add(once(format!("{name}: idle"), meter.percent()).in_unit("% of one CPU"));
    let resident = Footprint::of(steer.pid()).resident as f64 / 1024.0;
    report.add(once(format!("{name}: memory"), resident).in_unit("MiB"));
    steer.kill();
    let began = Instant::now();
    steer.start_daemon();
    let after = asking.until_working(&steer, size)?;
    report.add(once(format!("{name}: takeover"), began.elapsed().as_secs_f64() * 1e3));
    let started =
        after.groups.iter().flat_map(|group| &group.workers).filter(|worker| worker.generation != 1);
    let started = started.count();
    if started > 0 {
        bail!("{name}: {started} workers were started again in place of being taken over");
    }
    Ok(())
}

/// Asks for the status, without a process for each question.
struct Asking(Runtime);

impl Asking {
    fn new() -> Result<Self> {
        Ok(Self(tokio::runtime::Builder::new_current_thread().enable_all().build()?))
    }

    fn status(&self, steer: &Steer<'_>) -> Result<Status, ClientError> {
        let answer = self.0.block_on(async {
            let mut client = Client::connect_with(super::patience(), &steer.socket()).await?;
            client.call(Request::Status { group: None }, |_| {}).await
        })?;
        match answer {
            Response::Status(status) => Ok(status),
            other => panic!("the status is {other:?}"),
        }
    }

    fn until_working(&self, steer: &Steer<'_>, size: Size) -> Result<Status> {
        let began = Instant::now();
        let wanted = size.groups * size.workers as usize;
        loop {
            if !steer.is_running() {
                bail!("the daemon has ended");
            }
            let look = Instant::now();
            let status = self.status(steer);
            if let Ok(status) = &status {
                let workers = status.groups.iter().flat_map(|group| &group.workers);
                if workers.filter(|worker| worker.state == "working").count() == wanted {
                    return Ok(status.clone());
                }
            }
            if began.elapsed() > LONG {
                status.context("the daemon does not answer")?;
                bail!("not all {wanted} workers work within {LONG:?}");
            }
            thread::sleep(look.elapsed() + PAUSE);
        }
    }
}

fn configuration(Size { groups, workers }: Size) -> String {
    let command = service::silent(&binary());
    let mut text = String::new();
    for group in 0..groups {
        let address = format!("127.0.0.1:{}", 10_000 + group);
        let _ = write!(text, "{}", service::group(&format!("g{group}"), &address, workers, &command, ""));
    }
    text
}
