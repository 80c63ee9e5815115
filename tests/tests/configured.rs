//! `steer daemon`: all groups of a configuration, and the users that may change them.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use steer_tests::{
    netns,
    scripts::shell,
    steer::{Steer, binary},
};

const SOON: Duration = Duration::from_secs(30);

const CONFIGURATION: &str = "\
[daemon]
access = [\"65534\"]
[[group]]
name = \"web\"
listen = [\"127.0.0.1:8080\", \"[::1]:8080\"]
workers = { count = 2, command = [\"SCRIPT\"], ready = \"notify\" }
[[group]]
name = \"api\"
listen = [\"127.0.0.1:8081\"]
workers = { count = 1, command = [\"SCRIPT\"], ready = \"notify\", environment = { NAMED = \"by the file\" }, limits = { nofile = [256, 4096], core = 0 } }
deadlines = { settle = \"0ms\" }
";

/// What a worker of the address answers.
fn answer(address: &str) -> String {
    let address: SocketAddr = address.parse().expect("an address");
    let mut stream = TcpStream::connect(address).expect("the group listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it is connected");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer.to_lowercase()
}

#[test]
fn all_groups_of_a_configuration_run_and_who_is_named_may_change_them() {
    netns::run("configured", |namespace| {
        // The daemon raises its own soft limit up to the hard one, and its workers are not to get that.
        let started_with = getrlimit(Resource::Nofile);
        assert_ne!(started_with.maximum, Some(512), "the hard limit is above the soft one");
        setrlimit(Resource::Nofile, Rlimit { current: Some(512), ..started_with })
            .expect("it may be lowered");
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        let text = format!(
            "echo $STEER_WORKER may open $(ulimit -S -n) of $(ulimit -H -n) files; exec {} worker",
            binary().display()
        );
        let script = shell(place.path(), "worker", &text);
        let configuration = CONFIGURATION.replace("SCRIPT", &script.display().to_string());
        let mut steer = Steer::configured(namespace, &configuration);
        let status = steer.status();
        let groups: Vec<_> =
            status.groups.iter().map(|group| (group.name.as_str(), group.workers.len())).collect();
        assert_eq!(groups, [("api", 1), ("web", 2)]);
        for (address, worker) in
            [("127.0.0.1:8080", "web/"), ("[::1]:8080", "web/"), ("127.0.0.1:8081", "api/0")]
        {
            let answer = answer(address);
            assert!(answer.contains(&format!("x-worker: {worker}")), "{address}: {answer}");
        }
        let pid = status.groups[0].workers[0].pid.expect("it works");
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).expect("root may read it");
        assert!(environment.split('\0').any(|variable| variable == "NAMED=by the file"), "{environment}");
        let limit = |pid: u32, name: &str| {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("root may read it");
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel has it");
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        let hard = limit(std::process::id(), "Max open files")[1].clone();
        assert_eq!(limit(steer.pid(), "Max open files"), [hard.clone(), hard.clone()]);
        assert_eq!(limit(pid, "Max core file size"), ["0", "0"]);
        // What each said of itself before it became the sample worker, which raises its own soft limit.
        // Where the daemon's own output goes, without a word of the daemon's.
        let messages = steer.printed();
        assert!(messages.contains("api/0 may open 256 of 4096 files"), "{messages}");
        let inherited = format!("web/1 may open 512 of {} files", hard);
        assert!(messages.contains(&inherited), "as the daemon was started: {inherited}: {messages}");

        // The socket is for root and the group `steer`, and its directory for root: let others come as far as the daemon.
        let open =
            |path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
        open(steer.path(""), 0o755);
        open(steer.socket(), 0o666);
        let restart = |uid: u32| {
            let text = format!(
                "exec 9<{}; exec setpriv --reuid={uid} --clear-groups /proc/self/fd/9 \"$@\"",
                binary().display()
            );
            let script = shell(&steer.path(""), &format!("as-{uid}"), &text);
            let mut command = std::process::Command::new(script);
            command.arg("--socket").arg(steer.socket()).args(["restart", "api/0"]);
            command.output().expect("the script runs")
        };
        let refused = restart(65533);
        assert_eq!(refused.status.code(), Some(5), "{refused:?}");
        let allowed = restart(65534);
        assert_eq!(allowed.status.code(), Some(0), "{allowed:?}");
        let generations = steer.status().groups[0].workers[0].generation;
        assert_eq!(generations, 2);
        steer.stop(SOON);
        println!("configured: groups: {}, failed: 0", groups.len());
    });
}
