//! What the bind hook costs: a bind of a process that is no worker, and one of a worker.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use steer::{
    dataplane::bind_hook::{BindHook, Scope},
    sockets::{address::ListenAddress, listener::make_listener},
    workers::cgroup::WorkersCgroup,
};

use crate::{
    report::{Aim, Report, Row},
    samples::Samples,
};

const GROUP_PORT: u16 = 8080;
const OTHER_PORT: u16 = 8081;

/// Binds and closes sockets: without a hook, outside the workers' cgroup, and in it.
pub(crate) fn run(quick: bool) -> Result<Report> {
    let (rounds, binds) = if quick { (3, 1_000) } else { (50, 20_000) };
    let address: ListenAddress = format!("tcp://127.0.0.1:{GROUP_PORT}").parse()?;
    let _listener = TcpListener::from(make_listener(address, None, 1)?);
    let cgroup = WorkersCgroup::make(&"bench".parse()?, &std::process::id().to_string())?;
    let [mut alone, mut outside, mut inside, mut joining] = [(); 4].map(|()| Samples::default());
    for _ in 0..rounds {
        alone.push(bind(OTHER_PORT, binds)?);
        let (hook, mut events) = BindHook::attach(&Scope::workers([address]), cgroup.as_fd(), None)?;
        outside.push(bind(OTHER_PORT, binds)?);
        let moved = Moved::into(cgroup.path())?;
        inside.push(bind(OTHER_PORT, binds)?);
        joining.push(bind(GROUP_PORT, binds)?);
        drop(moved);
        events.by_ref().for_each(drop);
        drop(hook);
    }
    cgroup.remove().context("removing the cgroup")?;
    let mut report = Report::new(
        "binds",
        "nanoseconds",
        format!(
            "one socket made, bound and closed, {binds} times a round; {} binds outside the workers' cgroup in all",
            rounds * binds
        ),
    );
    let beside = "without a hook";
    let costs_nothing = |ratio| Some(Aim::at_most("a bind of others, beside none", ratio, 1.05));
    report.add(Row::new("others, with a hook", &outside).beside(beside, &outside, &alone, costs_nothing));
    report.add(Row::new("a worker, another port", &inside).beside(beside, &inside, &alone, |_| None));
    report
        .add(Row::new("a worker, the group's address", &joining).beside(beside, &joining, &alone, |_| None));
    Ok(report)
}

/// Nanoseconds for each bind to a port of loopback.
fn bind(port: u16, count: u32) -> Result<f64> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into();
    let began = Instant::now();
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&address).with_context(|| format!("binding port {port}"))?;
    }
    Ok(began.elapsed().as_nanos() as f64 / f64::from(count))
}

/// This process, in another cgroup until this is dropped.
struct Moved {
    back: PathBuf,
}

impl Moved {
    fn into(cgroup: &Path) -> Result<Self> {
        fs::write(cgroup.join("cgroup.procs"), "0").context("entering the cgroup")?;
        let parent = cgroup.parent().context("a cgroup for workers has a parent")?;
        Ok(Self { back: parent.join("cgroup.procs") })
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        // Else the cgroup cannot be removed, which is told.
        let _ = fs::write(&self.back, "0");
    }
}
