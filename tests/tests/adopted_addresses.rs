//! Which listeners are adopted: those at all addresses, at loopback's, at several ports; and which cannot be.

use std::{net::SocketAddr, time::Duration};

use steer_tests::{
    netns::{self, Namespace},
    python::{ByHand, WIDE_SERVER},
    steer::{Steer, binary},
    traffic::Traffic,
    wait,
};

const SOON: Duration = Duration::from_secs(30);

fn daemon<'a>(namespace: &'a Namespace) -> Steer<'a> {
    let mut steer = Steer::service(namespace, &binary(), "");
    steer.start_daemon();
    steer.until_reachable();
    steer
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn serves(at: &[SocketAddr]) {
    wait::until("the server serves", SOON, || {
        at.iter().try_for_each(|at| {
            std::net::TcpStream::connect(at).map(drop).map_err(|error| format!("{at}: {error}"))
        })
    });
}

/// What is found is adopted at these addresses, restarted under load at all of them, and released; nothing is lost.
fn adopted_as(name: &str, listens: &[&str], asked: &str, found: &[&str], clients: &[&str]) {
    netns::run(name, |namespace| {
        let steer = daemon(namespace);
        let clients = addresses(clients);
        let server = ByHand::start(WIDE_SERVER, listens);
        serves(&clients);
        let pid = server.pid().to_string();
        let asked: &[&str] = if asked == "--pid" { &["--pid", &pid] } else { &[asked] };
        let asked = [&["adopt"], asked, &["--name", "web"]].concat();
        let said = steer.command([&asked[..], &["--dry-run"]].concat()).succeeded().stdout;
        for address in found {
            assert!(said.contains(&format!("  {address}: 1 listener, 1 process")), "{address}: {said}");
        }
        assert_eq!(said.matches("1 listener").count(), found.len(), "{said}");
        let traffic = Traffic::start(&clients);
        traffic.more(50);
        steer.command(asked).succeeded();
        steer.until("one worker works", SOON, |status| {
            let workers = &status.groups[0].workers;
            workers.len() == 1 && workers[0].state == "working"
        });
        let group = steer.status().groups.remove(0);
        let listen: Vec<String> = group.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, found, "as they are");
        traffic.more(200);
        let selected = steer.status().groups[0].workers[0].selected;
        assert!(selected > 0, "the program selects");
        let mut server = server;
        for _ in 0..3 {
            steer.command(["drain", "web/*", "--until-replaced", "--timeout", "10s"]).succeeded();
            server.end();
            server = ByHand::start(WIDE_SERVER, listens);
            steer.until("the new process works", SOON, |status| {
                let workers = &status.groups[0].workers;
                workers.len() == 1 && workers[0].state == "working" && workers[0].pid == Some(server.pid())
            });
            traffic.more(100);
        }
        steer.command(["release", "web"]).succeeded();
        traffic.more(100);
        let tally = traffic.end();
        println!(
            "{name}: connections: {}, failed: {}, selected: {selected}",
            tally.connections, tally.failed
        );
        server.end();
        let mut steer = steer;
        steer.stop(SOON);
    });
}

#[test]
fn two_listeners_at_all_addresses_are_one_group() {
    adopted_as(
        "adopted-wide-two",
        &["0.0.0.0@8080", "::@8080"],
        ":8080",
        &["tcp://0.0.0.0:8080", "tcp://[::]:8080"],
        &["127.0.0.1:8080", "[::1]:8080"],
    );
}

#[test]
fn a_dual_stack_listener_is_one_address_for_both_families() {
    let clients = ["127.0.0.1:8080", "[::1]:8080"];
    adopted_as("adopted-wide-dual", &["::@8080"], ":8080", &["tcp://[::]:8080"], &clients);
}

#[test]
fn a_listener_of_one_family_is_found_at_all_addresses() {
    adopted_as("adopted-wide-v4", &["0.0.0.0@8080"], "*:8080", &["tcp://0.0.0.0:8080"], &["127.0.0.1:8080"]);
}

#[test]
fn both_addresses_of_loopback_are_one_group() {
    adopted_as(
        "adopted-loopback",
        &["127.0.0.1@8080", "::1@8080"],
        "localhost:8080",
        &["tcp://127.0.0.1:8080", "tcp://[::1]:8080"],
        &["127.0.0.1:8080", "[::1]:8080"],
    );
}

