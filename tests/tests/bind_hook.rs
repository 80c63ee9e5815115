//! The bind hook above all programs: servers in any cgroup share an address in one network namespace, and nothing else changes.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    iter,
    net::UdpSocket,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use server_common::bind::BindVerdict;
use steer::{
    dataplane::bind_hook::{BindEvents, BindHook, BindHookError, ProofError, Scope},
    sockets::{address::ListenAddress, listener::make_listener, netns::Cookie},
    workers::cgroup::TopCgroup,
};
use steer_tests::{bind_denied::DeniedPort, machine::cgroup::Cgroup, netns, python};

const ADDRESS: &str = "127.0.0.1:8080";
const SIXTH: &str = "[::]:8086";

/// Binds what its arguments say and prints what comes of it.
const BINDER: &str = r#"
import os, socket, sys
print("pid", os.getpid())
for text in sys.argv[1:]:
    address, port = text.rsplit(":", 1)
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        one.bind((address.strip("[]"), int(port)))
        print(text, "bound", one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
    except OSError as error:
        print(text, error.errno)
"#;

fn tcp(address: &str) -> ListenAddress {
    format!("tcp://{address}").parse().expect("an address")
}

fn listener(address: ListenAddress) -> OwnedFd {
    make_listener(address, None, 16).expect("nobody has the address")
}

/// The hook for the calling thread's network namespace.
fn attach(
    addresses: &[ListenAddress],
    pins: Option<&Path>,
) -> Result<(Scope, BindHook, BindEvents), BindHookError> {
    let scope = Scope::namespace(addresses, Cookie::here().expect("Linux 5.14"));
    let top = TopCgroup::open().expect("a cgroup2 is mounted");
    let (hook, events) = BindHook::attach(&scope, top.as_fd(), pins)?;
    Ok((scope, hook, events))
}

/// The hook; nothing, which is said, where the kernel tells no cookie or refuses the programs: before Linux 5.14.
fn hook(addresses: &[ListenAddress]) -> Option<(Scope, BindHook, BindEvents)> {
    if let Err(error) = Cookie::here() {
        assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
        println!("not supported: SO_NETNS_COOKIE: {error}");
        return None;
    }
    match attach(addresses, None) {
        Ok(attached) => Some(attached),
        Err(error @ BindHookError::Program { .. }) => {
            println!("not supported: {error}: {}", error.hint());
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// A command that runs in a cgroup from its first instruction on, in the calling thread's network namespace.
fn command_in(cgroup: &Cgroup, words: &[String]) -> Command {
    let enter = format!("echo $$ > {}; exec \"$0\" \"$@\"", cgroup.processes().display());
    let mut command = Command::new("sh");
    command.args(["-euc", &enter]).args(words).stdin(Stdio::null());
    command
}

/// What the binder in a cgroup says of these addresses, and its process.
#[track_caller]
fn binds_in(cgroup: &Cgroup, addresses: &[&str]) -> (u32, Vec<String>) {
    let output = command_in(cgroup, &python::command(BINDER, addresses)).output().expect("it runs");
    let said = String::from_utf8(output.stdout).expect("text");
    let mut lines = said.lines().map(str::to_owned);
    let pid = lines.next().and_then(|line| line.strip_prefix("pid ")?.parse().ok()).expect("it says its pid");
    (pid, lines.collect())
}

fn in_use(address: &str) -> String {
    format!("{address} {}", libc::EADDRINUSE)
}

/// A child whose output is read. Killed when dropped.
struct Running {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Running {
    #[track_caller]
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, said }
    }

    /// The next line that it says; empty once it has ended.
    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("it can be read");
        line
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_in_any_cgroup_shares_the_address_until_the_hook_is_detached() {
    netns::run("above-shared", |_| {
        let (fourth, sixth) = (tcp(ADDRESS), tcp(SIXTH));
        let Some((_, hook, mut events)) = hook(&[fourth, sixth]) else { return };
        let _listeners = [fourth, sixth].map(listener);
        assert_eq!(events.by_ref().count(), 2, "those of the listeners themselves");
        let cgroup = Cgroup::make();
        let number = fs::metadata(cgroup.path()).expect("it is there").ino();

        let others = ["127.0.0.1:8081", "127.0.0.2:8080", "[::1]:8080", "0.0.0.0:8090"];
        let (pid, said) = binds_in(&cgroup, &[&[ADDRESS, SIXTH][..], &others].concat());
        assert_eq!(said[..2], [ADDRESS, SIXTH].map(|address| format!("{address} bound 1")));
        assert_eq!(said[2..], others.map(|other| format!("{other} bound 0")));
        let told = events.by_ref().map(|bind| (bind.address, bind.verdict, bind.pid, bind.cgroup));
        let expected = [fourth, sixth].map(|address| (address, BindVerdict::Joins, pid, number));
        assert_eq!(told.collect::<Vec<_>>(), expected, "nothing of other addresses");

        let server = ["-um", "http.server", "8080", "--bind", "127.0.0.1"].map(str::to_owned);
        let interpreter = python::interpreter().to_string_lossy().into_owned();
        let words: Vec<String> = [interpreter].into_iter().chain(server).collect();
        let mut server = Running::start(command_in(&cgroup, &words));
        let said = server.line();
        assert!(said.starts_with("Serving HTTP on 127.0.0.1 port 8080"), "{said:?}");
        assert_eq!(events.by_ref().map(|bind| bind.pid).collect::<Vec<_>>(), [server.child.id()]);
        drop(server);

        assert!(hook.is_attached());
        hook.detach().expect("both are detached");
        assert_eq!(binds_in(&cgroup, &[ADDRESS, SIXTH]).1, [ADDRESS, SIXTH].map(in_use));
        assert_eq!(events.by_ref().count(), 0);
    });
}

#[test]
fn another_network_namespace_is_left_alone() {
    netns::run("above-hooked", |_| {
        let Some((scope, _hook, mut events)) = hook(&[tcp(ADDRESS)]) else { return };
        netns::run("above-other", |_| {
            let cgroup = Cgroup::make();
            assert_eq!(binds_in(&cgroup, &[ADDRESS]).1, [format!("{ADDRESS} bound 0")]);
            let _listener = listener(tcp(ADDRESS));
            assert_eq!(binds_in(&cgroup, &[ADDRESS]).1, [in_use(ADDRESS)]);
            let proved = scope.prove(None);
            assert!(matches!(proved, Err(ProofError::OtherNamespace { .. })), "{proved:?}");
        });
        assert_eq!(events.by_ref().count(), 0);
    });
}

/// As below a unit with `SocketBindDeny=`: what its programs deny stays denied, and the hook's run beside them.
#[test]
fn programs_of_a_cgroup_below_stay_in_force() {
    netns::run("above-nested", |_| {
        let cgroup = Cgroup::make();
        // Before the hook and after it: the order in which they come makes no difference.
        let before = DeniedPort::attach(cgroup.path(), 8081);
        let Some((_, _hook, _)) = hook(&[tcp(ADDRESS)]) else { return };
        let _listener = listener(tcp(ADDRESS));
        let after = Cgroup::make();
        let _denied = DeniedPort::attach(after.path(), 8081);
        let expected = [format!("{ADDRESS} bound 1"), format!("127.0.0.1:8081 {}", libc::EPERM)];
        for cgroup in [&cgroup, &after] {
            assert_eq!(binds_in(cgroup, &[ADDRESS, "127.0.0.1:8081"]).1, expected);
        }
        assert_eq!(before.attached(), [1, 1]);
    });
}

#[test]
fn a_proof_tells_a_hook_from_none() {
    netns::run("above-proof", |_| {
        let addresses = [tcp(ADDRESS), tcp(SIXTH), "udp://127.0.0.1:8080".parse().unwrap()];
        let Some((scope, hook, _)) = hook(&addresses) else { return };
        scope.prove(None).expect("beside nobody");
        let listeners = [tcp(ADDRESS), tcp(SIXTH)].map(listener);
        // To bind beside it would fail: for UDP nothing is bound.
        let alone = UdpSocket::bind("127.0.0.1:8080").expect("nobody has the address");
        socket2::SockRef::from(&alone).set_reuse_port(false).expect("it can be set");
        scope.prove(None).expect("beside listeners of the same owner");
        let proved = scope.prove(Some(65534));
        assert!(
            matches!(&proved, Err(ProofError::Refused { address, .. }) if *address == addresses[0]),
            "{proved:?}"
        );
        drop(listeners);
        scope.prove(Some(65534)).expect("of another owner, beside nobody");
        drop(hook);
        let proved = scope.prove(None);
        assert!(
            matches!(proved, Err(ProofError::NotShared { .. })),
            "beside nobody a bind succeeds: {proved:?}"
        );
    });
}

/// A directory for pins, removed in the end.
struct Pins(PathBuf);

impl Pins {
    fn make() -> Self {
        let path = Path::new("/sys/fs/bpf").join(format!("steer-tests-bind-hook-{}", std::process::id()));
        steer::dataplane::pins::prepare(&path).expect("there is a bpffs");
        Self(path)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // An error shows as a directory that stays.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Set for the process that attaches the hook and is killed: the directory of its pins.
const PINS: &str = "STEER_TESTS_HOOK_PINS";

/// What it says then.
const ATTACHED: &str = "the hook is attached";

/// Binds an address again and again until its input ends, and says how often it has and how often it was refused.
const BINDS_ON: &str = r#"
import select, socket, sys
binds = refused = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    with socket.socket() as one:
        try:
            one.bind((sys.argv[1], int(sys.argv[2])))
        except OSError:
            refused += 1
    binds += 1
    if binds == 1:
        print("begun", flush=True)
print(binds, refused)
"#;

#[test]
fn a_hook_outlives_its_owner_and_is_replaced_without_a_gap() {
    netns::run("above-killed", |_| {
        let Some((_, tried, _)) = hook(&[tcp(ADDRESS)]) else { return };
        drop(tried);
        let _listener = listener(tcp(ADDRESS));
        let (cgroup, pins) = (Cgroup::make(), Pins::make());
        let shared = [format!("{ADDRESS} bound 1")];
        assert_eq!(binds_in(&cgroup, &[ADDRESS]).1, [in_use(ADDRESS)]);

        let this = env::current_exe().expect("a test has a path");
        let mut owner = Command::new(this);
        owner.args(["--exact", "attaches_the_hook_and_waits", "--ignored", "--nocapture"]).env(PINS, &pins.0);
        let mut owner = Running::start(owner);
        let told =
            iter::from_fn(|| Some(owner.line())).find(|line| line.is_empty() || line.contains(ATTACHED));
        assert_ne!(told.as_deref(), Some(""), "it has ended");
        // By SIGKILL.
        drop(owner);
        assert_eq!(binds_in(&cgroup, &[ADDRESS]).1, shared, "nothing but its pins has the hook");

        // All the while it is replaced, again and again.
        let mut binder =
            Running::start(command_in(&cgroup, &python::command(BINDS_ON, &["127.0.0.1", "8080"])));
        assert_eq!(binder.line(), "begun\n");
        let replaced = || attach(&[tcp(ADDRESS)], Some(&pins.0)).expect("attached in place of the other");
        let (_, mut hook, mut events) = replaced();
        for _ in 0..20 {
            // What it was before is dropped with its descriptors: from then on there is no more of it.
            (_, hook, events) = replaced();
        }
        binder.child.stdin = None;
        let said = binder.line();
        println!("above-killed: {said}");
        let [binds, refused] =
            said.split_whitespace().map(str::to_owned).collect::<Vec<_>>().try_into().expect("two");
        assert_eq!(refused, "0");
        assert!(binds.parse::<u32>().expect("a number") >= 100, "{said}");
        assert_eq!(binds_in(&cgroup, &[ADDRESS]).1, shared);
        assert!(events.by_ref().count() > 0, "the last one tells");

        hook.detach().expect("both are detached");
        assert!(pins.0.join("bind4").exists(), "a pin of what is attached to nothing");
        assert_eq!(binds_in(&cgroup, &[ADDRESS]).1, [in_use(ADDRESS)], "nor is one of those before");
    });
}

/// No test: the process that the one above kills.
#[test]
#[ignore = "is run by another test, in a process of its own"]
fn attaches_the_hook_and_waits() {
    let Some(pins) = env::var_os(PINS) else { return };
    let _attached = attach(&[tcp(ADDRESS)], Some(Path::new(&pins))).expect("as in the other process");
    println!("{ATTACHED}");
    // The other process has its input: it ends with that, where it is not killed.
    let _ = std::io::stdin().read(&mut [0]);
}
