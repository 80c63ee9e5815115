//! What a group notices of what happens to its daemon and to the other groups: how long `status` and the restart of a worker take, alone and
//! beside it.

use std::{
    fs::File,
    io::Write as _,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::pipe::{PipeFlags, pipe_with};
use steer::control::{
    api::{Request, Response},
    client::Client,
};
use steer_tests::{
    control::Control,
    hanging::HangingProgram,
    idle_connections::IdleConnections,
    mounts,
    netns::Namespace,
    passed::Lingering,
    service::{group, sample},
    steer::{Steer, binary},
    wait,
};

use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

const WEB: &str = "127.0.0.1:8080";
const CALM: &str = "127.0.0.1:8081";
/// An answer that takes longer is given up.
const ANSWER: Duration = Duration::from_secs(120);
/// What may be beyond the time alone, in milliseconds.
const BEYOND: f64 = 200.0;

/// Milliseconds.
#[derive(Debug, Default)]
struct Times {
    status: Samples,
    restart: Samples,
}

/// Measures each, with a daemon of its own.
pub(crate) fn run(namespace: &Namespace, quick: bool) -> Result<Report> {
    let rounds = if quick { 2 } else { 30 };
    let mut report = Report::new(
        "hostile",
        "milliseconds",
        "a service with two groups: something happens to one, or to the daemon, and of the other a worker is restarted, again and again; \
         beside the same before it happened"
            .to_owned(),
    );
    exec_hangs(namespace, rounds, &mut report)?;
    log_stopped(namespace, rounds, &mut report)?;
    sockets_passed(namespace, rounds, &mut report)?;
    readers(namespace, quick, rounds, &mut report)?;
    Ok(report)
}

fn exec_hangs(namespace: &Namespace, rounds: u32, report: &mut Report) -> Result<()> {
    mounts::unshare();
    // Dropped first: nobody can be killed who waits for it.
    let steer;
    let mut program = HangingProgram::sample(&binary());
    steer = daemon(namespace, &[program.path().display().to_string()], "");
    let alone = measure(&steer, rounds)?;
    program.hang();
    let socket = steer.socket();
    let beside: Times = thread::scope(|scope| {
        let request = restart("web")?;
        let waiting = scope.spawn(move || Control::waiting(&socket, ANSWER).ask(request));
        program.until_somebody_waits();
        let beside = measure(&steer, rounds);
        program.go_on();
        waiting.join().map_err(|_| anyhow::anyhow!("the restart of the other group panicked"))??;
        beside
    })?;
    compare(report, "the exec of a worker hangs", &beside, &alone);
    Ok(())
}

fn log_stopped(namespace: &Namespace, rounds: u32, report: &mut Report) -> Result<()> {
    let (_unread, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Of its own: O_NONBLOCK is not to be the daemon's.
    let mut own = File::options().write(true).open(format!("/proc/self/fd/{}", write.as_raw_fd()))?;
    let mut steer = Steer::service(namespace, &binary(), &configuration(&sample(&binary()), ""));
    steer.stderr = Some(write);
    steer.start_daemon();
    steer.until_working();
    let alone = measure(&steer, rounds)?;
    rustix::io::ioctl_fionbio(&own, true)?;
    while own.write(&[b'\n'; 1024]).is_ok() {}
    compare(report, "nobody reads the log, whose pipe is full", &measure(&steer, rounds)?, &alone);
    Ok(())
}

fn sockets_passed(namespace: &Namespace, rounds: u32, report: &mut Report) -> Result<()> {
    const SOCKETS: usize = 30;
    let steer = daemon(namespace, &sample(&binary()), "");
    let alone = measure(&steer, rounds)?;
    let socket = UnixDatagram::unbound()?;
    socket.connect(steer.path("steer.sock.web.notify"))?;
    let pass = |_| Lingering::make().pass(&socket, b"STATUS=here");
    let peers = (0..SOCKETS).map(pass).collect::<std::io::Result<Vec<_>>>()?;
    let what = format!("{SOCKETS} sockets that linger for a minute were passed");
    compare(report, &what, &measure(&steer, rounds)?, &alone);
    // Lets the daemon's closes go on.
    drop(peers);
    Ok(())
}

fn readers(namespace: &Namespace, quick: bool, rounds: u32, report: &mut Report) -> Result<()> {
    let (readers, connections) = if quick { (4, 100) } else { (48, 18_000) };
    let steer = daemon(namespace, &sample(&binary()), "limits = { nofile = 20000 }");
    let alone = measure(&steer, rounds)?;
    let _clients = IdleConnections::to(WEB.parse()?, connections);
    let (is_over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    let beside = thread::scope(|scope| {
        let asking: Vec<_> = (0..readers)
            .map(|_| scope.spawn(|| ask_on_and_on(&steer.socket(), &is_over, &answers)))
            .collect();
        wait::until("the readers ask", ANSWER, || match answers.load(Relaxed) {
            count if count >= readers => Ok(()),
            count => Err(format!("{count} answers")),
        });
        let beside = measure(&steer, rounds);
        is_over.store(true, Relaxed);
        for reader in asking {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        beside
    })?;
    let what = format!("{readers} readers ask without end, beside {connections} connections");
    compare(report, &what, &beside, &alone);
    Ok(())
}

/// A daemon with both groups, all of whose workers work.
fn daemon<'a>(namespace: &'a Namespace, web: &[String], more: &str) -> Steer<'a> {
    Steer::configured(namespace, &configuration(web, more))
}

fn configuration(web: &[String], more: &str) -> String {
    let calm = group("calm", CALM, 2, &sample(&binary()), "ready = \"notify\"");
    group("web", WEB, 2, web, &format!("ready = \"notify\"\n{more}")) + &calm
}

fn restart(group: &str) -> Result<Request> {
    Ok(Request::Restart { group: group.parse()?, worker: Some(0), timeout_ms: None, canary: None })
}

fn measure(steer: &Steer<'_>, rounds: u32) -> Result<Times> {
    let control = Control::waiting(&steer.socket(), ANSWER);
    let mut times = Times::default();
    for _ in 0..rounds {
        let began = Instant::now();
        let (answer, _) = control.ask(Request::Status { group: None })?;
        times.status.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(matches!(answer, Response::Status(_)), "{answer:?}");
        let began = Instant::now();
        let (_, receipts) = control.ask(restart("calm")?)?;
        times.restart.push(began.elapsed().as_secs_f64() * 1e3);
        let receipt = receipts.into_iter().find_map(|answer| match answer {
            Response::Receipt(receipt) => Some(receipt),
            _ => None,
        });
        let receipt = receipt.context("a restart has a receipt")?;
        ensure!(receipt.outcome == "drained", "{receipt:?}");
    }
    Ok(times)
}

fn compare(report: &mut Report, what: &str, beside: &Times, alone: &Times) {
    for (of, beside, alone) in
        [("status", &beside.status, &alone.status), ("restart", &beside.restart, &alone.restart)]
    {
        let beyond = beside.median() - alone.median();
        let aim = |_| Some(Aim::at_most("the median beyond that alone, in ms,", beyond, BEYOND));
        report.add(Row::new(format!("{of}: {what}"), beside).beside("alone", beside, alone, aim));
    }
}

/// One reader, with one connection for all that it asks.
fn ask_on_and_on(socket: &Path, is_over: &AtomicBool, answers: &AtomicU64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::connect(socket).await?;
        while !is_over.load(Relaxed) {
            client.call(Request::Status { group: None }, |_| {}).await?;
            answers.fetch_add(1, Relaxed);
        }
        Ok(())
    })
}
