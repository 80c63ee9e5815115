//! One run: a server is started, adopted or not, and changed under load.

use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use steer::control::api::Table;
use steer_tests::{
    exchanges::{Exchange, Lost, Tally, answered, under_load},
    netns::{self, Namespace},
    steer::{Steer, binary},
    wait,
};

use crate::{
    case::{Case, Speaks},
    changing::Changing,
    site::Site,
};

/// How long until the group is as the server is.
const SOON: Duration = Duration::from_secs(40);
/// A daemon needs no group to begin with.
const EMPTY: &str = "";
/// How long until the 4-tuples are where they were.
const SETTLES_WITHIN: Duration = Duration::from_secs(4);
/// How many exchanges are answered at each address between two changes.
const BETWEEN: u64 = 60;
/// How many 4-tuples are looked at for whether they move, at each address.
const TUPLES: u16 = 256;

/// Who shares connections out to the server's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Steer,
    Kernel,
    /// The kernel, with `net.ipv4.tcp_migrate_req`.
    Migrate,
}

impl Side {
    pub(crate) const ALL: [Self; 3] = [Self::Steer, Self::Kernel, Self::Migrate];
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Steer => "steer",
            Self::Kernel => "the kernel alone",
            Self::Migrate => "tcp_migrate_req",
        })
    }
}

/// What has come of one run.
pub(crate) struct Outcome {
    pub(crate) side: Side,
    /// By what clients do: connections, what was lost, the longest wait, the first failures.
    pub(crate) parts: Vec<Part>,
    /// How many 4-tuples had another worker after a change than before; nothing where that was not looked at.
    pub(crate) moved: Option<u64>,
}

pub(crate) struct Part {
    pub(crate) connections: u64,
    pub(crate) lost: Lost,
    pub(crate) longest: Duration,
    pub(crate) first_failures: Vec<String>,
}

/// Runs a case to its end; why it could not be.
pub(crate) fn run(case: &Case, side: Side, addresses: &[SocketAddr], rounds: u32) -> Result<Outcome, String> {
    let body = || {
        netns::run("adopted", |namespace| {
            if side == Side::Migrate {
                namespace.sysctl("net.ipv4.tcp_migrate_req", "1");
            }
            in_namespace(namespace, case, side, addresses, rounds)
        })
    };
    // It is printed where it happens.
    catch_unwind(AssertUnwindSafe(body)).map_err(|_| "see above".to_owned())
}

fn in_namespace(
    namespace: &Namespace,
    case: &Case,
    side: Side,
    addresses: &[SocketAddr],
    rounds: u32,
) -> Outcome {
    let loads = case.exchanges_at(addresses);
    let site = Site::new(addresses, loads[loads.len() - 1].exchange.clone());
    let _telling = Telling(site.clone());
    let mut server = (case.start)(&site);
    let load: Vec<(SocketAddr, Exchange)> =
        loads.into_iter().map(|load| (load.target, load.exchange)).collect();
    let mut steer = (side == Side::Steer).then(|| daemon(namespace));
    let mut moved = (side == Side::Steer && case.keeps_count).then_some(0);
    let tallies = under_load(&load, |tallies| {
        answered(tallies, BETWEEN);
        if let Some(steer) = &steer {
            adopt(steer, case, &site, server.as_ref());
            until_followed(steer, server.as_ref());
        }
        let mut before = moved.is_some().then(|| steer.as_ref().map(|steer| placed(steer, addresses)));
        for round in 0..rounds {
            answered(tallies, BETWEEN);
            server.change(round, steer.as_ref());
            let Some(steer) = &steer else { continue };
            until_followed(steer, server.as_ref());
            if let (Some(moved), Some(Some(before))) = (&mut moved, &mut before) {
                let now = settled(steer, addresses, before);
                *moved += before.iter().zip(&now).filter(|(before, now)| before != now).count() as u64;
                *before = now;
            }
        }
        answered(tallies, BETWEEN);
        if let Some(steer) = &steer {
            release(steer);
            answered(tallies, BETWEEN);
        }
    });
    let parts: Vec<Part> = tallies.iter().map(Part::of).collect();
    if (parts.iter().any(|part| part.lost.sum() > 0) || moved.is_some_and(|moved| moved > 0))
        && let Some(steer) = &steer
        && std::env::var_os("STEER_TESTS_EVENTS").is_some()
    {
        println!("{}{}", steer.command(["events"]).stdout, site.said());
    }
    let moved = moved.map(|moved| moved + server.moved());
    server.end();
    if let Some(steer) = &mut steer {
        steer.stop(SOON);
    }
    Outcome { side, parts, moved }
}

