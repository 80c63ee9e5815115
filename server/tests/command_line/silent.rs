//! Commands whose daemon listens and does nothing.

use std::{
    os::unix::net::UnixListener,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::steer;

/// From the last time that the daemon did something to the end of a command, with much room: 10 s for what reads, and 15 s for what
/// changes something.
const SOON: Duration = Duration::from_secs(60);

fn ended(mut child: Child) -> (Option<i32>, String) {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < SOON, "it waits for ever");
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn every_command_gives_a_daemon_up_that_never_answers() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("steer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // Connections are accepted, and nothing is ever read.
    thread::spawn(move || {
        let mut accepted = Vec::new();
        loop {
            accepted.push(listener.accept().unwrap());
        }
    });
    let reads = ["status", "metrics --json", "table web", "flows web", "policy web", "events", "call Info"];
    let changes =
        ["restart web", "drain web/0 --timeout 1h", "undrain web/0", "scale web 2", "reload", "stop"];
    let commands = reads.iter().map(|line| (*line, "not answered"));
    let commands = commands.chain([("events --follow", "given no sign of life")]);
    let commands = commands.chain(changes.iter().map(|line| (*line, "given no sign of life")));
    let started: Vec<_> = commands
        .map(|(line, said)| {
            let mut command = steer(path.clone(), line);
            (line, said, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        })
        .collect();
    for (line, said, child) in started {
        let (code, text) = ended(child);
        assert_eq!(code, Some(3), "{line}: {text}");
        let says = format!("the daemon at {} has {said} for 10 s\n", path.display());
        assert!(text.starts_with("error: ") && text.contains(&says), "{line}: {text}");
        let hint = format!(
            "hint: its process {} hangs or is overloaded: `systemctl status steer`",
            std::process::id()
        );
        assert!(text.contains(&hint), "{line}: {text}");
        let is_change = changes.contains(&line);
        assert_eq!(text.contains("the change was sent"), is_change, "{line}: {text}");
    }
}
