//! How what the daemon costs grows: with the host's sockets, with the connections of its workers, with groups and with workers.

mod crowded;
mod handovers;
mod long_drain;
mod sizes;

use std::{path::Path, time::Duration};

use anyhow::Result;
use steer::control::patience::Patience;
use steer_tests::{control::Control, netns::Namespace};

use crate::{
    report::{Report, Row},
    samples::Samples,
};

/// How long an answer may take to be measured, and not given up.
const ANSWER: Duration = Duration::from_secs(120);

/// The address of the group under measurement.
const ADDRESS: &str = "127.0.0.1:8080";

/// Measures all of it, one daemon after another.
pub(crate) fn run(namespace: &Namespace, quick: bool) -> Result<Report> {
    let mut report = Report::new(
        "scale",
        "milliseconds",
        "the daemon's CPU time is that of all of its threads. Its growth with the host's sockets: one worker drains, with an open connection. \
         With connections: 16 workers are scaled to 2, while one client asks for the status on and on. Handovers: of one of four \
         workers, idle and under load. Sizes: a service with groups of one silent sample worker each, and one group of many; it is \
         started, looked at, left alone for some seconds, killed and started again"
            .to_owned(),
    );
    long_drain::run(namespace, quick, &mut report)?;
    crowded::run(namespace, quick, &mut report)?;
    handovers::run(namespace, quick, &mut report)?;
    sizes::run(namespace, quick, &mut report)?;
    Ok(report)
}

/// Asks a daemon that may be slow.
fn control(socket: &Path) -> Control {
    Control::waiting(socket, ANSWER)
}

fn patience() -> Patience {
    Patience { answer: ANSWER, ..Patience::default() }
}

/// What was measured once.
fn once(what: impl Into<String>, value: f64) -> Row {
    let mut sample = Samples::default();
    sample.push(value);
    Row::new(what, &sample)
}
