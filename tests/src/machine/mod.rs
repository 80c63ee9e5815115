//! A Debian system whose init is systemd, in namespaces of its own.

pub mod cgroup;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use self::cgroup::Cgroup;
use crate::{netns::Namespace, output::Output, wait};

/// Names a Debian tree.
const TREE: &str = "STEER_DEBIAN_TREE";

/// What becomes the init.
const BOOT: &str = include_str!("boot.sh");

/// How long it may take until every unit runs.
const START: Duration = Duration::from_secs(60);

/// A running system. It shares the kernel, the clock and the given network namespace with the test; its files are a copy that only it
/// sees. When dropped all of its processes are killed and nothing is left.
#[derive(Debug)]
pub struct Machine {
    namespaces: Child,
    init: u32,
    _directory: TempDir,
    _cgroup: Cgroup,
}

/// What an environment variable names that the command `how` sets for these tests.
#[track_caller]
pub fn given(variable: &str, how: &str) -> PathBuf {
    let path = env::var_os(variable).map(PathBuf::from);
    path.unwrap_or_else(|| panic!("{variable} is not set\nhint: run `{how}`"))
}

impl Machine {
    /// Boots the tree that the command `how` has given.
    #[track_caller]
    pub fn boot_given(namespace: &Namespace, how: &str) -> Self {
        Self::boot(namespace, &given(TREE, how))
    }

    /// Boots a copy of the tree and waits until systemd says that it is up.
    #[track_caller]
    pub fn boot(namespace: &Namespace, tree: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("steer-tests-").tempdir();
        let directory = directory.expect("a temporary directory can be made");
        let cgroup = Cgroup::make();
        let script = directory.path().join("boot.sh");
        fs::write(&script, BOOT).expect("a file can be made in the temporary directory");
        let place = directory.path().join("place");
        fs::create_dir(&place).expect("a directory can be made in the temporary directory");
        // In its cgroup before the cgroup namespace is made, whose root that then is.
        let mut command = Command::new("sh");
        command.args(["-euc", "echo $$ > \"$0\"; exec \"$@\""]).arg(cgroup.processes());
        command.args(["unshare", "--fork", "--kill-child=KILL", "--pid", "--mount", "--uts", "--ipc"]);
        command.args(["--cgroup", "sh"]).args([script.as_path(), tree, place.as_path()]);
        command.stdin(Stdio::null());
        let spawned = namespace.inside(|| command.spawn());
        let namespaces = spawned.unwrap_or_else(|error| panic!("running {command:?}: {error}"));
        let mut machine = Self { namespaces, init: 0, _directory: directory, _cgroup: cgroup };
        let parent = machine.namespaces.id();
        machine.init = wait::until("the namespaces are made", START, || child_of(parent));
        wait::until("systemd is up", START, || {
            let output = machine.run(&["systemctl", "is-system-running"]);
            match output.stdout.trim() {
                "running" => Ok(()),
                "degraded" => panic!("units have failed: {}", machine.run(&["systemctl", "--failed"]).stdout),
                _ => Err(format!("{output:?}")),
            }
        });
        machine
    }

    /// Runs a program in the system to its end.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Output {
        let mut enter = self.command(command);
        let output = enter.stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("running {enter:?}: {error}"));
        Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What runs a program in the system. Killing it leaves that program: one that is not to run to its end has to end with its stdin.
    pub fn command(&self, command: &[&str]) -> Command {
        let mut enter = Command::new("nsenter");
        enter.arg("--target").arg(self.init.to_string());
        enter.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd=/", "--"]);
        enter.args([
            "env",
            "-i",
            "--chdir=/",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        enter.args(command);
        enter
    }

    /// Runs a program in the system to a successful end, and returns what it printed, without the last newline.
    #[track_caller]
    pub fn execute(&self, command: &[&str]) -> String {
        let output = self.run(command);
        assert_eq!(output.code, Some(0), "{command:?}: {output:?}");
        output.stdout.trim_end().to_owned()
    }

    /// A property of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, property: &str) -> String {
        self.execute(&["systemctl", "show", "--value", "--property", property, unit])
    }

    /// Where a file of the system is for this process.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// Writes a file of the system, and makes the directories above it.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        let parent = path.parent().expect("a file has a directory");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .expect("the system's files can be written");
    }

    /// The pid here of the process with this pid there.
    #[track_caller]
    pub fn pid(&self, inside: u32) -> u32 {
        let is_it = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            pids.split_whitespace().last() == Some(&inside.to_string())
        };
        let own = namespace_of(self.init, "pid");
        let all = crate::process::find(|process| fs::read_link(process.join("ns/pid")).ok() == own);
        all.into_iter().find(is_it).unwrap_or_else(|| panic!("there is no process {inside} in the system"))
    }

    /// The namespace of this kind (`mnt`, `net`) that the system's process with this pid is in, and that of its init.
    #[track_caller]
    pub fn namespaces(&self, inside: u32, kind: &str) -> [Option<PathBuf>; 2] {
        [namespace_of(self.pid(inside), kind), namespace_of(self.init, kind)]
    }

    /// What a unit has logged, for messages.
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "--output=cat", "--unit", unit]).stdout
    }
}

fn namespace_of(pid: u32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

fn child_of(pid: u32) -> Result<u32, String> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    children.split_whitespace().next().and_then(|child| child.parse().ok()).ok_or_else(|| "no child".into())
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its child, the init, is killed with it, and with that all of its pid namespace. An error says that it has ended.
        let _ = self.namespaces.kill();
        let _ = self.namespaces.wait();
    }
}
