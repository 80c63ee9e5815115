//! Servers in containers of podman, in the host's network, taken under management.
//!
//! `cargo xtask servers --adopted` runs this: it needs podman, runc and a static busybox. The image is made here; none is fetched.

use std::{
    fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, process::Command, time::Duration,
};

use steer_tests::{
    machine::given,
    netns::{self, Namespace},
    steer::{Steer, binary},
    traffic::Traffic,
    wait,
};
use tempfile::TempDir;

/// What sets what a test is given.
const HOW: &str = "cargo xtask servers --adopted";
const SOON: Duration = Duration::from_secs(60);

/// Podman with its files in a directory. It wants cgroup2 and nothing else at `/sys/fs/cgroup`, which a host with both hierarchies has elsewhere.
const PODMAN: &str = r#"#!/bin/sh
exec unshare --mount sh -euc '
stat -fc %T /sys/fs/cgroup | grep -q cgroup2 || mount -t cgroup2 none /sys/fs/cgroup
exec /usr/bin/podman --root DIR/storage --runroot DIR/run --tmpdir DIR/tmp --storage-driver vfs --runtime runc --cgroup-manager cgroupfs --events-backend file "$@"
' podman "$@"
"#;

struct Podman(TempDir);

impl Podman {
    fn make() -> Self {
        let directory = tempfile::Builder::new().prefix("steer-tests-").tempdir().expect("a directory");
        let own = Self(directory);
        let program = own.path("podman");
        fs::write(&program, PODMAN.replace("DIR", &own.path("").to_string_lossy())).expect("a file");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it can be made executable");
        for part in ["bin", "www", "tmp", "etc"] {
            fs::create_dir_all(own.path("root").join(part)).expect("a directory");
        }
        fs::copy("/bin/busybox", own.path("root/bin/httpd")).expect("busybox-static is installed");
        fs::write(own.path("root/www/index.html"), "ok\n").expect("a file");
        let image = own.path("image.tar");
        let made =
            Command::new("tar").arg("-C").arg(own.path("root")).arg("-cf").arg(&image).arg(".").status();
        assert!(made.expect("tar runs").success());
        own.execute(&["import", "--quiet", &image.to_string_lossy(), "httpd"]);
        own
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    #[track_caller]
    fn execute(&self, arguments: &[&str]) -> String {
        let output = Command::new(self.path("podman")).args(arguments).output().expect("podman is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs a server in a container of this name; its process.
    #[track_caller]
    fn run(&self, name: &str, network: &str) -> u32 {
        let command = ["httpd", "/bin/httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/www"];
        self.start(name, &[&["--network", network][..], &command].concat());
        self.execute(&["inspect", "--format", "{{.State.Pid}}", name]).parse().expect("a pid")
    }

    /// Starts a container of this name. Without these limits podman asks for more than some hosts grant.
    #[track_caller]
    fn start(&self, name: &str, arguments: &[&str]) {
        let limits = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "--pids-limit", "0"];
        self.execute(&[&["run", "--detach", "--name", name][..], &limits, arguments].concat());
    }

    #[track_caller]
    fn remove(&self, name: &str) {
        self.execute(&["rm", "--force", "--time", "0", name]);
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let podman = |arguments: &[&str]| Command::new(self.path("podman")).args(arguments).output();
        let _ = podman(&["rm", "--all", "--force", "--time", "0"]);
        // What podman leaves of its cgroups, where nobody is in it.
        let left =
            "find /sys/fs/cgroup -depth -type d -path '*libpod_parent*' -exec rmdir {} + 2>/dev/null; true";
        let _ = Command::new("sh").args(["-c", left]).status();
    }
}

fn daemon<'a>(namespace: &'a Namespace, podman: &Podman) -> Steer<'a> {
    let mut steer = Steer::service(namespace, &binary(), "");
    let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", podman.path("").display());
    steer.environment = vec![("PATH".to_owned(), path.into())];
    steer.start_daemon();
    steer.until_reachable();
    steer
}

/// Waits until a process is a worker that works. The daemon may be in a container itself, so nothing is asked but its control socket.
fn works(steer: &Steer<'_>, pid: u32) {
    wait::until("the container works", SOON, || {
        let said = steer.command(["status", "--json"]);
        if said.code != Some(0) {
            return Err(said.stderr);
        }
        let works = |worker: &&steer::control::api::WorkerStatus| {
            worker.state == "working" && worker.pid == Some(pid)
        };
        let groups = steer.status().groups;
        let found = groups.iter().flat_map(|group| &group.workers).find(works).map(drop);
        found.ok_or(said.stdout)
    });
}

/// The capabilities that the DaemonSet of the package adds, with commas.
fn capabilities() -> String {
    let manifest = include_str!("../../server/packaging/kubernetes/steer.yaml");
    let (_, added) = manifest.split_once("add:\n").expect("it adds some");
    let names = added.lines().map_while(|line| line.trim().strip_prefix("- ")?.split(' ').next());
    names.collect::<Vec<_>>().join(",")
}