/// Prints what the server has said, where a run fails.
struct Telling(Site);

impl Drop for Telling {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the server has said last\n{}", self.0.said());
        }
    }
}

impl Part {
    fn of(tally: &Tally) -> Self {
        Self {
            connections: tally.connections(),
            lost: tally.lost(),
            longest: tally.longest(),
            first_failures: tally.first_failures(),
        }
    }
}

/// A daemon without a group.
pub(crate) fn daemon(namespace: &Namespace) -> Steer<'_> {
    let mut steer = Steer::service(namespace, &binary(), EMPTY);
    steer.start_daemon();
    steer.until_reachable();
    steer
}

/// Has the server be adopted, at all its addresses; by its process where it serves datagrams at the same.
#[track_caller]
fn adopt(steer: &Steer<'_>, case: &Case, site: &Site, server: &dyn Changing) {
    let target = match (&site.addresses[..], case.speaks) {
        (_, Speaks::Dns) => vec!["--pid".to_owned(), server.pid().to_string()],
        ([one], _) => vec![one.to_string()],
        (all, _) => vec![format!("localhost:{}", all[0].port())],
    };
    let words = ["adopt", "--name", "web"].map(str::to_owned).into_iter().chain(target);
    steer.command(words).succeeded();
}

/// Waits until as many workers work as the server has listeners at an address, and nothing is held.
#[track_caller]
pub(crate) fn until_followed(steer: &Steer<'_>, server: &dyn Changing) {
    let count = server.listeners();
    steer.until(&format!("{count} of its listeners work"), SOON, |status| {
        let group = &status.groups[0];
        let works = group.workers.iter().filter(|worker| worker.state == "working").count();
        works == count && group.held == 0
    });
}

/// Gives the group back, once nothing of it is under way.
#[track_caller]
pub(crate) fn release(steer: &Steer<'_>) {
    wait::until("the group can be released", SOON, || {
        let said = steer.command(["release", "web"]);
        if said.code == Some(0) { Ok(()) } else { Err(said.stderr) }
    });
}

/// The worker of each 4-tuple once it is as before: a server that closes a listener before it binds the next leaves the others its part
/// meanwhile. What is elsewhere at the deadline has moved.
fn settled(steer: &Steer<'_>, addresses: &[SocketAddr], before: &[String]) -> Vec<String> {
    let began = Instant::now();
    loop {
        let is_last = began.elapsed() >= SETTLES_WITHIN;
        let now = placed(steer, addresses);
        if is_last || now == before {
            return now;
        }
    }
}

/// The worker of each of some 4-tuples.
fn placed(steer: &Steer<'_>, addresses: &[SocketAddr]) -> Vec<String> {
    let clients = addresses.iter().flat_map(|address| {
        let ip = if address.is_ipv4() { "127.1.0.9" } else { "[fd00:57ee:7::9]" };
        (0..TUPLES).map(move |number| (*address, format!("{ip}:{}", 30_000 + number)))
    });
    let clients: Vec<(SocketAddr, String)> = clients.collect();
    let of = |address: &SocketAddr| {
        let theirs = clients.iter().filter(|(to, _)| to == address);
        let asked = theirs.flat_map(|(_, client)| ["--where".to_owned(), client.clone()]);
        let words = ["table", "web", "--json", "--to"].map(str::to_owned).into_iter();
        let words = words.chain([address.to_string()]).chain(asked);
        let table: Table = steer.command(words).succeeded().parse();
        let worker = |placed: steer::control::api::Placed| placed.worker.map(|it| it.to_string());
        table.placed.into_iter().map(move |placed| worker(placed).unwrap_or_default()).collect::<Vec<_>>()
    };
    addresses.iter().flat_map(of).collect()
}
