//! Others undo what the daemon has made in the kernel, its pins and its files: it is put right, or refused, and traffic goes on.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt, chown, symlink},
    thread,
    time::Duration,
};

use aya::maps::{Map, MapData, ReusePortSockArray};
use rustix::process::Signal;
use server_common::limits;
use steer_tests::{
    clients::{Answer, Client, answers},
    control::{Control, assert_counted_once},
    netns, nft, process, python,
    receipts::{connections_reset, receipt_of},
    scripts,
    service::{group, sample},
    sockets::{TcpState, tcp_count},
    steer::{Steer, binary},
    strangers::{accepted, attach_constant, join},
    traffic::Traffic,
    wait,
};

const ADDRESS: &str = "127.0.0.1:8080";
const SOON: Duration = Duration::from_secs(30);
/// How long to wait for anything that was undone to be mended: it is looked for once a second, on a machine that may be busy.
const MENDED: Duration = Duration::from_secs(20);

/// A worker that detaches its group's program through its own listener, where it is asked for `/detach`. SO_DETACH_REUSEPORT_BPF
/// is 68.
const DETACHING: &str = r#"
import os, socket
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    try:
        if b"/detach" in connection.recv(4096):
            listener.setsockopt(socket.SOL_SOCKET, 68, 0)
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Worker: %s\r\nX-Generation: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            % os.environ["STEER_WORKER"].encode())
    except OSError:
        pass
    connection.close()
"#;

fn address() -> SocketAddr {
    ADDRESS.parse().expect("an address")
}

fn connect() -> TcpStream {
    TcpStream::connect(address()).expect("somebody listens")
}

/// Waits until not one of a hundred connections is the stranger's; panics unless the program has counted them and more of them.
#[track_caller]
fn until_ours_chooses(control: &Control, stranger: &TcpListener) {
    wait::until("the program chooses again", MENDED, || {
        let before = control.status().counters.asked.connection;
        (0..100).for_each(|_| drop(connect()));
        let (theirs, status) = (accepted(stranger), control.status());
        let counted = status.counters.asked.connection - before;
        let seen = format!("{theirs} of 100 were the stranger's, {counted} counted");
        if theirs == 0 && counted >= 100 { Ok(()) } else { Err(seen) }
    });
    assert_counted_once(&control.status());
}

/// The index in the sockarray of the first listener in a slot: a worker that may bind for itself has room for several.
fn first_place(slot: u32) -> u32 {
    let cpus = thread::available_parallelism().expect("the CPUs can be counted");
    slot * limits::sockets(cpus.get() as u32)
}

/// The group's sockarray.
fn listeners_of(steer: &Steer<'_>) -> ReusePortSockArray<MapData> {
    let pin = steer.pins().expect("it has pins").join("web/0/LISTENERS");
    let map = MapData::from_pin(pin).expect("root may open it");
    Map::from_map_data(map).expect("a map").try_into().expect("a sockarray")
}

#[track_caller]
fn until_mended(control: &Control, what: &str, before: usize) {
    wait::until("it is mended and told", MENDED, || {
        let events = control.events("mended");
        let told = events.iter().filter(|event| event.detail.contains(what)).count();
        if told > before { Ok(()) } else { Err(format!("{events:?}")) }
    });
}

#[test]
fn another_program_or_none_at_all_is_replaced_by_ours() {
    netns::run("other-program", |namespace| {
        let command = python::command(DETACHING, &[]);
        // As another user than the daemon, which has no capability.
        let more = "user = \"65534\"\nmode = \"inherit\"\nready = \"probe\"";
        let configured = group("web", ADDRESS, 2, &command, more);
        let mut steer = Steer::configured(namespace, &configured);
        let control = Control::new(&steer.socket());
        let stranger = join(ADDRESS);
        // The kernel numbers members as they join.
        let last = tcp_count(address(), TcpState::Listen) - 1;
        for round in 1..=2 {
            wait::until("the other program chooses", SOON, || {
                attach_constant(&stranger, last as u32);
                (0..20).for_each(|_| drop(connect()));
                match accepted(&stranger) {
                    20 => Ok(()),
                    fewer => Err(format!("{fewer} of 20 in round {round}")),
                }
            });
            until_ours_chooses(&control, &stranger);
            wait::until("the kernel's hash chooses", SOON, || {
                let mut asking = connect();
                std::io::Write::write_all(&mut asking, b"GET /detach HTTP/1.1\r\n\r\n")
                    .expect("it is connected");
                let mut answer = String::new();
                std::io::Read::read_to_string(&mut asking, &mut answer).expect("it answers");
                (0..100).for_each(|_| drop(connect()));
                match accepted(&stranger) {
                    0 => Err("none of 100 was the stranger's".to_owned()),
                    _ => Ok(()),
                }
            });
            until_ours_chooses(&control, &stranger);
        }
        println!("other-program: attached 2 times, detached 2 times, mended 4 times");
        drop(stranger);
        steer.stop(SOON);
    });
}

