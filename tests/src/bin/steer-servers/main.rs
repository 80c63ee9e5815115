//! Servers as their packages bring them, restarted and killed under load: behind `cargo xtask servers`.
//!
//! Each runs unmodified behind `steer run`, with no option but how many and, where two of it cannot run at once, `--restart replace`.

mod servers;

use std::{env, net::SocketAddr, path::Path, process::ExitCode, thread, time::Duration};

use clap::Parser;
use rustix::process::Signal;
use steer_tests::{
    exchanges::{CLIENTS, Exchange, Tally, more, under_load},
    netns, process,
    steer::Steer,
};

use self::servers::Server;

const ADDRESSES: [(&str, &str); 2] = [("IPv4", "127.0.0.1:8080"), ("IPv6", "[::1]:8080")];
const SOON: Duration = Duration::from_secs(60);

/// Run servers unmodified, restart their workers and kill one, and print what was lost.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask servers")]
struct Arguments {
    /// How many handovers of each
    #[arg(long, value_name = "N", default_value_t = 50)]
    handovers: u32,
    /// Only servers whose names hold this
    only: Option<String>,
}

/// What has come of one server, over one protocol.
struct Row {
    name: String,
    mode: &'static str,
    connections: u64,
    handovers: u32,
    lost: u64,
    killed: u64,
    longest: Duration,
    first_failures: Vec<String>,
}

impl Row {
    fn is_good(&self) -> bool {
        self.lost == 0 && self.killed <= u64::from(CLIENTS)
    }

    fn print(&self, family: &str) {
        println!(
            "{:<20} {family:<7} {:<8} {:>11} {:>9} {:>5} {:>14} {:>9.0} ms{}",
            self.name,
            self.mode,
            self.connections,
            self.handovers,
            self.lost,
            self.killed,
            self.longest.as_secs_f64() * 1e3,
            if self.is_good() { String::new() } else { format!("  {:?}", self.first_failures) }
        );
    }
}

/// Why a server was not run to its end.
enum Stopped {
    Skipped(String),
    Failed(String),
}

fn main() -> ExitCode {
    let Arguments { handovers, only } = Arguments::parse();
    println!(
        "{:<20} {:<7} {:<8} {:>11} {:>9} {:>5} {:>14} {:>12}",
        "server", "family", "serves", "connections", "handovers", "lost", "lost by SIGKILL", "longest wait"
    );
    let (mut skipped, mut failed) = (0, 0);
    for server in servers::all().filter(|it| only.as_ref().is_none_or(|only| it.name.contains(only))) {
        for (family, result) in in_both_families(server, handovers) {
            match result {
                Ok(rows) => {
                    failed += u32::from(!rows.iter().all(Row::is_good));
                    rows.iter().for_each(|row| row.print(family));
                }
                Err(Stopped::Skipped(why)) => {
                    skipped += 1;
                    println!("{:<20} {family:<7} skipped: {why}", server.name);
                }
                Err(Stopped::Failed(why)) => {
                    failed += 1;
                    println!("{:<20} {family:<7} failed: {why}", server.name);
                }
            }
        }
    }
    println!("{skipped} skipped, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tries a server over IPv4 and IPv6 at the same time: most of a handover is a wait.
fn in_both_families(server: &Server, handovers: u32) -> Vec<(&'static str, Result<Vec<Row>, Stopped>)> {
    thread::scope(|scope| {
        let runs = ADDRESSES.map(|(family, address)| {
            let address: SocketAddr = address.parse().expect("an address");
            let run =
                move || netns::run("servers", |namespace| try_out(namespace, server, address, handovers));
            (family, scope.spawn(run))
        });
        let ended = |(family, run): (_, thread::ScopedJoinHandle<'_, Result<Vec<Row>, Stopped>>)| {
            (family, run.join().unwrap_or_else(|_| Err(Stopped::Failed("see above".to_owned()))))
        };
        runs.map(ended).into()
    })
}

fn try_out(
    namespace: &netns::Namespace,
    server: &Server,
    address: SocketAddr,
    handovers: u32,
) -> Result<Vec<Row>, Stopped> {
    if let Some(missing) = server.needs.iter().find(|program| !is_there(program)) {
        return Err(Stopped::Skipped(format!("{missing} is not installed")));
    }
    let directory = tempfile::Builder::new().prefix("steer-tests-").tempdir();
    let directory = directory.map_err(|error| Stopped::Failed(error.to_string()))?;
    open_to_all(directory.path()).map_err(Stopped::Failed)?;
    server.prepare(directory.path(), address).map_err(Stopped::Failed)?;
    if let Some(why) = server.unfit(directory.path(), address) {
        return Err(Stopped::Skipped(why));
    }
    let exchanges = server.exchanges();
    let load: Vec<(SocketAddr, Exchange)> = exchanges.iter().map(|it| (address, it.clone())).collect();
    let mut steer = Steer::run(namespace, &arguments(server, &exchanges, directory.path(), address));
    let mut done = 0;
    let restarted = under_load(&load, |tallies| {
        more(tallies, 200);
        while done < handovers {
            steer.command(["restart", "web"]).succeeded();
            done += server.workers();
        }
        more(tallies, 200);
    });
    let killed = under_load(&load, |tallies| {
        more(tallies, 200);
        let worker = steer.status().groups[0].workers[0].clone();
        process::signal(worker.pid.expect("a working worker has a process"), Signal::KILL);
        steer.until("it is started again", SOON, |status| {
            let now = &status.groups[0].workers[0];
            now.generation > worker.generation && now.state == "working"
        });
        more(tallies, 200);
    });
    let events = steer.command(["events"]).succeeded().stdout;
    let is_strict = steer.status().groups[0].mode == "own";
    let binds = is_strict || events.lines().any(|line| line.contains(" binds "));
    steer.stop(SOON);
    let row = |exchange: &Exchange, restarted: &Tally, killed: &Tally| Row {
        name: match exchanges.len() {
            1 => server.name.to_owned(),
            _ => format!("{} {}", server.name, exchange.over),
        },
        mode: if binds { "own" } else { "passed" },
        connections: restarted.connections() + killed.connections(),
        handovers: done,
        lost: restarted.failed(),
        killed: killed.failed(),
        longest: restarted.longest(),
        first_failures: [restarted.first_failures(), killed.first_failures()].concat(),
    };
    let all = exchanges.iter().zip(&restarted).zip(&killed);
    Ok(all.map(|((exchange, restarted), killed)| row(exchange, restarted, killed)).collect())
}

/// What `steer run` is told.
fn arguments(server: &Server, exchanges: &[Exchange], directory: &Path, address: SocketAddr) -> Vec<String> {
    let listen = exchanges.iter().flat_map(|exchange| {
        let protocol = exchange.over.to_string().to_lowercase();
        ["--listen".to_owned(), format!("{protocol}://{address}")]
    });
    let count = ["--workers".to_owned(), server.workers().to_string()];
    let options = server.options.iter().copied().chain(["--"]).map(str::to_owned);
    listen.chain(count).chain(options).chain(server.command(directory, address)).collect()
}

/// Workers of a server may run as another user.
fn open_to_all(directory: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory, all).map_err(|error| error.to_string())
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).exists())
}