#[test]
#[ignore = "needs podman; cargo xtask servers --adopted runs it"]
fn a_daemon_in_a_container_adopts_with_the_capabilities_of_the_daemon_set() {
    netns::run("adopted-image", |namespace| {
        let podman = Podman::make();
        podman.execute(&["load", "--quiet", "--input", &given("STEER_IMAGE", HOW).to_string_lossy()]);
        let image = podman.execute(&["images", "--format", "{{.Repository}}:{{.Tag}}", "localhost/steer"]);
        let configuration =
            "[[group]]\nname = \"web\"\nlisten = [\"127.0.0.1:8080\"]\n[group.adopt]\nuser = \"0\"\n";
        // Of this one only the directory, the pins and the command line are used: the daemon is in the container.
        let steer = Steer::service(namespace, &binary(), configuration);
        let pins = steer.pins().expect("a daemon has pins").to_string_lossy().into_owned();
        let own = steer.path("").to_string_lossy().into_owned();
        let mut pid = podman.run("web", "host");
        let volume = |from: &str, to: &str| format!("--volume={from}:{to}");
        let add = format!("--cap-add={}", capabilities());
        let volumes = [
            volume(&own, "/run/steer"),
            volume("/sys/fs/bpf", "/sys/fs/bpf"),
            volume("/sys/fs/cgroup", "/host/sys/fs/cgroup:ro"),
        ];
        let host = ["--network", "host", "--pid", "host", "--read-only", "--cap-drop=ALL", &add];
        let rights = ["--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"];
        let command = ["daemon", "--config", "/run/steer/steer.toml", "--pins", &pins];
        let volumes = volumes.each_ref().map(String::as_str);
        podman.start("steer", &[&host[..], &rights, &volumes, &[&image], &command].concat());
        works(&steer, pid);
        let address: SocketAddr = "127.0.0.1:8080".parse().expect("an address");
        let traffic = Traffic::start(&[address]);
        let mut old = "web".to_owned();
        for number in 1..=3 {
            let new = format!("web-{number}");
            let next = podman.run(&new, "host");
            works(&steer, next);
            let status = steer.status();
            let leaving = status.groups[0].workers.iter().find(|it| it.pid == Some(pid)).expect("a worker");
            let leaving = leaving.name.to_string();
            steer.command(["drain", &leaving, "--until-replaced", "--timeout", "20s"]).succeeded();
            podman.remove(&old);
            (pid, old) = (next, new);
            traffic.more(100);
        }
        let tally = traffic.end();
        println!("from a container: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.command(["stop"]).succeeded();
        podman.execute(&["wait", "steer"]);
        drop(steer);
        drop(podman);
    });
}

#[test]
#[ignore = "needs podman; cargo xtask servers --adopted runs it"]
fn containers_of_podman_are_made_anew_and_rolled_over_without_loss() {
    netns::run("adopted-podman", |namespace| {
        let podman = Podman::make();
        let mut steer = daemon(namespace, &podman);
        let address: SocketAddr = "127.0.0.1:8080".parse().expect("an address");
        let mut pid = podman.run("web", "host");
        wait::until("it serves", SOON, || {
            std::net::TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
        });
        let said = steer.command(["adopt", "--container", "web"]).succeeded().stdout;
        assert!(said.contains("adopted the server of container web"), "{said}");
        works(&steer, pid);
        let traffic = Traffic::start(&[address]);
        for _ in 0..3 {
            steer.command(["drain", "web/*", "--until-replaced", "--timeout", "20s"]).succeeded();
            podman.remove("web");
            pid = podman.run("web", "host");
            works(&steer, pid);
            traffic.more(100);
        }
        let tally = traffic.end();
        println!("made anew: connections: {}, failed: {}", tally.connections, tally.failed);
        steer.command(["release", "web"]).succeeded();
        steer.command(["adopt", "127.0.0.1:8080", "--name", "web"]).succeeded();
        works(&steer, pid);
        let traffic = Traffic::start(&[address]);
        let mut old = "web".to_owned();
        for number in 1..=3 {
            let new = format!("web-{number}");
            let next = podman.run(&new, "host");
            works(&steer, next);
            let status = steer.status();
            let leaving = status.groups[0].workers.iter().find(|it| it.pid == Some(pid)).expect("a worker");
            let leaving = leaving.name.to_string();
            steer.command(["drain", &leaving, "--until-replaced", "--timeout", "20s"]).succeeded();
            podman.remove(&old);
            (pid, old) = (next, new);
            traffic.more(100);
        }
        let tally = traffic.end();
        println!("rolled over: connections: {}, failed: {}", tally.connections, tally.failed);
        podman.run("apart", "none");
        let said = steer.command(["adopt", "--container", "apart"]);
        assert!(said.code == Some(5) && said.stderr.contains("a network namespace of its own"), "{said:?}");
        steer.command(["release", "web"]).succeeded();
        steer.stop(SOON);
        drop(podman);
    });
}
