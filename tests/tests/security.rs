//! Who may do what, tried as the users in question: a member of the group `steer`, another user, a worker.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use steer::sockets::procfs::socket_inodes_of;
use steer_tests::{
    control::Control,
    exact,
    footprint::bpf_numbers,
    mounts::{self, Mounted},
    netns, python,
    service::{group, sample},
    sockets::{TcpState, tcp_count},
    steer::{Steer, binary},
    traffic::Traffic,
    wait,
};

const ADDRESS: &str = "127.0.0.1:8080";
const SOON: Duration = Duration::from_secs(30);
/// A user that is nobody's, as workers and clients are run here.
const USER: u32 = 65534;
/// The number of the group `steer` that only the test's mount namespace has.
const READERS: u32 = 64_242;

/// Runs a program as a user with these groups, and with no capability.
fn run_as(uid: u32, groups: &str, words: &[String]) -> Output {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
    match groups {
        "" => command.arg("--clear-groups"),
        groups => command.arg(format!("--groups={groups}")),
    };
    command.args(["--inh-caps=-all", "--bounding-set=-all"]).args(words).output().expect("setpriv is there")
}

/// A copy of the binary that every user can reach.
fn reachable(place: &Path) -> String {
    let copy = place.join("steer");
    fs::copy(binary(), &copy).expect("a file can be copied");
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("it is the test's");
    copy.display().to_string()
}

#[test]
fn the_group_reads_and_changes_nothing_and_others_do_not_even_reach_the_socket() {
    netns::run("readers", |namespace| {
        mounts::unshare();
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        let groups = fs::read_to_string("/etc/group").expect("it can be read");
        let groups: Vec<&str> = groups.lines().filter(|line| !line.starts_with("steer:")).collect();
        let file = place.path().join("group");
        fs::write(&file, groups.join("\n") + &format!("\nsteer:x:{READERS}:\n")).expect("it is the test's");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("it is the test's");
        let _bound = Mounted::bind(&file, Path::new("/etc/group"));
        let steer_copy = reachable(place.path());
        let mut steer = Steer::configured(namespace, &group("web", ADDRESS, 2, &sample(&binary()), ""));
        // As the package makes the directory; what is in it is as the daemon makes it.
        fs::set_permissions(steer.path(""), fs::Permissions::from_mode(0o755)).expect("it is the test's");
        let found = fs::metadata(steer.socket()).expect("it is bound");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, READERS, 0o660));
        let socket = steer.socket().display().to_string();
        let ask = |groups: &str, question: &str| {
            let words = [steer_copy.as_str(), "--socket", &socket].into_iter().chain(question.split(' '));
            let output = run_as(USER, groups, &words.map(str::to_owned).collect::<Vec<_>>());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.code(), said)
        };
        let readers = READERS.to_string();
        let reads = ["status", "status web --json", "table web", "events", "metrics", "policy web"];
        let changes = [
            "restart web",
            "drain web/0",
            "undrain web/0",
            "scale web 1",
            "policy web source",
            "weight web/0 2",
            "release web",
            "release --all",
            "reload",
            "stop",
        ];
        for question in reads {
            assert_eq!(ask(&readers, question), (Some(0), String::new()), "{question}");
        }
        let before = steer.worker_pids();
        for question in changes {
            let (code, said) = ask(&readers, question);
            assert_eq!(code, Some(5), "{question}: {said}");
            assert!(
                said.contains("uid 65534 may not change") && said.contains("hint: "),
                "{question}: {said}"
            );
        }
        for question in reads.into_iter().chain(changes) {
            let (code, said) = ask("", question);
            assert_eq!(code, Some(3), "{question}: {said}");
            assert!(said.contains("Permission denied"), "{question}: {said}");
        }
        assert_eq!(steer.worker_pids(), before);
        assert_eq!(Control::new(&steer.socket()).status().policy, "hash");
        println!(
            "readers: read: {}, refused: {}, unreachable: {}",
            reads.len(),
            changes.len(),
            reads.len() + changes.len()
        );
        steer.stop(SOON);
    });
}

/// Tries to reach each path, as files, directories, sockets and pins are reached, and prints what succeeded. BPF_OBJ_GET is 7.
const TRYING: &str = r#"
import ctypes, os, socket, struct, sys
bpf = ctypes.CDLL(None, use_errno=True).syscall
def pin(path):
    name = ctypes.create_string_buffer(path.encode())
    attributes = ctypes.create_string_buffer(struct.pack("=QII", ctypes.addressof(name), 0, 0) + bytes(112))
    if bpf(321, 7, attributes, 128) < 0:
        raise OSError(ctypes.get_errno(), "BPF_OBJ_GET")
def reach(kind):
    return lambda path: socket.socket(socket.AF_UNIX, kind).connect(path)
ways = [lambda path: os.open(path, os.O_RDONLY), lambda path: os.open(path, os.O_WRONLY), os.listdir, pin, os.unlink,
    reach(socket.SOCK_STREAM), reach(socket.SOCK_SEQPACKET), lambda path: os.open(path + "/new", os.O_CREAT | os.O_WRONLY),
    lambda path: os.rename(path, path + ".moved")]