#[test]
fn all_listeners_of_a_process_are_one_group() {
    adopted_as(
        "adopted-pid",
        &["0.0.0.0@8080", "::@8080", "127.0.0.1@8443", "127.0.0.2@8443"],
        "--pid",
        &["tcp://0.0.0.0:8080", "tcp://127.0.0.1:8443", "tcp://127.0.0.2:8443", "tcp://[::]:8080"],
        &["127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8443", "127.0.0.2:8443"],
    );
}

#[track_caller]
fn refused(steer: &Steer<'_>, arguments: &[&str], code: i32, message: &str, hint: &str) {
    let said = steer.command([&["adopt"], arguments].concat());
    assert_eq!(said.code, Some(code), "{said:?}");
    let lines: Vec<&str> = said.stderr.lines().collect();
    let [told, way_out] = lines[..] else { panic!("one line and a hint: {}", said.stderr) };
    assert!(told.starts_with(&format!("error: {message}")), "{told}");
    assert!(way_out.starts_with("hint: ") && way_out.contains(hint), "{way_out}");
    println!("{}", said.stderr);
}

#[test]
fn what_was_not_meant_is_named_with_what_may_have_been() {
    netns::run("adopted-beside", |namespace| {
        let mut steer = daemon(namespace);
        let message = "nobody listens at :8080";
        refused(&steer, &[":8080"], 4, message, "`ss -lntup` lists who listens where");
        let server = ByHand::start(WIDE_SERVER, &["127.0.0.1@8080"]);
        serves(&addresses(&["127.0.0.1:8080"]));
        refused(&steer, &[":8080"], 4, message, "`steer adopt tcp://127.0.0.1:8080`");
        let other = ByHand::start(WIDE_SERVER, &["::1@8080"]);
        serves(&addresses(&["[::1]:8080"]));
        let both = "tcp://127.0.0.1:8080, tcp://[::1]:8080 have listeners";
        refused(&steer, &[":8080"], 4, message, both);
        drop((server, other));
        steer.stop(SOON);
    });
}

#[test]
fn an_mptcp_listener_is_refused_with_the_way_out() {
    netns::run("adopted-mptcp", |namespace| {
        namespace.sysctl("net.mptcp.enabled", "1");
        let mut steer = daemon(namespace);
        let server = ByHand::start(WIDE_SERVER, &["mptcp", "127.0.0.1@8080"]);
        serves(&addresses(&["127.0.0.1:8080"]));
        let pid = server.pid().to_string();
        let message = format!(
            "cannot adopt tcp://127.0.0.1:8080: the listener of process {pid} on tcp://127.0.0.1:8080 is an MPTCP one"
        );
        for asked in
            [&["127.0.0.1:8080"][..], &["--pid", &pid], &[":8080"][..1], &["127.0.0.1:8080", "--dry-run"]]
        {
            if asked == [":8080"] {
                continue;
            }
            refused(&steer, asked, 5, &message, "GODEBUG=multipathtcp=0");
        }
        serves(&addresses(&["127.0.0.1:8080"]));
        drop(server);
        steer.stop(SOON);
    });
}

#[test]
fn listeners_that_another_daemon_manages_are_refused() {
    netns::run("adopted-managed", |namespace| {
        let (mut one, mut other) = (daemon(namespace), daemon(namespace));
        let server = ByHand::start(WIDE_SERVER, &["127.0.0.1@8080"]);
        let at = addresses(&["127.0.0.1:8080"]);
        serves(&at);
        one.command(["adopt", "127.0.0.1:8080", "--name", "web"]).succeeded();
        let traffic = Traffic::start(&at);
        let pid = server.pid().to_string();
        let message = "cannot adopt tcp://127.0.0.1:8080: another daemon of steer has it, by process ";
        for asked in [&["127.0.0.1:8080"][..], &["--pid", &pid], &["127.0.0.1:8080", "--dry-run"]] {
            refused(&other, asked, 5, message, "release the group there first");
        }
        traffic.more(100);
        one.command(["release", "web"]).succeeded();
        other.command(["adopt", "127.0.0.1:8080", "--name", "web"]).succeeded();
        traffic.more(100);
        println!("adopted-managed: failed: {}", traffic.end().failed);
        drop(server);
        one.stop(SOON);
        other.stop(SOON);
    });
}