#[test]
fn slots_and_pins_that_others_take_away_are_there_again() {
    netns::run("taken-away", |namespace| {
        let mut steer = Steer::configured(namespace, &group("web", ADDRESS, 3, &sample(&binary()), ""));
        let control = Control::new(&steer.socket());
        let traffic = Traffic::start(&[address()]);
        let pins = steer.pins().expect("it has pins").to_owned();

        let slot = control.status().workers[1].slot.expect("it works");
        let mut listeners = listeners_of(&steer);
        for round in 0..2 {
            let further = control.status().counters.outcome.further_choice;
            listeners.clear_index(&first_place(slot)).expect("it was filled");
            until_mended(&control, "slot", round);
            // It was empty for a moment at least in which somebody may have come; from now on nobody goes elsewhere.
            let status = control.status();
            traffic.more(300);
            let after = control.status();
            assert!(status.counters.outcome.further_choice >= further);
            assert_eq!(after.counters.outcome.further_choice, status.counters.outcome.further_choice);
            assert!(after.workers[1].selected > status.workers[1].selected, "{after:?}");
        }

        let before = steer.worker_pids();
        fs::remove_dir_all(&pins).expect("root may");
        until_mended(&control, "pins", 0);
        steer.kill();
        traffic.more(100);
        // Whoever has the group has its pins, those that were made again as well.
        let (socket, configuration) = (steer.path("other.sock"), steer.path("steer.toml"));
        steer.start_daemon();
        steer.until_working();
        assert_eq!(steer.worker_pids(), before);
        assert_eq!(Control::new(&steer.socket()).events("taken-over").len(), 1);
        fs::remove_dir_all(&pins).expect("root may");
        until_mended(&control, "pins", 0);
        let mut second = std::process::Command::new(binary());
        second.arg("--socket").arg(socket).arg("daemon").arg("--config").arg(configuration);
        let refused = second.arg("--pins").arg(&pins).output().expect("it runs");
        assert_eq!(refused.status.code(), Some(5), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("another daemon's"), "{refused:?}");

        let tally = traffic.end();
        println!("taken-away: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.stop(SOON);
        assert!(!pins.join("web").exists());
    });
}

#[test]
fn what_was_half_open_at_a_listener_that_was_shut_finds_the_group_after_a_look_at_it() {
    const CLIENTS: usize = 20;
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    netns::run("half-open", |namespace| {
        // The first generation's process, and with it its listener, stays for as long as it is not killed.
        let script = scripts::sample_worker(place.path(), "[ $STEER_GENERATION = 1 ]", "--ignore-term");
        let steer = Steer::configured(
            namespace,
            &group("web", ADDRESS, 1, &[script.to_string_lossy().into_owned()], "ready = \"notify\""),
        );
        let control = Control::new(&steer.socket());
        let pid = control.status().workers[0].pid.expect("it works");
        let frozen = nft::freeze_final_ack(namespace, address().port());
        let mut clients: Vec<Client> =
            (0..CLIENTS).map(|_| Client::connect([127, 0, 0, 7].into(), address())).collect();
        // From then on their timers, which would move them, are 4 seconds away.
        wait::until("each SYN-ACK was sent three times", SOON, || match frozen.dropped() {
            dropped if dropped >= 3 * CLIENTS as u64 => Ok(()),
            dropped => Err(format!("{dropped} ACKs")),
        });
        thread::scope(|scope| {
            let restart =
                scope.spawn(|| steer.command(["restart", "web/0", "--json", "--timeout", "200ms"]).exited(6));
            // Of the worker's two generations and the daemon, the first's does not listen any more.
            steer.until("the second generation works", SOON, |status| {
                status.groups[0].workers[0].generation == 2
            });
            wait::until("the first listener is shut", SOON, || {
                match tcp_count(address(), TcpState::Listen) {
                    2 => Ok(()),
                    found => Err(format!("{found} listen")),
                }
            });
            // That a look at everything has followed shows in what it mends: here the holding listener's slot.
            let own = control.status().workers[0].slot.expect("it works");
            let mut listeners = listeners_of(&steer);
            let cleared = (0..8)
                .filter(|slot| *slot != own && listeners.clear_index(&first_place(*slot)).is_ok())
                .count();
            assert_eq!(cleared, 1, "the holding listener's");
            until_mended(&control, "slot", 0);
            let by_timers = control.status().counters.asked.migration;
            drop(frozen);
            clients.iter_mut().for_each(Client::ask);
            answers(clients, |_| Answer { worker: 0, generation: 2 });
            process::signal(pid, Signal::KILL);
            let receipt = receipt_of(&restart.join().expect("the restart ends"));
            assert_eq!((receipt.outcome.as_str(), receipt.handshakes.began), ("deadline", CLIENTS as u64));
            // Whether they are still there at the drain's end is up to the clients, which are let in before it.
            let left =
                format!("at its deadline it had {CLIENTS} half-open, 0 unaccepted and 0 open connections");
            assert_eq!(receipt.message, Some(left));
            let counters = control.status().counters;
            assert_eq!((counters.asked.migration, counters.outcome.dropped), (CLIENTS as u64, 0));
            assert_eq!(connections_reset(), 0);
            println!("half-open: {CLIENTS}, moved: {CLIENTS}, of them by timers: {by_timers}");
        });
    });
}

#[test]
fn a_group_whose_pins_are_gone_serves_on_without_a_daemon() {
    netns::run("unpinned", |namespace| {
        let other: SocketAddr = "127.0.0.1:8081".parse().expect("an address");
        let configured = group("web", ADDRESS, 2, &sample(&binary()), "")
            + &group("api", &other.to_string(), 2, &sample(&binary()), "");
        let mut steer = Steer::configured(namespace, &configured);
        let traffic = Traffic::start(&[address(), other]);
        let (pins, before) = (steer.pins().expect("it has pins").to_owned(), steer.processes().len());
        steer.kill();
        fs::remove_dir_all(pins.join("web")).expect("root may");
        for _ in 0..2 {
            steer.start_refused(1, &["cannot take over tcp://127.0.0.1:8080", "is gone from"]);
        }
        assert!(pins.join("api/0/LISTENERS").exists(), "of the others nothing is lost");
        traffic.more(200);
        assert_eq!(steer.processes().len(), before - 1, "{}", process::describe(&steer.processes()));
        let tally = traffic.end();
        println!("unpinned: connections: {}, failed: {}", tally.connections, tally.failed);
    });
}

#[test]
fn a_state_that_is_not_the_daemons_own_is_refused() {
    netns::run("other-state", |namespace| {
        let mut steer = Steer::configured(namespace, &group("web", ADDRESS, 2, &sample(&binary()), ""));
        let (before, file) = (steer.worker_pids(), steer.state_file("web"));
        let aside = steer.path("aside");
        let traffic = Traffic::start(&[address()]);
        steer.kill();
        let own = fs::read_to_string(&file).expect("it is written");
        let changed = |from: &str, to: &str| {
            assert!(own.contains(from), "{own}");
            own.replacen(from, to, 1)
        };
        for text in ["", "{", "[]", &own[..own.len() / 2], &changed("\"engine\":", "\"motor\":")] {
            fs::write(&file, text).expect("root may");
            steer.start_refused(5, &["steer.sock.state/web.json", "cannot be understood"]);
        }
        for (from, to) in [("\"format\":2", "\"format\":1"), ("\"maps\":3", "\"maps\":7")] {
            fs::write(&file, changed(from, to)).expect("root may");
            let said = steer.start_refused(5, &["steer.sock.state/web.json", "this one reads format 2"]);
            assert!(said.contains("steer release --all"), "{said}");
        }
        fs::rename(&file, &aside).expect("root may");
        symlink(&aside, &file).expect("root may");
        steer.start_refused(5, &["steer.sock.state/web.json", "symbolic link"]);
        fs::remove_file(&file).expect("root may");
        fs::write(&file, &own).expect("root may");
        chown(&file, Some(65534), None).expect("root may");
        steer.start_refused(5, &["steer.sock.state/web.json", "owner 65534"]);
        chown(&file, Some(0), None).expect("root may");
        let directory = file.parent().expect("it has one");
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("root may");
        steer.start_refused(5, &["steer.sock.state", "mode 755"]);
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).expect("root may");

        traffic.more(100);
        steer.start_daemon();
        steer.until_working();
        assert_eq!(steer.worker_pids(), before, "they were never touched");
        let tally = traffic.end();
        println!("other-state: refused: 10, connections: {}, failed: {}", tally.connections, tally.failed);
        assert!(steer.end_with(Signal::TERM, SOON).success());
        steer.start_daemon();
        steer.until_working();
        steer.stop(SOON);
    });
}
