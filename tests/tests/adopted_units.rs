//! Units of a real systemd, adopted: what `systemctl` does to them is not noticed by their clients.
//!
//! `cargo xtask servers --adopted` runs these: they need a Debian tree.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use steer::load::{FourTuple, Tally, four_tuples};
use steer_tests::{
    host::Host,
    load::Load,
    netns::{self, Namespace},
    units_served::{GO, JAVA, NGINX, NODE, NODE_THAT_ENDS, PYTHON, Served},
    wait,
};

/// How often each server is restarted, unless `STEER_TEST_ROUNDS` says otherwise.
const ROUNDS: u32 = 5;

/// Connections between two restarts, and before the first.
const BETWEEN: u64 = 2_000;

const SOON: Duration = Duration::from_secs(60);

fn rounds() -> u32 {
    let given = std::env::var("STEER_TEST_ROUNDS");
    given.map_or(ROUNDS, |text| {
        text.parse().unwrap_or_else(|error| panic!("STEER_TEST_ROUNDS={text}: {error}"))
    })
}

/// 4-tuples from 16 addresses of each family.
fn pool(port: u16) -> Vec<FourTuple> {
    let clients: Vec<IpAddr> = (1..=16)
        .flat_map(|number| {
            let v6 = Ipv6Addr::new(0xfd00, 0x57ee, 7, 0, 0, 0, 1, u16::from(number));
            [IpAddr::from(Ipv4Addr::new(127, 1, 0, number)), v6.into()]
        })
        .collect();
    let targets: [SocketAddr; 2] = [([127, 0, 0, 1], port).into(), (Ipv6Addr::LOCALHOST, port).into()];
    four_tuples(&clients, 20_000..20_064, &targets)
}

fn serves(served: &Served) {
    wait::until("the server serves", SOON, || {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            std::net::TcpStream::connect((address, served.port)).map_err(|error| error.to_string())?;
        }
        Ok(())
    });
}

/// Restarts the unit again and again under load. What each restart took is the server's own.
fn restarted(host: &Host, served: &Served, restart: &[&str]) -> Tally {
    let load = Load::start(pool(served.port), 32);
    load.wait_for(BETWEEN);
    for _ in 0..rounds() {
        for verb in restart {
            host.systemctl(&[verb, served.unit]);
        }
        serves(served);
        load.wait_for(BETWEEN);
    }
    load.end()
}

/// Has a server restarted, alone and adopted, and prints a line of the table.
fn table_line(namespace: &Namespace, served: &Served, restart: &[&str]) -> (Tally, Tally) {
    let host = Host::boot(namespace);
    served.install(&host);
    serves(served);
    let alone = restarted(&host, served, restart);
    host.systemctl(&["start", "steer"]);
    host.does(&["adopt", served.unit, "--name", "web"]);
    host.until_working("web", 1);
    let steered = restarted(&host, served, restart);
    // It is one server, however often it comes.
    let group = host.until_working("web", 1);
    let worker = &group.workers[0];
    assert!(worker.restarts >= u64::from(rounds()), "{worker:?}\n{}", host.told());
    assert!(worker.selected > 0 && worker.migrated_in > 0, "{worker:?}");
    host.does(&["release", "web"]);
    println!(
        "{:<18} {:>10} {:>4}  alone {:>6} of {:>7} lost   adopted {:>3} of {:>7} lost, the longest took {} ms",
        served.name,
        restart.join(", "),
        rounds(),
        alone.failed,
        alone.connections,
        steered.failed,
        steered.connections,
        steered.longest_us() / 1_000,
    );
    if steered.failed > 0 {
        println!("{:#?}\n{}", steered.first_failures, host.told());
    }
    assert!(alone.failed > 0, "the comparison shows nothing: {alone:?}");
    (alone, steered)
}

fn loses_nothing(name: &str, served: &Served, restart: &[&str]) {
    netns::run(name, |namespace| {
        let (_, steered) = table_line(namespace, served, restart);
        assert_eq!(steered.failed, 0);
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn nginx_of_its_package_is_restarted_in_a_loop() {
    loses_nothing("units-nginx", &NGINX, &["restart"]);
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn nginx_of_its_package_is_stopped_and_started_in_a_loop() {
    loses_nothing("units-nginx-stop", &NGINX, &["stop", "start"]);
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn node_with_a_handler_of_sigterm_is_restarted_in_a_loop() {
    loses_nothing("units-node", &NODE, &["restart"]);
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn node_that_ends_at_sigterm_is_restarted_in_a_loop() {
    loses_nothing("units-node-ends", &NODE_THAT_ENDS, &["restart"]);
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn python_that_ends_at_sigterm_is_restarted_in_a_loop() {
    loses_nothing("units-python", &PYTHON, &["restart"]);
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_go_server_is_restarted_in_a_loop() {
    loses_nothing("units-go", &GO, &["restart"]);
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_java_server_is_restarted_in_a_loop() {
    loses_nothing("units-java", &JAVA, &["restart"]);
}
