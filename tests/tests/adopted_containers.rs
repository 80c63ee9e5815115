//! Servers in containers of the host's network, taken under management: followed by their container's name, or rolled over at one address.
//!
//! The containers are cgroups that look like an engine's; `adopted_podman.rs` has real ones.

use std::{net::SocketAddr, time::Duration};

use steer_tests::{
    containers::Engine,
    netns::{self, Namespace},
    python::WIDE_SERVER,
    steer::{Steer, binary},
    traffic::Traffic,
    wait,
};

const SOON: Duration = Duration::from_secs(30);
const LISTENS: [&str; 1] = ["127.0.0.1@8080"];

fn address() -> SocketAddr {
    "127.0.0.1:8080".parse().expect("an address")
}

fn daemon<'a>(namespace: &'a Namespace, engine: &Engine, configuration: &str) -> Steer<'a> {
    let mut steer = Steer::service(namespace, &binary(), configuration);
    steer.environment = vec![("PATH".to_owned(), engine.path().into())];
    steer.start_daemon();
    steer.until_reachable();
    steer
}

fn serves() {
    wait::until("the server serves", SOON, || {
        std::net::TcpStream::connect(address()).map(drop).map_err(|error| error.to_string())
    });
}

/// Waits until the workers that work are these processes, and no other.
fn served_by(steer: &Steer<'_>, pids: &[u32]) {
    steer.until("its workers are the containers", SOON, |status| {
        let [group] = &status.groups[..] else { return false };
        let working = group.workers.iter().filter(|worker| worker.state == "working");
        let mut found: Vec<u32> = working.filter_map(|worker| worker.pid).collect();
        let mut wanted = pids.to_vec();
        found.sort_unstable();
        wanted.sort_unstable();
        found == wanted
    });
}

#[test]
fn a_container_is_followed_by_its_name_when_it_is_made_anew() {
    netns::run("adopted-container", |namespace| {
        let engine = Engine::make();
        let mut steer = daemon(namespace, &engine, "");
        let mut container = engine.run("web", '1', WIDE_SERVER, &LISTENS);
        serves();
        let id = container.id.clone();
        for asked in ["web", &id, &id[..12]] {
            let said = steer.command(["adopt", "--container", asked, "--dry-run"]).succeeded().stdout;
            assert!(said.contains(&format!("would adopt the server of container {asked}")), "{said}");
            assert!(said.contains("tcp://127.0.0.1:8080: 1 listener, 1 process"), "{said}");
        }
        steer.command(["adopt", "--container", "web"]).succeeded();
        served_by(&steer, &[container.pid()]);
        let traffic = Traffic::start(&[address()]);
        for digit in '2'..='4' {
            steer.command(["drain", "web/*", "--until-replaced", "--timeout", "10s"]).succeeded();
            container.stop();
            container = engine.run("web", digit, WIDE_SERVER, &LISTENS);
            served_by(&steer, &[container.pid()]);
            traffic.more(100);
        }
        // Another one joins, as the hook lets it, and is none of it.
        let other = engine.run("other", '9', WIDE_SERVER, &LISTENS);
        steer.until("the other is seen", SOON, |status| status.groups[0].strangers > 0);
        traffic.more(100);
        served_by(&steer, &[container.pid()]);
        other.stop();
        traffic.more(100);
        let tally = traffic.end();
        println!("adopted-container: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.command(["release", "web"]).succeeded();
        drop(container);
        steer.stop(SOON);
    });
}

#[test]
fn containers_at_one_address_are_rolled_over_also_by_a_configured_daemon() {
    netns::run("adopted-rolled", |namespace| {
        let engine = Engine::make();
        let mut steer = daemon(namespace, &engine, "");
        let mut container = engine.run("web-1", '1', WIDE_SERVER, &LISTENS);
        serves();
        steer.command(["adopt", "127.0.0.1:8080", "--name", "web"]).succeeded();
        served_by(&steer, &[container.pid()]);
        let traffic = Traffic::start(&[address()]);
        for (digit, name) in ('2'..='6').zip(["web-2", "web-3", "web-4", "web-5", "web-6"]) {
            // As a rolling update has it: one more, then one fewer.
            let next = engine.run(name, digit, WIDE_SERVER, &LISTENS);
            served_by(&steer, &[container.pid(), next.pid()]);
            traffic.more(50);
            let status = steer.status();
            let leaving = status.groups[0].workers.iter().find(|it| it.pid == Some(container.pid()));
            let leaving = leaving.expect("it is a worker").name.to_string();
            steer.command(["drain", &leaving, "--until-replaced", "--timeout", "10s"]).succeeded();
            container.stop();
            container = next;
            served_by(&steer, &[container.pid()]);
            traffic.more(50);
        }
        let tally = traffic.end();
        println!("adopted-rolled: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.command(["release", "web"]).succeeded();
        steer.stop(SOON);
        let configuration = "[[group]]\nname = \"web\"\nlisten = [\"127.0.0.1:8080\"]\n[group.adopt]\ncontainer = \"web-6\"\n";
        let mut steer = daemon(namespace, &engine, configuration);
        served_by(&steer, &[container.pid()]);
        drop(container);
        steer.stop(SOON);
    });
}

#[test]
fn containers_that_cannot_be_adopted_are_refused_with_the_way_out() {
    netns::run("adopted-container-refused", |namespace| {
        let engine = Engine::make();
        let mut steer = daemon(namespace, &engine, "");
        let refused = |asked: &str, code, message: &str, hint: &str| {
            let said = steer.command(["adopt", "--container", asked]);
            assert_eq!(said.code, Some(code), "{said:?}");
            let lines: Vec<&str> = said.stderr.lines().collect();
            let [told, way_out] = lines[..] else { panic!("one line and a hint: {}", said.stderr) };
            assert!(told.contains(message) && way_out.contains(hint), "{}", said.stderr);
            println!("{}", said.stderr);
        };
        refused("web", 4, "there is no container web that runs", "podman ps");
        // A program that enters a network namespace of its own, as containers have one where nothing else is said.
        let apart = format!("import ctypes\nctypes.CDLL(None).unshare(0x40000000)\n{WIDE_SERVER}");
        let container = engine.run("apart", '7', &apart, &["0.0.0.0@8080"]);
        wait::until("it is in a namespace of its own", SOON, || {
            let said = steer.command(["adopt", "--container", "apart"]).stderr;
            if said.contains("network namespace") { Ok(()) } else { Err(said) }
        });
        let own = "cannot adopt container apart: it is in a network namespace of its own";
        refused("apart", 5, own, &format!("--net=/proc/{}/ns/net steer daemon", container.pid()));
        drop(container);
        steer.stop(SOON);
    });
}
