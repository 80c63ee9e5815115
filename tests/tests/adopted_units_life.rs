//! What becomes of an adopted unit in its life: stopped, failed, given up, started at boot; and what becomes of it without the daemon.
//!
//! `cargo xtask servers --adopted` runs these: they need a Debian tree.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use steer::load::four_tuples;
use steer_tests::{
    host::Host,
    load::{Load, visit},
    netns,
    python::PLAIN_SERVER,
    traffic::Traffic,
    units_served::{NGINX, NODE_THAT_ENDS, Served},
    wait,
};

const SOON: Duration = Duration::from_secs(30);

fn address(served: &Served) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, served.port).into()
}

/// Asks for a page, however long that takes.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(SOON))?;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn until_served(served: &Served) {
    wait::until("it serves", SOON, || ask(address(served)).map_err(|error| error.to_string()));
}

/// A host with this server, adopted as `web`.
fn adopted(namespace: &netns::Namespace, served: &Served) -> Host {
    let host = Host::start(namespace);
    served.install(&host);
    until_served(served);
    host.does(&["adopt", served.unit, "--name", "web"]);
    host.until_working("web", 1);
    host
}

fn has_event(host: &Host, kind: &str) {
    wait::until(&format!("{kind} is told"), SOON, || {
        let events = host.does(&["events", "--json"]);
        if events.contains(&format!("\"kind\":\"{kind}\"")) { Ok(()) } else { Err(events) }
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_unit_that_is_stopped_for_good_refuses_after_a_grace_and_serves_again_when_it_is_started() {
    netns::run("units-stopped", |namespace| {
        let host = adopted(namespace, &NGINX);
        host.systemctl(&["stop", "nginx"]);
        // Somebody may be about to start it again: who comes now waits.
        let waits = std::thread::spawn(|| ask(address(&NGINX)));
        has_event(&host, "hold-over");
        let waited = waits.join().expect("it asks");
        println!("units-stopped: who waited: {waited:?}");
        assert!(waited.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
        wait::until("later ones are refused", SOON, || match TcpStream::connect(address(&NGINX)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        });
        host.systemctl(&["start", "nginx"]);
        until_served(&NGINX);
        host.until_working("web", 1);
        let traffic = Traffic::start(&[address(&NGINX)]);
        host.systemctl(&["restart", "nginx"]);
        traffic.more(100);
        let tally = traffic.end();
        println!("units-stopped: afterwards {} connections, {} failed", tally.connections, tally.failed);
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_unit_that_crashes_is_waited_for_while_systemd_starts_it_again() {
    netns::run("units-crash", |namespace| {
        let host = Host::start(namespace);
        host.machine.write(
            "/etc/systemd/system/node.service.d/again.conf",
            "[Service]\nRestart=always\nRestartSec=4s\n",
        );
        NODE_THAT_ENDS.install(&host);
        until_served(&NODE_THAT_ENDS);
        host.does(&["adopt", "node", "--name", "web"]);
        host.until_working("web", 1);
        let traffic = Traffic::start(&[address(&NODE_THAT_ENDS)]);
        let before = host.machine.property("node", "MainPID");
        host.systemctl(&["kill", "--signal=KILL", "node"]);
        wait::until("systemd has started it again", SOON, || {
            match host.machine.property("node", "MainPID") {
                pid if pid != before && pid != "0" => Ok(()),
                pid => Err(pid),
            }
        });
        traffic.more(100);
        // Longer than the grace for a stop by hand: systemd has said that it comes back.
        let tally = traffic.end_after_kill();
        println!(
            "units-crash: {} connections, {} failed, which it had accepted",
            tally.connections, tally.failed
        );
        host.until_working("web", 1);
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_unit_that_systemd_gives_up_refuses() {
    netns::run("units-given-up", |namespace| {
        let host = Host::start(namespace);
        NODE_THAT_ENDS.install(&host);
        until_served(&NODE_THAT_ENDS);
        host.machine.write(
            "/etc/systemd/system/node.service.d/limit.conf",
            "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=3\n",
        );
        host.systemctl(&["daemon-reload"]);
        host.does(&["adopt", "node", "--name", "web"]);
        host.until_working("web", 1);
        wait::until("its start limit is hit", SOON, || {
            let output = host.machine.run(&["systemctl", "restart", "node"]);
            if output.stderr.contains("too often") { Ok(()) } else { Err(format!("{output:?}")) }
        });
        has_event(&host, "hold-over");
        wait::until("clients are refused", SOON, || match TcpStream::connect(address(&NODE_THAT_ENDS)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        });
        host.systemctl(&["reset-failed", "node"]);
        host.systemctl(&["start", "node"]);
        until_served(&NODE_THAT_ENDS);
        host.until_working("web", 1);
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn units_that_cannot_be_adopted_are_refused_with_the_way_out() {
    netns::run("units-refused", |namespace| {
        let host = Host::start(namespace);
        host.add(&[
            ("lazy.service", "[Service]\nExecStart=/bin/sleep infinity\n"),
            ("lazy.socket", "[Socket]\nListenStream=127.0.0.1:81\n"),
            ("quiet.service", "[Service]\nExecStart=/bin/sleep infinity\n"),
        ]);
        host.systemctl(&["start", "lazy.socket", "quiet"]);
        host.refuses(&["adopt", "no-such"], 4, &["no-such.service"]);
        host.refuses(
            &["adopt", "lazy"],
            5,
            &["process 1 holds its listeners, by lazy.socket", "nothing is lost"],
        );
        host.systemctl(&["start", "lazy"]);
        host.refuses(&["adopt", "lazy"], 5, &["process 1 holds its listeners, by lazy.socket"]);
        host.refuses(&["adopt", "quiet"], 5, &["quiet.service"]);
        host.refuses(&["adopt", "dbus"], 5, &["dbus"]);
        host.does(&["adopt", "nginx"]);
        host.refuses(&["adopt", "nginx", "--name", "other"], 5, &["the group nginx has it already"]);
        host.systemctl(&["stop", "redis-server"]);
        host.refuses(&["adopt", "redis-server"], 5, &["it does not run", "systemctl start"]);
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_restart_by_steer_is_the_units_reload_and_a_release_leaves_no_trace() {
    netns::run("units-release", |namespace| {
        let host = Host::start(namespace);
        NGINX.install(&host);
        let traces = || {
            let listed = |path: &str| host.machine.run(&["find", path, "-not", "-type", "d"]).stdout;
            (listed("/run/systemd/system"), listed("/sys/fs/bpf"), listed("/run/steer"))
        };
        let listeners = || {
            let table = host.machine.execute(&["cat", "/proc/net/tcp", "/proc/net/tcp6"]);
            table.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")).count()
        };
        let (before, listened) = (traces(), listeners());
        host.does(&["adopt", "nginx", "--name", "web"]);
        host.until_working("web", 1);
        let traffic = Traffic::start(&[address(&NGINX)]);
        let during = traces();
        println!("units-release: adopted: {}", during.0.replace('\n', " "));
        assert_ne!(during.0, before.0, "a stop of it drains");
        let master = host.machine.property("nginx", "MainPID");
        host.does(&["restart", "web"]);
        assert_eq!(host.machine.property("nginx", "MainPID"), master, "it was reloaded");
        traffic.more(100);
        host.does(&["release", "web"]);
        traffic.more(100);
        wait::until("nothing is left", SOON, || {
            let (found, listen) = (traces(), listeners());
            if (&found, listen) == (&before, listened) {
                Ok(())
            } else {
                Err(format!("{found:?}, {listen}; before {before:?}, {listened}"))
            }
        });
        let tally = traffic.end();
        println!("units-release: {} connections, {} failed", tally.connections, tally.failed);
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_unit_that_is_kept_outlives_daemons_and_is_there_at_a_boot() {
    netns::run("units-boot", |namespace| {
        let host = Host::start(namespace);
        NGINX.install(&host);
        host.does(&["adopt", "nginx", "--name", "web", "--keep"]);
        host.until_working("web", 1);
        let traffic = Traffic::start(&[address(&NGINX)]);
        host.systemctl(&["restart", "steer"]);
        host.until_working("web", 1);
        traffic.more(100);
        host.systemctl(&["restart", "nginx"]);
        traffic.more(100);
        host.systemctl(&["kill", "--kill-whom=main", "--signal=KILL", "steer"]);
        host.systemctl(&["restart", "nginx"]);
        traffic.more(100);
        wait::until("another daemon serves", SOON, || {
            let output = host.steer(&["status"]);
            if output.code == Some(0) { Ok(()) } else { Err(format!("{output:?}")) }
        });
        host.until_working("web", 1);
        let tally = traffic.end();
        println!("units-boot: {} connections, {} failed", tally.connections, tally.failed);
        host.does(&["release", "web"]);
        // As at a boot, the daemon first: who comes waits.
        host.systemctl(&["stop", "steer", "nginx"]);
        host.systemctl(&["start", "steer"]);
        let waits = std::thread::spawn(|| ask(address(&NGINX)));
        host.until("somebody waits", "web", |group| group.held > 0);
        host.systemctl(&["start", "nginx"]);
        let answered = waits.join().expect("it asks").expect("it is answered");
        assert!(answered.ends_with("200 OK"), "{answered}");
        host.until_working("web", 1);
        // And the server first.
        host.does(&["release", "web"]);
        host.systemctl(&["stop", "steer"]);
        let traffic = Traffic::start(&[address(&NGINX)]);
        host.systemctl(&["start", "steer"]);
        host.until_working("web", 1);
        host.systemctl(&["restart", "nginx"]);
        traffic.more(100);
        let tally = traffic.end();
        println!("units-boot: at the boot {} connections, {} failed", tally.connections, tally.failed);
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_program_of_the_same_user_in_another_unit_gets_nothing() {
    const UNIT: &str = "[Service]\nExecStart=/usr/bin/python3 /srv/app.py 127.0.0.1 8086\n";
    const CONNECTIONS: u64 = 100_000;
    netns::run("units-stranger", |namespace| {
        let host = Host::start(namespace);
        host.machine.write("/srv/app.py", PLAIN_SERVER);
        host.add(&[("app.service", UNIT), ("stranger.service", UNIT)]);
        host.systemctl(&["start", "app"]);
        let address = (Ipv4Addr::LOCALHOST, 8086).into();
        wait::until("it serves", SOON, || {
            TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
        });
        host.does(&["adopt", "app", "--name", "web"]);
        host.until_working("web", 1);
        host.systemctl(&["start", "stranger"]);
        host.until("the stranger is seen", "web", |group| group.strangers == 1);
        let clients: Vec<_> = (1..=16).map(|number| [127, 1, 0, number].into()).collect();
        let load = Load::start(four_tuples(&clients, 20_000..20_064, &[address]), 16);
        load.wait_for(CONNECTIONS);
        let tally = load.end();
        let stranger = host.machine.property("stranger", "MainPID");
        let by: Vec<_> = tally.by_responder.iter().map(|(who, count)| (who.pid.clone(), *count)).collect();
        println!(
            "units-stranger: {} connections, {} failed, by process {by:?}, the stranger is {stranger}",
            tally.connections, tally.failed
        );
        assert_eq!(tally.failed, 0);
        assert!(by.len() == 1 && by[0].0 != stranger, "{by:?}");
        // With the group's end the kernel's hash chooses again, and it has its part.
        host.does(&["release", "web"]);
        let tally = visit(&four_tuples(&clients, 20_100..20_116, &[address]), 16);
        assert_eq!(tally.by_responder.len(), 2, "{:?}", tally.by_responder);
    });
}
