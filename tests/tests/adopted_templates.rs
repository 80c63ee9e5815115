//! A template of systemd's, adopted: its instances are the workers of one group.
//!
//! `cargo xtask servers --adopted` runs these: they need a Debian tree.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use steer_tests::{host::Host, netns, python::PLAIN_SERVER, traffic::Traffic, wait};

const SOON: Duration = Duration::from_secs(30);
const TEMPLATE: &str = "\
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/python3 /srv/app.py 127.0.0.1 8085
";

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 8085).into()
}

/// Where a worker's process is.
fn instance(host: &Host, pid: u32) -> String {
    let path = host.machine.execute(&["cat", &format!("/proc/{pid}/cgroup")]);
    path.rsplit('/').next().unwrap_or_default().trim().to_owned()
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn instances_of_a_template_are_the_workers_of_one_group() {
    netns::run("units-template", |namespace| {
        let host = Host::start(namespace);
        host.machine.write("/srv/app.py", PLAIN_SERVER);
        host.add(&[("my-app@.service", TEMPLATE)]);
        host.refuses(
            &["adopt", "my-app@"],
            5,
            &["none of its instances runs", "systemctl start my-app@1.service"],
        );
        host.systemctl(&["start", "my-app@1", "my-app@2", "my-app@3"]);
        wait::until("all of them listen", SOON, || {
            let said = host.steer(&["adopt", "my-app@", "--dry-run"]);
            if said.stdout.contains("3 listeners, 3 processes") { Ok(()) } else { Err(format!("{said:?}")) }
        });
        // One of them alone would leave the others' listeners, at the same address, without clients.
        host.refuses(
            &["adopt", "my-app@2"],
            5,
            &["2 listeners of others", "`steer adopt my-app@` takes all"],
        );
        println!("{}", host.does(&["adopt", "my-app@", "--name", "app"]));
        host.until_working("app", 3);
        let traffic = Traffic::start(&[address()]);
        traffic.more(200);
        let before = host.group("app");
        let pids: Vec<u32> = before.workers.iter().filter_map(|worker| worker.pid).collect();
        for round in 0..3 {
            host.systemctl(&["restart", "my-app@2"]);
            traffic.more(100);
            let group = host.until_working("app", 3);
            let stays = group.workers.iter().zip(&before.workers).filter(|(now, then)| now.pid == then.pid);
            assert_eq!(stays.count(), 2, "round {round}: {group:?}");
        }
        // steer's own restart goes through all instances.
        host.does(&["restart", "app"]);
        let group = host.until("all are others", "app", |group| {
            let is_new = |worker: &steer::control::api::WorkerStatus| {
                worker.state == "working" && worker.pid.is_some_and(|pid| !pids.contains(&pid))
            };
            group.workers.len() == 3 && group.workers.iter().all(is_new)
        });
        let of: std::collections::BTreeSet<String> =
            group.workers.iter().filter_map(|worker| Some(instance(&host, worker.pid?))).collect();
        assert_eq!(of.len(), 3, "each worker is an instance: {of:?}");
        // One more, one less.
        host.systemctl(&["start", "my-app@4"]);
        host.until_working("app", 4);
        traffic.more(100);
        host.systemctl(&["stop", "my-app@1"]);
        traffic.more(200);
        let tally = traffic.end();
        println!("units-template: {} connections, {} failed", tally.connections, tally.failed);
        host.does(&["release", "app"]);
    });
}
