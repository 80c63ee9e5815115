//! The daemon lacks something: bpffs, a capability, descriptors, room on the disk, its keeper. It says so, or does without, and what
//! serves goes on.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode},
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::Signal,
};
use steer_tests::{
    clients::Client,
    control::Control,
    mounts::{self, Mounted},
    netns::{self, Namespace},
    process,
    service::{group, replace_keeper, sample},
    steer::{Steer, binary},
    traffic::Traffic,
    wait,
    workers::Workers,
};

const ADDRESS: &str = "127.0.0.1:8080";
const SOON: Duration = Duration::from_secs(30);
const HELD: usize = 40;

fn address() -> SocketAddr {
    ADDRESS.parse().expect("an address")
}

fn plain(namespace: &Namespace) -> Steer<'_> {
    Steer::service(namespace, &binary(), &group("web", ADDRESS, 2, &sample(&binary()), ""))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A group of one, whose worker is dead and cannot start: connections are held.
fn holding<'a>(namespace: &'a Namespace, workers: &Workers) -> (Steer<'a>, Vec<Client>) {
    let command = workers.arguments().split_off(3);
    let configured = group("web", ADDRESS, 1, &command, "ready = \"notify\"\nrestart = \"replace\"");
    let steer = Steer::configured(namespace, &configured);
    workers.close_gate(0);
    process::signal(steer.worker_pids()[0], Signal::KILL);
    steer.until("the group holds", SOON, |status| status.groups[0].holding);
    let client = |_| Client::connect(IpAddr::from(Ipv4Addr::LOCALHOST), address());
    let mut clients: Vec<Client> = (0..HELD).map(client).collect();
    clients.iter_mut().for_each(Client::ask);
    (steer, clients)
}

/// Lets the worker start, and reads every answer.
fn answered(steer: &Steer<'_>, workers: &Workers, clients: Vec<Client>) {
    workers.open_gate(0);
    steer.until_working();
    let count = clients.len();
    let answered = clients.into_iter().map(Client::answer).filter(|answer| answer.worker == 0).count();
    assert_eq!(answered, count);
}

#[test]
fn a_missing_bpffs_is_mounted_or_named() {
    netns::run("no-bpffs", |namespace| {
        mounts::unshare();
        let _hidden = Mounted::tmpfs(Path::new("/sys/fs/bpf"), "size=64k");
        let mut steer = plain(namespace);
        steer.launcher = words("setpriv --inh-caps=-sys_admin --bounding-set=-sys_admin");
        let said = steer.start_refused(1, &["is not in a bpffs", "Operation not permitted"]);
        assert!(said.contains("mount -t bpf bpf /sys/fs/bpf"), "{said}");
        assert!(steer.keepers().is_empty());
        steer.launcher.clear();
        steer.start_daemon();
        steer.until_working();
        assert!(steer.messages().contains("mounted bpffs at /sys/fs/bpf"), "{}", steer.messages());
        steer.kill();
        steer.start_daemon();
        steer.until_working();
        assert_eq!(Control::new(&steer.socket()).events("taken-over").len(), 1);
        steer.stop(SOON);
        // What a test mounts over another's goes with its namespace.
    });
}

#[test]
fn pins_that_can_be_no_pins_are_refused() {
    netns::run("no-pins", |namespace| {
        let mut steer = plain(namespace);
        let pins = steer.pins().expect("it has pins").to_owned();
        let mounted = || fs::read_to_string("/proc/self/mounts").expect("mounts can be read");
        let before = mounted();
        let elsewhere = steer.path("pins").display().to_string();
        for place in [elsewhere.as_str(), "/sys/fs/bpf", "/dev/null/pins"] {
            steer.arguments[3] = place.to_owned();
            let said = steer.start_refused(1, &[&format!("cannot keep pins in {place}"), "in no bpffs"]);
            assert!(said.contains("such as /sys/fs/bpf/steer"), "{said}");
        }
        assert_eq!(mounted(), before, "nothing is mounted over what there is");
        steer.arguments[3] = pins.display().to_string();
        // Somebody was first: the directory above is everybody's.
        fs::create_dir(&pins).expect("root may");
        std::os::unix::fs::chown(&pins, Some(65534), None).expect("root may");
        steer.start_refused(5, &["is not root's alone (owner 65534"]);
        fs::remove_dir(&pins).expect("root may");
        std::os::unix::fs::symlink(steer.path(""), &pins).expect("a bpffs has links");
        steer.start_refused(5, &["is not root's alone", "mode 777"]);
        fs::remove_file(&pins).expect("root may");
        assert!(steer.processes().is_empty(), "{}", process::describe(&steer.processes()));
        steer.start_daemon();
        steer.until_working();
        steer.stop(SOON);
    });
}

