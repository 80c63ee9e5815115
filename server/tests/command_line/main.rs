//! The real binary, against a daemon that is played: what it prints, and the code it exits with.
#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, and this file has helpers too")]

mod configured;
mod played;
mod silent;
mod tune;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use steer::{
    control::{Access, ControlSocket, api::Request, serve},
    sockets::passed::Closer,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use self::played::Played;

struct Served {
    place: TempDir,
    played: Played,
    _runtime: Runtime,
}

impl Served {
    fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let socket = ControlSocket::bind(&place.path().join("steer.sock")).unwrap();
        let access = Access::new(vec![]).unwrap();
        let played = Played::default();
        let controller = played.clone();
        runtime.spawn(async move {
            let closer = Closer::start().unwrap();
            serve(socket, controller, access, &closer, std::future::pending()).await
        });
        Self { place, played, _runtime: runtime }
    }

    fn steer(&self, line: &str) -> Command {
        steer(self.place.path().join("steer.sock"), line)
    }

    /// What was asked for since the last look.
    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.played.asked.lock().unwrap())
    }
}

fn steer(socket: PathBuf, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steer"));
    command.env("STEER_SOCKET", socket).env_remove("RUST_LOG").args(line.split_whitespace());
    command
}

/// What it printed, to both, and its exit code: `[code]`, then stdout, then stderr.
fn transcript(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    format!("[{}]\n{}{}", status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn what_reads() {
    let served = Served::start();
    let run = |line: &str| transcript(served.steer(line));
    insta::assert_snapshot!(run("status"), @r"
    [0]
    no groups
    ");
    insta::assert_snapshot!(run("status --json"), @r#"
    [0]
    {
      "schema": 1,
      "groups": [],
      "unattended": []
    }
    "#);
    insta::assert_snapshot!(run("table web"), @r"
    [0]
    web  epoch 9  1024 buckets  last resort hold
    WORKER  SLOT  WEIGHT  BUCKETS    SHARE
    web/0      2       1     1024  100.0 %
    ");
    insta::assert_snapshot!(run("events"), @r"
    [0]
    1970-01-01T00:00:00.000Z #1 started   web/0 generation 1
    1970-01-01T00:00:00.000Z #2 started   web/0 generation 2
    ");
    insta::assert_snapshot!(run("call org.varlink.service.GetInterfaceDescription {\"interface\":\"x\"}"), @r#"
    [2]
    error: the daemon has no interface "x"
    hint: `steer call org.varlink.service.GetInterfaceDescription '{"interface":"io.steer.Control"}'` lists what there is
    "#);
    insta::assert_snapshot!(run("call Restart {\"group\":\"web\"} --json"), @r#"
    [0]
    {"by_id":{"began":0,"ended":0},"connections":{"began":0,"ended":0},"datagrams":0,"exit":null,"flows":{"began":0,"ended":0},"generation":1,"handshakes":{"began":0,"ended":0},"handshakes_estimated":false,"message":null,"migrated":0,"migrated_to":{},"outcome":"drained","schema":1,"steps":[{"milliseconds":8,"name":"publish"}],"successor":null,"unaccepted":{"began":3,"ended":0},"worker":"web/0"}
    {"by_id":{"began":0,"ended":0},"connections":{"began":0,"ended":0},"datagrams":0,"exit":null,"flows":{"began":0,"ended":0},"generation":1,"handshakes":{"began":0,"ended":0},"handshakes_estimated":false,"message":null,"migrated":0,"migrated_to":{},"outcome":"deadline","schema":1,"steps":[{"milliseconds":8,"name":"publish"}],"successor":null,"unaccepted":{"began":3,"ended":0},"worker":"web/1"}
    {"answers":2,"milliseconds":1234}
    "#);
}

#[test]
fn what_changes() {
    let served = Served::start();
    let run = |line: &str| transcript(served.steer(line));
    insta::assert_snapshot!(run("drain web/0 --timeout 5s"), @r"
    [0]
    web/0 generation 1: drained in 8 ms
      handshakes  0 -> 0
      unaccepted  3 -> 0
      flows       0 -> 0
      connections 0 -> 0
      migrated    0
      steps       publish 8 ms
    ");
    let restart = run("restart web");
    assert!(restart.starts_with("[6]\nweb/0 generation 1: drained"), "{restart}");
    assert!(restart.ends_with("done in 1.2 s, 2 receipts\n"), "{restart}");
    let json = run("restart web --json");
    let lines: Vec<&str> = json.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "[6]"), "{json}");
    assert!(lines[2].starts_with(r#"{"schema":1,"worker":"web/1""#), "{json}");
    insta::assert_snapshot!(run("scale web 8"), @r"
    [0]
    done in 1.2 s
    ");
    insta::assert_snapshot!(run("scale web 8 --json"), @r#"
    [0]
    {"schema":1,"answers":0,"milliseconds":1234}
    "#);
}

#[test]
fn what_goes_wrong_has_its_code_and_its_hint() {
    let served = Served::start();
    let run = |line: &str| transcript(served.steer(line));
    insta::assert_snapshot!(run("status api"), @r"
    [4]
    error: there is no group api
    hint: there is: web
    ");
    // A daemon that ends answers so to what only reads.
    insta::assert_snapshot!(run("status ending"), @r"
    [1]
    error: the daemon ended before it answered
    hint: `steer status` tells whether another runs in its place
    ");
    insta::assert_snapshot!(run("undrain web/0"), @r"
    [5]
    error: web/0 works already
    ");
    insta::assert_snapshot!(run("stop --timeout 5ms"), @r"
    [6]
    error: it took longer than 5 ms
    ");
    insta::assert_snapshot!(run("drain web"), @r#"
    [2]
    error: invalid value 'web' for '<GROUP/WORKER>': "web" is no worker name: it has the form GROUP/INDEX, for example web/0

    hint: `steer status` lists the groups and workers that there are
    "#);
    insta::assert_snapshot!(transcript(steer("/nonexistent/steer.sock".into(), "status")), @r"
    [3]
    error: cannot reach the daemon at /nonexistent/steer.sock: No such file or directory (os error 2)
    hint: start a daemon with `steer run`, or name its socket with --socket
    ");
    insta::assert_snapshot!(transcript(steer("/x".into(), "run --listen [::1]:80 --workers 1 --ready listener")), @r"
    [2]
    error: --ready listener is for --mode own, and the mode is inherit
    hint: use --ready notify or --ready probe, or --mode own
    ");
}

#[test]
fn events_end_quietly_when_nobody_reads_them() {
    let served = Served::start();
    let mut child = served
        .steer("events --follow --since 2")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("#1 started"));
    drop(lines);
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!((status.code(), stderr), (Some(0), vec![]));
}

#[test]
fn events_are_followed_until_the_daemon_has_gone() {
    let served = Served::start();
    let mut child =
        served.steer("events --follow --json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with(r#"{"schema":1,"sequence":1,"#));
    assert!(lines.next().unwrap().unwrap().starts_with(r#"{"schema":1,"sequence":2,"#));
    // As when the daemon is killed: it says nothing more.
    drop(served);
    assert!(lines.next().is_none());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(String::from_utf8(stderr).unwrap().contains("closed the connection before its last answer"));
}

#[test]
fn help_and_version_go_to_stdout() {
    for line in ["--help", "--version", "run --help", "daemon --help", "completions bash", "man"] {
        let Output { status, stdout, stderr } = steer("/x".into(), line).output().unwrap();
        assert!(status.success() && !stdout.is_empty() && stderr.is_empty(), "{line}");
    }
    let help = String::from_utf8(steer("/x".into(), "--help").output().unwrap().stdout).unwrap();
    for hidden in ["worker", "exec"] {
        let listed = help.lines().any(|line| line.split_whitespace().next() == Some(hidden));
        assert!(!listed, "{hidden} is listed: {help}");
    }
}
