//! `steer demo`: the same load and the same restarts, steered and with the kernel alone, side by side.
//!
//! Everything runs in a network namespace of its own ([`sandbox`]): real clients at full speed
//! ([`crate::load`]), real worker processes, one [`service::Service`] after another. [`side`] runs one of the
//! three, [`schedule`] says what happens to its workers when, [`report`] and [`words`] say what came of it.

mod children;
mod control;
mod error;
mod kernel_alone;
mod live;
mod report;
mod sandbox;
mod schedule;
mod service;
mod side;
mod steered;
mod words;
mod worker_process;

use std::{io::Write, process::ExitCode, time::Duration};

pub use error::DemoError;
pub use report::{Comparison, KilledReport, SideReport};
use tokio::signal::unix::{SignalKind, signal};

use self::{kernel_alone::KernelAlone, live::Live, sandbox::Sandbox, side::Length, steered::Steered};

/// What the user can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoOptions {
    /// Print the comparison as JSON instead of a table.
    pub json: bool,
    /// How long each of the three is restarted over and over, in seconds; the phase of SIGKILLs takes a quarter
    /// of this on top. At least 1.
    pub seconds_per_phase: u32,
    /// The number of workers; scaled to half of it and back. At least 1.
    pub workers: u32,
}

impl Default for DemoOptions {
    fn default() -> Self {
        Self { json: false, seconds_per_phase: 12, workers: 4 }
    }
}

/// Runs the demo and prints the comparison to stdout. Success only if the steered side lost nothing.
///
/// Call it while the process is single-threaded and has no children: the process moves into namespaces of its
/// own for good, and at the end every child of it is stopped. Needs CAP_SYS_ADMIN, CAP_NET_ADMIN and what the
/// daemon needs.
///
/// # Errors
/// A [`DemoError`] if a part of it cannot run at all; connections that fail are no error but a result.
pub fn run(options: DemoOptions) -> anyhow::Result<ExitCode> {
    let sandbox = Sandbox::enter()?;
    let live = Live::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| DemoError::System { operation: "start the runtime", source })?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = compare(&options, &sandbox, &live) => result,
            signal = stop_signal() => Err(signal?),
            () = live.keep_up() => Err(DemoError::Interrupted),
        }
    });
    live.clear();
    // Before anything is printed: whoever reads the comparison finds nothing of the demo left.
    drop(runtime);
    drop(sandbox);
    print(&result?, options.json)
}

async fn compare(options: &DemoOptions, sandbox: &Sandbox, live: &Live) -> Result<Comparison, DemoError> {
    let length = Length::of(Duration::from_secs(options.seconds_per_phase.max(1).into()));
    let workers = options.workers.max(1);

    sandbox.let_kernel_migrate(false)?;
    let service = Steered::start(sandbox, workers).await?;
    let steered = side::run("steered", service, sandbox, workers, length, live).await?;

    let service = KernelAlone::start(sandbox, workers).await?;
    let kernel = side::run("kernel", service, sandbox, workers, length, live).await?;

    sandbox.let_kernel_migrate(true)?;
    let service = KernelAlone::start(sandbox, workers).await?;
    let kernel_migrate = side::run("kernel_migrate", service, sandbox, workers, length, live).await?;

    Ok(Comparison { schema: report::SCHEMA, ipv6: sandbox.has_ipv6(), steered, kernel, kernel_migrate })
}

/// Waits for a signal that asks the demo to end.
async fn stop_signal() -> Result<DemoError, DemoError> {
    let listen =
        |kind| signal(kind).map_err(|source| DemoError::System { operation: "listen to signals", source });
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(DemoError::Interrupted)
}

fn print(comparison: &Comparison, json: bool) -> anyhow::Result<ExitCode> {
    let text = if json {
        serde_json::to_string_pretty(comparison)?
    } else {
        format!("{}\n\n{}", words::table(comparison), words::sentences(comparison).join("\n"))
    };
    writeln!(std::io::stdout().lock(), "{text}")?;
    for failure in &comparison.steered.first_failures {
        writeln!(std::io::stderr().lock(), "steered lost: {failure}")?;
    }
    Ok(if comparison.steered.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
