//! Servers as their packages bring them, restarted and killed under load: behind `cargo xtask servers`.
//!
//! Each runs unmodified behind `steer run`, with no option but how many and, where two of it cannot run at once, `--restart replace`.

mod client;
mod servers;

use std::{env, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use clap::Parser;
use rustix::process::Signal;
use steer_tests::{netns, process, steer::Steer};

use self::{
    client::{CLIENTS, more, under_load},
    servers::{SERVERS, Server},
};

const ADDRESSES: [&str; 2] = ["127.0.0.1:8080", "[::1]:8080"];
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

/// What has come of one server.
struct Row {
    mode: String,
    connections: u64,
    handovers: u32,
    lost: u64,
    killed: u64,
    longest: Duration,
    first_failures: Vec<String>,
}

fn main() -> ExitCode {
    let Arguments { handovers, only } = Arguments::parse();
    println!(
        "{:<20} {:<7} {:<8} {:>11} {:>9} {:>5} {:>14} {:>12}",
        "server", "family", "serves", "connections", "handovers", "lost", "lost by SIGKILL", "longest wait"
    );
    let (mut skipped, mut failed) = (0, 0);
    for server in SERVERS.iter().filter(|it| only.as_ref().is_none_or(|only| it.name.contains(only))) {
        for address in ADDRESSES {
            let family = if address.starts_with('[') { "IPv6" } else { "IPv4" };
            if let Some(missing) = server.needs.iter().find(|program| !is_there(program)) {
                println!("{:<20} {family:<7} skipped: {missing} is not installed", server.name);
                skipped += 1;
                continue;
            }
            let address: SocketAddr = address.parse().expect("an address");
            match netns::run("servers", |namespace| try_out(namespace, server, address, handovers)) {
                Ok(row) => {
                    let is_good = row.lost == 0 && row.killed <= u64::from(CLIENTS);
                    failed += u32::from(!is_good);
                    println!(
                        "{:<20} {family:<7} {:<8} {:>11} {:>9} {:>5} {:>14} {:>9.0} ms{}",
                        server.name,
                        row.mode,
                        row.connections,
                        row.handovers,
                        row.lost,
                        row.killed,
                        row.longest.as_secs_f64() * 1e3,
                        if is_good { String::new() } else { format!("  {:?}", row.first_failures) }
                    );
                }
                Err(why) => {
                    failed += 1;
                    println!("{:<20} {family:<7} failed: {why}", server.name);
                }
            }
        }
    }
    println!("{skipped} skipped, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn try_out(
    namespace: &netns::Namespace,
    server: &Server,
    address: SocketAddr,
    handovers: u32,
) -> Result<Row, String> {
    let directory =
        tempfile::Builder::new().prefix("steer-tests-").tempdir().map_err(|error| error.to_string())?;
    open_to_all(directory.path())?;
    server.prepare(directory.path(), address)?;
    let (workers, listen) = (server.workers(), address.to_string());
    let count = workers.to_string();
    let mut arguments = vec!["--listen", &listen, "--workers", &count];
    arguments.extend(server.options);
    let command = server.command(directory.path(), address);
    arguments.push("--");
    arguments.extend(command.iter().map(String::as_str));
    let mut steer = Steer::run(namespace, &arguments);
    let exchange = server.exchange();
    let mut done = 0;
    let restarted = under_load(address, &exchange, |tally| {
        more(tally, 200);
        while done < handovers {
            steer.command(["restart", "web"]).succeeded();
            done += workers;
        }
        more(tally, 200);
    });
    let killed = under_load(address, &exchange, |tally| {
        more(tally, 200);
        let worker = steer.status().groups[0].workers[0].clone();
        process::signal(worker.pid.expect("a working worker has a process"), Signal::KILL);
        steer.until("it is started again", SOON, |status| {
            let now = &status.groups[0].workers[0];
            now.generation > worker.generation && now.state == "working"
        });
        more(tally, 200);
    });
    let events = steer.command(["events"]).succeeded().stdout;
    let is_strict = steer.status().groups[0].mode == "own";
    let binds = is_strict || events.lines().any(|line| line.contains(" binds "));
    let row = Row {
        mode: if binds { "own" } else { "passed" }.to_owned(),
        connections: restarted.connections() + killed.connections(),
        handovers: done,
        lost: restarted.failed(),
        killed: killed.failed(),
        longest: restarted.longest(),
        first_failures: [restarted.first_failures(), killed.first_failures()].concat(),
    };
    steer.stop(SOON);
    Ok(row)
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
