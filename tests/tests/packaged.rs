//! The Debian package under a real systemd: what its unit and its maintainer scripts do to traffic and to workers.
//!
//! `cargo xtask dist --try` runs these: they need the packages and a Debian tree.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt};

use steer::control::api::Status;
use steer_tests::{
    bind_denied::effective,
    cgroups,
    load::assert_nothing_lost,
    netns,
    packaged::{Packaged, Worker},
    python::unaware_server,
    traffic::Traffic,
};

/// What a worker may share with the rest of the system, and what it has if the unit gives its own away.
const NAMESPACES: [&str; 6] = ["mnt", "net", "pid", "uts", "ipc", "cgroup"];

/// Does something to the daemon under load: no connection is lost, no 4-tuple changes worker, no worker its process.
#[track_caller]
fn changes_nothing(name: &str, drop_in: &str, change: impl FnOnce(&Packaged) + Send) {
    netns::run(name, |namespace| {
        let packaged = Packaged::start(namespace, drop_in);
        let (before, workers) = (packaged.daemon(), packaged.until_working());
        let mut after: Vec<Worker> = Vec::new();
        let tally = packaged.under_load(|| {
            change(&packaged);
            packaged.until_succeeded(before);
            after = packaged.until_working();
        });
        println!("{name}: {} connections, {} failed, {} moved", tally.connections, tally.failed, tally.moved);
        println!("{name}: workers before {workers:?}, after {after:?}");
        assert_nothing_lost(&tally);
        assert_eq!(after, workers, "{}", packaged.machine.journal("steer"));
    });
}

#[test]
#[ignore = "needs packages: cargo xtask dist --try"]
fn the_package_changes_nothing_until_it_is_told_to_and_leaves_nothing_when_purged() {
    netns::run("package-purge", |namespace| {
        let packaged = Packaged::install(namespace);
        let machine = &packaged.machine;
        let states =
            ["UnitFileState", "ActiveState", "ConditionResult"].map(|p| machine.property("steer", p));
        assert_eq!(states, ["enabled", "active", "yes"], "a server can be adopted at once");
        let status: Status = machine.run(&["steer", "status", "--json"]).succeeded().parse();
        assert!(status.groups.is_empty(), "{status:?}");
        assert!(machine.execute(&["getent", "group", "steer"]).starts_with("steer:"));
        for file in ["/usr/share/man/man1/steer.1.gz", "/usr/share/doc/steer/examples/steer.toml"] {
            assert!(machine.path(file).exists(), "{file}");
        }
        // The hint of the unit: the example is a configuration.
        let checked =
            machine.run(&["steer", "check", "--config", "/usr/share/doc/steer/examples/steer.toml"]);
        assert_ne!(checked.code, Some(78), "{checked:?}");
        machine.execute(&["dpkg", "--purge", "steer"]);
        for place in ["/etc/steer", "/run/steer", "/sys/fs/bpf/steer", "/usr/bin/steer"] {
            assert!(!machine.path(place).exists(), "{place} is left");
        }
    });
}

#[test]
#[ignore = "needs packages: cargo xtask dist --try"]
fn workers_inherit_nothing_of_the_unit_but_the_ceiling_of_capabilities() {
    netns::run("package-workers", |namespace| {
        let packaged = Packaged::start(namespace, "");
        let machine = &packaged.machine;
        let socket = fs::metadata(machine.path("/run/steer/steer.sock")).expect("the daemon listens");
        assert_eq!(socket.permissions().mode() & 0o777, 0o660);
        let ceiling = status_of(&packaged, packaged.daemon(), "CapBnd");
        for (name, pid, _) in packaged.until_working() {
            let pid = pid.expect("it works");
            let has = |field: &str| status_of(&packaged, pid, field);
            let found = ["CapEff", "CapPrm", "CapAmb", "NoNewPrivs", "Seccomp", "CapBnd"].map(has);
            println!("{name}: CapEff, CapPrm, CapAmb, NoNewPrivs, Seccomp, CapBnd: {found:?}");
            let none = "0000000000000000";
            assert_eq!(found, [none, none, none, "0", "0", &ceiling]);
            for kind in NAMESPACES {
                let [own, init] = machine.namespaces(pid, kind);
                assert_eq!(own, init, "{name} is in another {kind} namespace");
            }
            let mask = has("Umask");
            assert_eq!(mask, "0022", "{name}");
        }
    });
}

/// A field of `/proc/PID/status` of a process of the system.
#[track_caller]
fn status_of(packaged: &Packaged, pid: u32, field: &str) -> String {
    let status = packaged.machine.execute(&["cat", &format!("/proc/{pid}/status")]);
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
}

#[test]
#[ignore = "needs packages: cargo xtask dist --try"]
fn a_restart_of_the_unit_is_not_noticed() {
    changes_nothing("unit-restart", "", |packaged| {
        packaged.machine.execute(&["systemctl", "restart", "steer"]);
    });
}

#[test]
#[ignore = "needs packages: cargo xtask dist --try"]
fn a_killed_daemon_is_succeeded_unnoticed() {
    changes_nothing("unit-killed", "", |packaged| {
        packaged.machine.execute(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "steer"]);
    });
}