tried = 0
for path in sys.argv[1:]:
    for number, way in enumerate(ways):
        tried += 1
        try:
            way(path)
            print("reached", number, path)
        except OSError:
            pass
print("tried", tried)
"#;

#[test]
fn a_worker_has_its_listener_and_its_cell_and_a_way_to_nothing_else() {
    if !exact::are_had() {
        return;
    }
    netns::run("worker", |namespace| {
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        let command = vec![reachable(place.path()), "worker".to_owned()];
        let configured = group("web", ADDRESS, 3, &command, &format!("user = \"{USER}\""));
        let mut steer = Steer::configured(namespace, &configured);
        fs::set_permissions(steer.path(""), fs::Permissions::from_mode(0o755)).expect("it is the test's");
        let (pids, keeper) = (steer.worker_pids(), steer.keepers()[0]);
        for pid in &pids {
            assert_eq!(fs::metadata(format!("/proc/{pid}")).expect("it runs").uid(), USER);
            // It has its cell mapped, and has closed what it was given for that; `cells.rs` has workers that keep it.
            assert_eq!(
                (bpf_numbers(*pid, "map_id:").len(), bpf_numbers(*pid, "prog_id:").len()),
                (0, 0),
                "{pid}"
            );
            // It shares a socket neither with the daemon, which has let go of its listener, nor with the keeper.
            let [own, daemons, keepers] = [*pid, steer.pid(), keeper].map(|pid| socket_inodes_of(&[pid]));
            assert!(!daemons.is_empty() && !keepers.is_empty());
            assert_eq!(
                (own.intersection(&daemons).count(), own.intersection(&keepers).count()),
                (0, 0),
                "{pid}"
            );
        }
        let mode = |path: &Path| fs::symlink_metadata(path).expect("it is there").mode() & 0o7777;
        let pins = steer.pins().expect("it has pins").to_owned();
        assert_eq!(
            [mode(&pins), mode(&pins.join("web")), mode(&pins.join("web/0/LISTENERS"))],
            [0o700, 0o700, 0o600]
        );
        let state = steer.path("steer.sock.state");
        assert_eq!([mode(&state), mode(&steer.state_file("web"))], [0o700, 0o600]);
        assert_eq!([mode(&steer.path("steer.sock.keeper")), mode(&steer.socket())], [0o600, 0o660]);

        let pinned = fs::read_dir(pins.join("web/0")).expect("root may").flatten().map(|entry| entry.path());
        let mut paths: Vec<String> = pinned
            .chain([pins.clone(), pins.join("web"), state, steer.state_file("web")])
            .chain([steer.path("steer.sock.keeper"), steer.socket()])
            .map(|path| path.display().to_string())
            .collect();
        for pid in [steer.pid(), keeper] {
            paths.extend(["fd", "mem", "environ"].map(|part| format!("/proc/{pid}/{part}")));
        }
        let words: Vec<&str> = paths.iter().map(String::as_str).collect();
        let tried = run_as(USER, "", &python::command(TRYING, &words));
        let said = String::from_utf8_lossy(&tried.stdout).into_owned();
        assert_eq!(said.trim(), format!("tried {}", paths.len() * 9), "{tried:?}");
        // The same as root reaches what it is to be kept from: the trial can succeed.
        let root = python::command(TRYING, &[&pins.join("web/0/TABLE").display().to_string()]);
        let root = Command::new(&root[0]).args(&root[1..]).output().expect("it runs");
        assert!(String::from_utf8_lossy(&root.stdout).contains("reached 3"), "{root:?}");
        println!("worker: paths: {}, ways: 9, reached: 0", paths.len());
        steer.stop(SOON);
    });
}

#[test]
fn links_in_the_place_of_the_daemons_files_are_not_followed() {
    netns::run("links", |namespace| {
        let mut steer =
            Steer::service(namespace, &binary(), &group("web", ADDRESS, 1, &sample(&binary()), ""));
        let victim = steer.path("victim");
        fs::create_dir(&victim).expect("it is the test's");
        for (name, parts) in [
            ("steer.sock", ["symbolic link", "steer.sock"]),
            ("steer.sock.lock", ["symbolic link", "steer.sock.lock"]),
            ("steer.sock.state", ["not this user's alone", "steer.sock.state"]),
            ("steer.sock.keeper", ["no socket", "steer.sock.keeper"]),
            ("steer.sock.web.notify", ["notification socket", "steer.sock.web.notify"]),
        ] {
            let link = steer.path(name);
            let _ = fs::remove_file(&link);
            let _ = fs::remove_dir(&link);
            symlink(victim.join("of-another"), &link).expect("it is the test's");
            if name.ends_with("state") {
                fs::create_dir(victim.join("of-another")).expect("it is the test's");
            }
            steer.start_refused(5, &parts);
            let _ = fs::remove_dir(victim.join("of-another"));
            assert_eq!(
                fs::read_dir(&victim).expect("it is there").count(),
                0,
                "{name}: nothing was made there"
            );
            fs::remove_file(&link).expect("it was left alone");
        }
        assert!(steer.processes().is_empty());
        assert!(!steer.pins().expect("it has pins").join("web").exists());
        steer.start_daemon();
        steer.until_working();
        steer.stop(SOON);
    });
}