#[test]
fn without_cap_sys_resource_everything_works() {
    netns::run("no-resource", |namespace| {
        let mut steer = plain(namespace);
        steer.launcher = words("setpriv --inh-caps=-sys_resource --bounding-set=-sys_resource");
        steer.start_daemon();
        steer.until_working();
        let traffic = Traffic::start(&[address()]);
        Control::new(&steer.socket()).restart_all();
        steer.kill();
        steer.start_daemon();
        steer.until_working();
        Control::new(&steer.socket()).restart_all();
        let tally = traffic.end();
        println!("no-resource: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.stop(SOON);
    });
}

/// A keeper with nothing to keep ends at its daemon's end, and the next daemon may come between the two.
#[test]
fn a_keeper_that_is_just_ending_is_replaced() {
    netns::run("ending-keeper", |namespace| {
        let mut steer = plain(namespace);
        let path = steer.path("steer.sock.keeper");
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let ending = net::socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, None).expect("a socket");
        net::bind(&ending, &SocketAddrUnix::new(&path).expect("a path")).expect("it is free");
        net::listen(&ending, 4).expect("it is bound");
        steer.start_daemon();
        wait::until("the daemon has connected", SOON, || {
            let mut waits = [PollFd::new(&ending, PollFlags::IN)];
            let count = poll(&mut waits, Some(&Timespec::default())).expect("it can be asked");
            if count == 1 { Ok(()) } else { Err(steer.messages()) }
        });
        fs::remove_file(&path).expect("it is the test's");
        drop(ending);
        steer.until_working();
        assert_eq!(steer.keepers().len(), 1);
        steer.stop(SOON);
    });
}

#[test]
fn a_start_without_descriptors_loses_nothing_that_is_held() {
    netns::run("few-descriptors", |namespace| {
        let workers = Workers::new(&binary());
        let (mut steer, clients) = holding(namespace, &workers);
        let keeper = steer.keepers();
        steer.kill();
        // Each lower limit fails elsewhere. Below this the program cannot be loaded.
        let mut limits = 8..200_u32;
        let enough = limits.find(|limit| {
            steer.launcher = words(&format!("prlimit --nofile={limit}:{limit}"));
            let before = steer.messages().len();
            steer.start_daemon();
            let runs = wait::until("it runs or has ended", SOON, || {
                let runs = steer.is_running();
                if !runs || steer.command(["status"]).code == Some(0) {
                    Ok(runs)
                } else {
                    Err(steer.messages())
                }
            });
            if !runs {
                let code = steer.wait(SOON).code();
                let said = steer.messages()[before..].to_owned();
                assert_eq!(code, Some(1), "{limit}: {said}");
                assert!(said.contains("Too many open files"), "{limit}: {said}");
                assert!(said.contains("hint: raise the limit of open files"), "{limit}: {said}");
            }
            runs
        });
        let enough = enough.expect("some limit is enough");
        assert!(enough > 20, "{enough}");
        assert_eq!(steer.keepers(), keeper, "it was never replaced");
        steer.kill();
        steer.launcher.clear();
        steer.start_daemon();
        steer.until_reachable();
        answered(&steer, &workers, clients);
        println!("few-descriptors: refused with 8 to {} descriptors, held: {HELD}, lost: 0", enough - 1);
        steer.stop(SOON);
    });
}

#[test]
fn a_daemon_whose_descriptors_are_all_used_serves_on() {
    netns::run("full-table", |namespace| {
        let mut steer = plain(namespace);
        steer.start_daemon();
        steer.until_working();
        let (control, before) = (Control::new(&steer.socket()), steer.worker_pids());
        let (pid, traffic) = (steer.pid(), Traffic::start(&[address()]));
        let limit = |count: usize| {
            let count = format!("--nofile={count}:");
            namespace.execute("prlimit", &["--pid", &pid.to_string(), &count]);
        };
        // With room for one client, which takes two, and for nothing that it asks for.
        let used = fs::read_dir(format!("/proc/{pid}/fd")).expect("root may").count();
        limit(used + 2);
        for _ in 0..3 {
            let refused = steer.command(["restart", "web"]);
            assert_ne!(refused.code, Some(0), "{refused:?}");
            assert!(refused.stderr.contains("Too many open files"), "{refused:?}");
        }
        // What waits at a worker that does nothing for a moment is not taken for a lost listener's.
        process::stop(before[1]);
        let events = || control.events("listener-lost").len() + control.events("lost").len();
        wait::until("looks have been taken at it", SOON, || {
            let waiting = steer_tests::sockets::unaccepted(before[1]);
            let looked = steer.messages().matches("cannot").count();
            if waiting > 3 && looked > 3 { Ok(()) } else { Err(format!("{waiting} wait, {looked} looks")) }
        });
        process::signal(before[1], Signal::CONT);
        traffic.more(200);
        // Asked with room to answer: a record that is being written has a descriptor for a moment, too.
        limit(used + 200);
        assert_eq!(events(), 0);
        assert_eq!(steer.worker_pids(), before);
        control.restart_all();
        let tally = traffic.end();
        println!(
            "full-table: descriptors: {used}, connections: {}, failed: {}",
            tally.connections, tally.failed
        );
        steer.stop(SOON);
    });
}

