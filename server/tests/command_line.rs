//! The real binary, against a daemon that is played: what it prints, and the code it exits with.
#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, and this file has helpers too")]

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use steer::control::{
    Access, ControlSocket, Controller,
    api::{
        Count, Done, Event, Fault, FaultKind, Receipt, Request, Response, Status, Step, Table, TableShare,
    },
    serve,
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc};

/// Knows the group `web` of two workers; `web/1` never gets to the end of its drain.
#[derive(Clone)]
struct Played;

fn receipt(index: u32, outcome: &str) -> Receipt {
    Receipt {
        schema: 1,
        worker: format!("web/{index}").parse().unwrap(),
        generation: 1,
        successor: None,
        outcome: outcome.to_owned(),
        handshakes: Count::default(),
        unaccepted: Count { began: 3, ended: 0 },
        flows: Count::default(),
        connections: Count::default(),
        migrated: 0,
        migrated_to: [].into(),
        exit: None,
        steps: vec![Step { name: "publish".into(), milliseconds: 8 }],
        message: None,
    }
}

impl Controller for Played {
    async fn call(&self, request: Request, answers: mpsc::Sender<Response>) -> Result<Response, Fault> {
        let done = |answers| Ok(Response::Done(Done { answers, milliseconds: 1234 }));
        let known = |group: &steer::names::GroupName| match group.as_str() {
            "web" => Ok(()),
            _ => Err(Fault::new(FaultKind::NoSuch, format!("there is no group {group}"))
                .with_hint("there is: web")),
        };
        match request {
            Request::Status { group } => {
                group.as_ref().map_or(Ok(()), known)?;
                Ok(Response::Status(Status { schema: 1, groups: vec![] }))
            }
            Request::Table { group, .. } => {
                known(&group)?;
                let worker = group.worker(0);
                let share = TableShare { worker, slot: Some(2), weight: 1, buckets: 1024, share: 1.0 };
                Ok(Response::Table(Table {
                    schema: 1,
                    group,
                    epoch: 9,
                    buckets: 1024,
                    last_resort: "hold".into(),
                    shares: vec![share],
                    held_buckets: 0,
                    placed: vec![],
                }))
            }
            Request::Events { follow, since, .. } => {
                // Without an end for who follows from the second event on.
                let last = if follow && since == 2 { u64::MAX } else { 2 };
                for sequence in 1..=last {
                    let event = Event {
                        sequence,
                        unix_ms: 0,
                        kind: "started".into(),
                        group: None,
                        worker: Some("web/0".parse().unwrap()),
                        generation: Some(sequence),
                        detail: String::new(),
                    };
                    if answers.send(Response::Event(event)).await.is_err() {
                        break;
                    }
                }
                if follow {
                    std::future::pending::<()>().await;
                }
                done(2)
            }
            Request::Restart { group, .. } => {
                known(&group)?;
                let _ = answers.send(Response::Receipt(receipt(0, "drained"))).await;
                let _ = answers.send(Response::Receipt(receipt(1, "deadline"))).await;
                done(2)
            }
            Request::Drain { worker, .. } => Ok(Response::Receipt(receipt(worker.index, "drained"))),
            Request::Undrain { worker } => {
                let message = format!("{worker} works already");
                Err(Fault::new(FaultKind::Refused, message))
            }
            Request::Stop { .. } => Err(Fault::new(FaultKind::TimedOut, "it took longer than 5 ms")),
            _ => done(0),
        }
    }
}

struct Served {
    place: TempDir,
    _runtime: Runtime,
}

impl Served {
    fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let socket = ControlSocket::bind(&place.path().join("steer.sock")).unwrap();
        let access = Access::new(vec![]).unwrap();
        runtime.spawn(serve(socket, Played, access, std::future::pending()));
        Self { place, _runtime: runtime }
    }

    fn steer(&self, line: &str) -> Command {
        steer(self.place.path().join("steer.sock"), line)
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
      "groups": []
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
    {"connections":{"began":0,"ended":0},"exit":null,"flows":{"began":0,"ended":0},"generation":1,"handshakes":{"began":0,"ended":0},"message":null,"migrated":0,"migrated_to":{},"outcome":"drained","schema":1,"steps":[{"milliseconds":8,"name":"publish"}],"successor":null,"unaccepted":{"began":3,"ended":0},"worker":"web/0"}
    {"connections":{"began":0,"ended":0},"exit":null,"flows":{"began":0,"ended":0},"generation":1,"handshakes":{"began":0,"ended":0},"message":null,"migrated":0,"migrated_to":{},"outcome":"deadline","schema":1,"steps":[{"milliseconds":8,"name":"publish"}],"successor":null,"unaccepted":{"began":3,"ended":0},"worker":"web/1"}
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
    for line in ["--help", "--version", "run --help", "completions bash", "man"] {
        let Output { status, stdout, stderr } = steer("/x".into(), line).output().unwrap();
        assert!(status.success() && !stdout.is_empty() && stderr.is_empty(), "{line}");
    }
    let help = String::from_utf8(steer("/x".into(), "--help").output().unwrap().stdout).unwrap();
    for hidden in ["worker", "exec", "daemon"] {
        let listed = help.lines().any(|line| line.split_whitespace().next() == Some(hidden));
        assert!(!listed, "{hidden} is listed: {help}");
    }
}
