//! One transcript of the real binary for each command, compared with `transcripts/`.

use std::{fs, time::Duration};

use steer_tests::{netns, output::Output, steer::Steer, transcript::Transcripts};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn every_command_prints_what_its_transcript_says() {
    netns::run("transcripts", |namespace| {
        let seed = "00000000000000010000000000000002";
        let mut steer = Steer::run(
            namespace,
            &["--listen", "127.0.0.1:8080", "--listen", "[::1]:8080", "--workers", "1", "--seed", seed],
        );
        let directory = steer.path("").to_string_lossy().trim_end_matches('/').to_owned();
        let mut transcripts = Transcripts::default();
        let mut say = |steer: &Steer<'_>, name: &str, arguments: &str| {
            let output = steer.command(arguments.split(' '));
            transcripts.compare(name, arguments, &shortened(name, output), &directory);
        };
        // In an order in which each change has its effect: one worker at a time, so that no two race.
        say(&steer, "scale-up", "scale web 2");
        say(&steer, "status", "status");
        say(&steer, "status-json", "status web --json");
        say(&steer, "table", "table web");
        say(&steer, "table-json", "table web --json");
        say(&steer, "restart", "restart web");
        say(&steer, "restart-json", "restart web/1 --json");
        say(&steer, "restart-no-such", "restart web/7");
        say(&steer, "drain", "drain web/1");
        say(&steer, "drained-status", "status web");
        say(&steer, "undrain", "undrain web/1");
        say(&steer, "undrain-json", "undrain web/1 --json");
        say(&steer, "policy", "policy web");
        say(&steer, "policy-dry-run", "policy web source ipv4=24 --dry-run --where 127.0.0.9:99");
        say(&steer, "policy-change", "policy web least-loaded");
        say(&steer, "policy-unknown", "policy web random");
        say(&steer, "weight", "weight web/1 3");
        say(&steer, "weight-json", "weight web/1 1 --json");
        say(&steer, "weight-too-large", "weight web/1 101");
        say(&steer, "table-where", "table web --where 127.0.0.9:99");
        say(&steer, "restart-abort", "restart web --abort");
        say(&steer, "scale-down", "scale web 1");
        say(&steer, "scale-zero", "scale web 0");
        say(&steer, "events", "events");
        say(&steer, "events-json", "events web --since 3 --json");
        say(&steer, "call", "call Info");
        say(&steer, "call-no-such", "call Nonsense");
        say(&steer, "check", "check");
        say(&steer, "completions", "completions fish");
        say(&steer, "man", "man");
        say(&steer, "help", "--help");
        say(&steer, "run-help", "run --help");
        say(&steer, "daemon-help", "daemon --help");
        say(&steer, "reload-help", "reload --help");
        say(&steer, "reload", "reload");
        say(&steer, "daemon-no-config", "daemon --config /nonexistent/steer.toml");
        say(&steer, "run-twice", "run --listen 127.0.0.1:9090 --workers 1");
        say(&steer, "stop", "stop");
        // `steer stop` has waited: the next daemon can be started at once.
        let left = files(&directory);
        assert_eq!(
            left,
            ["stderr", "stdout", "steer.sock.lock"],
            "the lock's file stays, see ARCHITECTURE.md"
        );
        say(&steer, "stop-unreachable", "stop");
        assert!(steer.wait(SOON).success());
        assert!(steer.processes().is_empty());
        steer.start_daemon();
        steer.until_working();
        steer.stop(SOON);
        println!("transcripts: {}", transcripts.end());
    });
}

/// `check` finds what the host is like, and completions are long: of both, what every host has.
fn shortened(name: &str, mut output: Output) -> Output {
    let line = |line: &str| line.to_owned() + "\n";
    output.stdout = match name {
        "check" => output
            .stdout
            .lines()
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split("  ").map(str::trim).filter(|part| !part.is_empty()).nth(1).unwrap_or("-"))
            .map(line)
            .collect(),
        "completions" => output.stdout.lines().take(20).map(line).collect(),
        _ => return output,
    };
    output
}

fn files(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("the directory can be read");
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