#[test]
fn a_full_disk_is_noticed_and_over_when_there_is_room() {
    netns::run("full-disk", |namespace| {
        mounts::unshare();
        let mut steer = plain(namespace);
        let states = steer.path("steer.sock.state");
        fs::create_dir(&states).expect("it is the test's");
        let full = Mounted::tmpfs(&states, "size=64k,mode=700");
        steer.start_daemon();
        steer.until_working();
        let (control, traffic) = (Control::new(&steer.socket()), Traffic::start(&[address()]));
        let filler = states.join("filler");
        let mut file = fs::File::create(&filler).expect("there is room for its name");
        while file.write_all(&[0; 512]).is_ok() {}
        drop(file);
        control.restart(0);
        let told = control.events("state-unsaved");
        assert!(told.len() == 1 && told[0].detail.contains("No space left"), "{told:?}");
        control.restart_all();
        assert_eq!(control.events("state-saved").len(), 0);
        traffic.more(50);
        fs::remove_file(&filler).expect("root may");
        wait::until("it is written again", SOON, || {
            let events = control.events("state-saved");
            if events.len() == 1 { Ok(()) } else { Err(format!("{events:?}")) }
        });
        let before = steer.worker_pids();
        steer.kill();
        steer.start_daemon();
        steer.until_working();
        assert_eq!(steer.worker_pids(), before);
        let tally = traffic.end();
        println!("full-disk: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.stop(SOON);
        drop(full);
    });
}

/// The writing of records hangs. A worker that is started meanwhile is not let go to its program: nobody would know of it after the
/// daemon's death.
#[test]
fn a_worker_that_no_record_names_ends_with_its_daemon() {
    netns::run("late-record", |namespace| {
        let mut steer = plain(namespace);
        steer.start_daemon();
        steer.until_working();
        let (before, known) = (steer.worker_pids(), steer.processes());
        // Who opens a FIFO to write waits until somebody reads: the thread that writes records here.
        let aside = steer.path("steer.sock.state/web.json.new");
        wait::until("no record is being written", SOON, || {
            let made = rustix::fs::mknodat(CWD, &aside, FileType::Fifo, Mode::from_raw_mode(0o600), 0);
            made.map_err(|errno| errno.to_string())
        });
        let mut restart = Command::new(binary());
        restart.arg("--socket").arg(steer.socket()).args(["restart", "web/0"]);
        let mut restart = restart.stderr(Stdio::null()).spawn().expect("it runs");
        let made = wait::until("its successor's process is made", SOON, || {
            let made = steer.processes().into_iter().find(|pid| !known.contains(pid));
            made.ok_or_else(|| steer.messages())
        });
        wait::until("the record is late", SOON, || {
            let said = steer.messages();
            if said.contains("state-unsaved") { Ok(()) } else { Err(said) }
        });
        // Everything else goes on; once this is answered, the daemon has heard of the process.
        steer.command(["weight", "web/1", "2"]).succeeded();
        let daemon = steer.pid();
        steer.kill();
        restart.wait().expect("it ends with the daemon");
        let left: Vec<u32> = known.iter().copied().filter(|pid| *pid != daemon).collect();
        wait::until("the process ends with the daemon", SOON, || {
            let now = steer.processes();
            if now == left { Ok(()) } else { Err(format!("{made} in {}", process::describe(&now))) }
        });
        fs::remove_file(&aside).expect("it is the test's");
        // The restart was recorded nowhere: the next daemon goes on with the workers that there were.
        steer.start_daemon();
        steer.until_working();
        assert_eq!(steer.worker_pids(), before);
        steer.command(["restart", "web"]).succeeded();
        steer.stop(SOON);
    });
}

#[test]
fn a_keeper_that_was_killed_is_replaced_with_all_that_it_kept() {
    netns::run("no-keeper", |namespace| {
        let workers = Workers::new(&binary());
        let (mut steer, clients) = holding(namespace, &workers);
        for _ in 0..2 {
            let (before, after) = replace_keeper(&steer);
            assert_ne!(before, after);
            // Where it listens, the daemon's connection, a holding listener and the socket of readiness.
            wait::until("it has everything", SOON, || match process::sockets(after) {
                4 => Ok(()),
                found => Err(format!("{found} sockets")),
            });
            steer.kill();
            steer.start_daemon();
            steer.until_reachable();
        }
        answered(&steer, &workers, clients);
        println!("no-keeper: keepers killed: 2, daemons killed: 2, held: {HELD}, lost: 0");
        steer.stop(SOON);
    });
}