#[test]
fn a_listener_elsewhere_is_no_members() {
    netns::run("elsewhere", |namespace| {
        let address: SocketAddr = ADDRESS.parse().expect("an address");
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        // What its first generation does is right; later ones do what the file says.
        let source = format!(
            "import os, socket, time\nhow = os.environ['STEER_GENERATION'] != '1' and open('{}').read() or \
             's = socket.socket(); s.setsockopt(1, 15, 1); s.bind((\"127.0.0.1\", 8080)); s.listen()'\nexec(how)\n\
             while True:\n    c, _ = s.accept()\n    c.recv(4096)\n    c.sendall(b'HTTP/1.1 200 OK\\r\\nX-Pid: %d\\r\\n\
             Content-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' % os.getpid())\n    c.close()\n",
            place.path().join("how").display()
        );
        let configured =
            group("web", ADDRESS, 2, &python::command(&source, &[]), "mode = \"own\"") + "start = \"1s\"\n";
        let mut steer = Steer::configured(namespace, &configured);
        let (before, traffic) = (steer.worker_pids(), Traffic::start(&[address]));
        let ours = |family: &str, rest: &str| {
            format!("s = socket.socket({family}); s.setsockopt(1, 15, 1); s.bind({rest}); s.listen()")
        };
        let elsewhere = [
            ("address", ours("socket.AF_INET", "('127.0.0.2', 8080)")),
            ("port", ours("socket.AF_INET", "('127.0.0.1', 8081)")),
            ("protocol", "s = socket.socket(type=socket.SOCK_DGRAM); s.setsockopt(1, 15, 1); s.bind(('127.0.0.1', 8080)); time.sleep(60)".to_owned()),
            // CLONE_NEWNET of linux/sched.h.
            ("namespace", format!("import ctypes; ctypes.CDLL(None).unshare(0x40000000); {}", ours("socket.AF_INET", "('0.0.0.0', 8080)"))),
        ];
        let tried = elsewhere.len();
        for (what, how) in elsewhere {
            fs::write(place.path().join("how"), how).expect("it is the test's");
            let refused = steer.command(["restart", "web/0"]);
            assert_eq!(refused.code, Some(1), "{what}: {refused:?}");
            assert_eq!(steer.worker_pids(), before, "{what}");
        }
        assert_eq!(tcp_count(address, TcpState::Listen), 3, "two workers and the holding listener");
        let tally = traffic.end();
        println!("elsewhere: tried: {tried}, connections: {}, failed: {}", tally.connections, tally.failed);
        steer.stop(SOON);
    });
}

/// Sends to the socket as fast as it takes it, until it is killed; says when the first thousand are sent.
const FLOOD: &str = r#"
import socket, sys
flood = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
flood.connect(sys.argv[1])
for number in range(1 << 40):
    flood.send(b"READY=1\nSTATUS=" + b"x" * 3000)
    if number == 100:
        open(sys.argv[2], "w").close()
"#;

#[test]
fn a_flood_of_notifications_delays_no_other_groups_restart() {
    netns::run("flood", |namespace| {
        let ready = "ready = \"notify\"";
        let configured = group("web", ADDRESS, 2, &sample(&binary()), ready)
            + &group("api", "127.0.0.1:8081", 2, &sample(&binary()), ready);
        let mut steer = Steer::configured(namespace, &configured);
        fs::set_permissions(steer.path(""), fs::Permissions::from_mode(0o777)).expect("it is the test's");
        let control = Control::new(&steer.socket());
        let restart = || {
            let began = std::time::Instant::now();
            control.restart_all();
            began.elapsed()
        };
        let alone = restart();
        let (notify, flag) = (steer.path("steer.sock.api.notify"), steer.path("flooded"));
        let words = [&notify, &flag].map(|path| path.display().to_string());
        let command = python::command(FLOOD, &[&words[0], &words[1]]);
        let mut flood = Command::new("setpriv");
        flood.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(&command);
        let mut flood = flood.spawn().expect("setpriv is there");
        wait::until("it floods", SOON, || if flag.exists() { Ok(()) } else { Err("not yet".to_owned()) });
        let flooded = restart();
        let goes_on = steer_tests::process::has_not_ended(&flood);
        flood.kill().expect("our child can be killed");
        flood.wait().expect("our child can be waited for");
        println!("flood: a restart of two took {alone:?} alone, {flooded:?} beside the flood");
        assert!(goes_on, "it was not over before");
        assert!(flooded < alone * 5 + Duration::from_secs(1), "{flooded:?}, {alone:?} alone");
        steer.command(["restart", "api"]).succeeded();
        steer.stop(SOON);
    });
}
