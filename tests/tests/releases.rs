//! `steer release`: a group is the kernel's again, and nothing of steer is left in it.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use steer::dataplane::looks::Looks;
use steer_tests::{
    control::Control,
    load::{LISTEN, Load, pool},
    netns, process,
    python::{self, THREADED_SERVER},
    service::{group, sample},
    sockets::{TcpState, tcp_count},
    spoofed::receivers,
    steer::{Steer, binary},
    strangers::{accepted, detach_program, join},
    wait,
};

const SOON: Duration = Duration::from_secs(30);

/// Of datagrams, beside the addresses of [`LISTEN`].
const UDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8053);

fn configuration(more: &str) -> String {
    let udp = format!("udp://{UDP}");
    let all = LISTEN
        .into_iter()
        .chain([&*udp])
        .map(|address| format!("\"{address}\""))
        .collect::<Vec<_>>()
        .join(", ");
    group("web", "ALL", 3, &sample(&binary()), more).replace("\"ALL\"", &all)
}

#[test]
fn a_released_group_is_the_kernels_and_nothing_is_lost() {
    netns::run("release", |namespace| {
        let mut steer = Steer::configured(namespace, &configuration(""));
        let (workers, daemon) = (steer.worker_pids(), steer.pid());
        let address: SocketAddr = LISTEN[0].parse().expect("an address");
        let load = Load::start(pool(64, 16), 16);
        load.wait_for(1_000);
        // A member that the program gives nothing.
        let stranger = join(LISTEN[0]);
        load.wait_for(1_000);
        assert_eq!(accepted(&stranger), 0);
        drop(stranger);
        assert!(receivers(UDP).len() > workers.len(), "there is an anchor");
        let released = steer.command(["release", "web", "--json"]).succeeded();
        // The kernel's hash is another than ours.
        load.probe().pause_stickiness();
        load.wait_for(3_000);
        let tally = load.end();
        println!("release: connections: {}, failed: {}", tally.connections, tally.failed);
        assert_eq!(tally.failed, 0, "{:#?}", tally.first_failures);
        assert!(!released.stdout.is_empty());

        assert_eq!(tcp_count(address, TcpState::Listen), workers.len(), "the holding listener is gone");
        assert_eq!(receivers(UDP).len(), workers.len(), "the anchor is gone");
        for pid in &workers {
            assert!(fs::metadata(format!("/proc/{pid}")).is_ok(), "{pid} goes on");
        }
        let pins = steer.pins().expect("it has pins").to_owned();
        wait::until("nothing is left", SOON, || {
            let kept: usize = steer.keepers().iter().map(|keeper| process::sockets(*keeper)).sum();
            let left = [pins.join("web"), steer.state_file("web"), steer.path("steer.sock.web.notify")];
            let left: Vec<_> = left.iter().filter(|path| path.exists()).collect();
            // The keeper's own: where it listens, and the daemon's connection.
            if kept == 2 && left.is_empty() { Ok(()) } else { Err(format!("{kept} sockets, {left:?}")) }
        });
        let none = steer_tests::footprint::Footprint::settled(daemon);
        // Those of the looks, which are all groups', where the kernel can run them.
        let looks = Looks::open().map_or((0, 0), |looks| {
            let further = [looks.without_connections(), looks.without_processes()];
            (2, 1 + further.iter().filter(|reason| reason.is_none()).count())
        });
        assert_eq!((none.maps, none.programs), looks, "{none:?}");
        // A stranger is a member like any other now.
        let stranger = join(LISTEN[0]);
        (0..200).for_each(|_| drop(TcpStream::connect(address).expect("it listens")));
        assert!(accepted(&stranger) > 0);
        drop(stranger);
        for arguments in [["status", "web"], ["restart", "web"], ["release", "web"]] {
            let refused = steer.command(arguments).exited(4);
            assert!(refused.stderr.contains("there is no group web"), "{refused:?}");
        }
        assert!(steer.status().groups.is_empty());
        // The workers are nobody's: the daemon ends without them.
        steer.command(["stop"]).succeeded();
        assert!(steer.wait(SOON).success());
        assert_eq!(steer.processes(), workers);
        // Who is there already is not joined.
        steer.start_refused(5, &["serves it already"]);
        assert_eq!(steer.processes(), workers, "the keeper has nothing to keep");
        assert!(!pins.join("web").exists());
    });
}

/// Workers that bind for themselves keep the sockets that they were passed, and read nothing from them.
#[test]
fn datagrams_of_a_released_group_all_go_to_who_reads_them() {
    const CLIENTS: usize = 200;
    netns::run("release-datagrams", |namespace| {
        let program = python::command(THREADED_SERVER, &["127.0.0.1", "8053", "2"]);
        let configuration = format!(
            "[[group]]\nname = \"web\"\nlisten = [\"udp://{UDP}\"]\n[group.workers]\ncount = 2\ncommand = {program:?}\n"
        );
        let mut steer = Steer::configured(namespace, &configuration);
        let workers = steer.worker_pids();
        steer.command(["release", "web"]).succeeded();
        let clients: Vec<UdpSocket> = (0..CLIENTS)
            .map(|_| {
                let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
                client.connect(UDP).expect("there is a way");
                client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
                client.send(b"who").expect("it can be sent");
                client
            })
            .collect();
        let answers = clients.iter().map(|client| client.recv(&mut [0; 64]));
        assert_eq!(answers.filter(Result::is_ok).count(), CLIENTS);
        // The workers are nobody's: the daemon ends without them.
        steer.command(["stop"]).succeeded();
        assert!(steer.wait(SOON).success());
        assert_eq!(steer.processes(), workers);
    });
}

#[test]
fn what_is_under_way_is_not_released_and_what_another_has_detached_is() {
    netns::run("release-busy", |namespace| {
        let two = configuration("") + &group("api", "127.0.0.1:9090", 1, &sample(&binary()), "");
        let mut steer = Steer::configured(namespace, &two);
        let control = Control::new(&steer.socket());
        let busy: Vec<TcpStream> = (0..60)
            .map(|_| {
                let mut stream = TcpStream::connect(LISTEN[0]).expect("it listens");
                stream.write_all(b"GET /hang HTTP/1.1\r\nHost: steer\r\n\r\n").expect("a request");
                stream
            })
            .collect();
        steer.until("each has connections", SOON, |status| {
            status.groups[1].workers.iter().all(|worker| worker.connections > 0)
        });
        thread::scope(|scope| {
            let drain = scope.spawn(|| Control::new(&steer.socket()).drain(1));
            steer.until("it drains", SOON, |status| status.groups[1].workers[1].state == "draining");
            for which in ["web", "--all"] {
                let refused = steer.command(["release", which]).exited(5);
                assert!(refused.stderr.contains("cannot release web"), "{refused:?}");
                assert!(refused.stderr.contains("hint: "), "{refused:?}");
            }
            assert!(control.status().counters.runs > 0, "it is managed");
            drop(busy);
            drain.join().expect("the drain ends")
        });
        // Its program is gone before the daemon knows.
        let stranger = join(LISTEN[0]);
        detach_program(&stranger);
        let workers = steer.worker_pids();
        steer.command(["release", "web"]).succeeded();
        assert!(!workers.is_empty());
        steer.command(["release", "--all"]).succeeded();
        assert!(steer.status().groups.is_empty());
        assert!(!steer.pins().expect("it has pins").join("api").exists());
        steer.command(["stop"]).succeeded();
        assert!(steer.wait(SOON).success());
        println!("release-busy: refused: 2, released: 2");
    });
}