#[test]
#[ignore = "needs packages: cargo xtask dist --try"]
fn a_daemon_that_hangs_is_succeeded_unnoticed() {
    changes_nothing("unit-hung", "[Service]\nWatchdogSec=2s\n", |packaged| {
        packaged.machine.execute(&["systemctl", "kill", "--kill-whom=main", "--signal=STOP", "steer"]);
    });
}

#[test]
#[ignore = "needs packages: cargo xtask dist --try"]
fn an_upgrade_is_not_noticed() {
    changes_nothing("package-upgrade", "", |packaged| {
        let version =
            || packaged.machine.execute(&["dpkg-query", "--show", "--showformat=${Version}", "steer"]);
        let before = version();
        packaged.upgrade();
        assert_ne!(version(), before);
    });
}

#[test]
#[ignore = "needs packages: cargo xtask dist --try"]
fn a_removal_leaves_the_workers_serving() {
    netns::run("package-remove", |namespace| {
        let packaged = Packaged::start(namespace, "");
        let workers = packaged.until_working();
        let tally = packaged.under_load(|| drop(packaged.machine.execute(&["dpkg", "--remove", "steer"])));
        println!("package-remove: {} connections, {} failed", tally.connections, tally.failed);
        // Given back to the kernel's own hash: 4-tuples may change worker, and none is lost.
        assert_eq!(tally.failed, 0, "{:#?}", tally.first_failures);
        assert!(!packaged.machine.path("/usr/bin/steer").exists());
        assert_eq!(packaged.daemon(), 0);
        for (name, pid, _) in workers {
            let pid = pid.expect("it works").to_string();
            assert!(packaged.machine.path(&format!("/proc/{pid}/stat")).exists(), "{name} is gone");
        }
    });
}

#[test]
#[ignore = "needs packages: cargo xtask dist --try"]
fn the_example_of_a_hardened_unit_works() {
    let hardened = include_str!("../../server/packaging/examples/hardened.conf");
    netns::run("unit-hardened", |namespace| {
        let packaged = Packaged::start(namespace, hardened);
        let tally = packaged.under_load(|| {
            packaged.machine.execute(&["steer", "restart", "web"]);
        });
        assert_nothing_lost(&tally);
        for (name, pid, _) in packaged.until_working() {
            assert_eq!(status_of(&packaged, pid.expect("it works"), "NoNewPrivs"), "1", "{name}");
        }
    });
}

/// Two workers that know nothing of SO_REUSEPORT.
const UNAWARE: &str = "\
[[group]]
name = \"web\"
listen = [\"127.0.0.1:80\"]
[group.workers]
count = 2
command = [\"/usr/bin/python3\", \"/srv/server.py\", \"127.0.0.1\", \"80\"]
[group.deadlines]
settle = \"5s\"
";

/// What each does first: it tries another port, and leaves in a file what came of that.
const TRY_ANOTHER: &str = "\
import os, socket
try:
    socket.socket().bind((\"127.0.0.1\", 81))
    said = \"bound\"
except OSError as error:
    said = os.strerror(error.errno)
with open(f\"/run/tried.{os.getpid()}\", \"w\") as file:
    print(said, file=file)
";

/// systemd's own programs at the unit's cgroup, `SocketBindAllow=` and `SocketBindDeny=`, beside the bind hook at the workers'.
#[test]
#[ignore = "needs packages: cargo xtask dist --try"]
fn binds_that_systemd_denies_stay_denied() {
    let restricted = "[Service]\nSocketBindAllow=tcp:80\nSocketBindDeny=any\n";
    netns::run("unit-socket-bind", |namespace| {
        let packaged = Packaged::install(namespace);
        packaged.write("/srv/server.py", &format!("{TRY_ANOTHER}{}", unaware_server()));
        let packaged = packaged.started(UNAWARE, restricted);
        let machine = &packaged.machine;
        let address: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let traffic = Traffic::start(&[address]);
        machine.execute(&["steer", "restart", "web"]);
        // Of another daemon, by another start of the unit.
        machine.execute(&["systemctl", "restart", "steer"]);
        packaged.until_working();
        machine.execute(&["steer", "restart", "web"]);
        let tally = traffic.end();
        let workers = packaged.until_working();
        let pid = workers[0].1.expect("it works");
        let cgroup = cgroups::mount().join(cgroups::of(machine.pid(pid)).trim_start_matches('/'));
        let programs = effective(&cgroup);
        assert!(programs.iter().all(|count| *count >= 2), "systemd's and the hook: {programs:?}");
        let tried = machine.execute(&["sh", "-c", "cat /run/tried.*"]);
        let tried: Vec<&str> = tried.lines().collect();
        println!(
            "unit-socket-bind: connections: {}, failed: {}, programs: {programs:?}, tried: {tried:?}",
            tally.connections, tally.failed
        );
        assert_eq!(tried, ["Operation not permitted"; 6]);
        assert_eq!((tally.failed, tally.by_responder.len()), (0, 6));
        // Nobody else is denied anything.
        let elsewhere = "import socket; socket.socket().bind(('127.0.0.1', 81))";
        machine.execute(&["python3", "-c", elsewhere]);
    });
}
