//! Units of a real systemd, adopted: what `systemctl` does to them is not noticed by their clients.
//!
//! `cargo xtask servers --adopted` runs these: they need a Debian tree.

use std::{net::SocketAddr, time::Duration};

use steer_tests::{host::Host, netns, traffic::Traffic};

/// How often each server is restarted.
fn rounds() -> u32 {
    let given = std::env::var("STEER_TEST_ROUNDS");
    given.map_or(5, |rounds| rounds.parse().unwrap_or_else(|error| panic!("STEER_TEST_ROUNDS: {error}")))
}

fn targets(port: u16) -> [SocketAddr; 2] {
    [([127, 0, 0, 1], port).into(), (std::net::Ipv6Addr::LOCALHOST, port).into()]
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn nginx_as_its_package_brings_it_is_restarted_in_a_loop() {
    netns::run("units-nginx", |namespace| {
        let host = Host::start(namespace);
        let dry = host.does(&["adopt", "nginx", "--dry-run"]);
        println!("{dry}");
        let said = host.does(&["adopt", "nginx"]);
        println!("{said}");
        host.until_working("nginx", 1);
        let traffic = Traffic::start(&targets(80));
        for round in 0..rounds() {
            let generation = host.group("nginx").workers[0].generation;
            host.systemctl(&["restart", "nginx"]);
            let group = host.until("the new listeners work", "nginx", |group| {
                let worker = &group.workers[0];
                worker.state == "working" && worker.generation > generation
            });
            println!("restart {round}: {:?}", group.workers[0]);
            traffic.more(100);
        }
        let tally = traffic.end();
        println!("units-nginx: {} connections, {} failed", tally.connections, tally.failed);
        host.does(&["release", "nginx"]);
        println!("{}", host.told());
        let _ = Duration::ZERO;
    });
}
