//! `steer daemon` and `steer check` with a configuration.

use std::{fs, path::Path, process::Output};

use tempfile::TempDir;

use super::{steer, transcript};

/// A directory with a configuration.
fn configuration(text: &str) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("steer.toml"), text).unwrap();
    place
}

/// What `steer LINE --config FILE` prints, with the directory as `/etc/steer`.
fn run(place: &Path, line: &str) -> String {
    let mut command = steer(place.join("steer.sock"), line);
    command.arg("--config").arg(place.join("steer.toml"));
    transcript(command).replace(place.to_str().unwrap(), "/etc/steer")
}

#[test]
fn a_wrong_configuration_is_78_and_nothing_is_tried() {
    let place =
        configuration("[[group]]\nname = \"web\"\nlisten = [\"udp://[::]:53\"]\nworkers = { count = 0 }\n");
    let said = run(place.path(), "check");
    insta::assert_snapshot!(said, @r#"
    [78]
    error: count 0 is too few: a group has 1 to 1024
     --> /etc/steer/steer.toml:4:21
      |
    4 | workers = { count = 0 }
      |                     ^
    hint: give 1 at least; to have no worker, leave the group out
    "#);
    assert_eq!(run(place.path(), "daemon"), said);
    assert_eq!(run(place.path(), "check --json"), said);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn a_configuration_that_is_not_there_is_78() {
    let place = tempfile::tempdir().unwrap();
    let said = run(place.path(), "check");
    insta::assert_snapshot!(said, @r#"
    [78]
    error: cannot read /etc/steer/steer.toml: No such file or directory (os error 2)
    hint: write it, or name another with --config; README.md has an example
    "#);
    assert_eq!(run(place.path(), "daemon"), said);
}

#[test]
fn a_configuration_in_which_nothing_is_wrong_is_the_first_line() {
    let place =
        configuration("[[group]]\nname = \"web\"\nlisten = [\"0.0.0.0:80\"]\nworkers = { count = 4 }\n");
    fs::create_dir(place.path().join("conf.d")).unwrap();
    let other =
        "[[group]]\nname = \"api\"\nlisten = [\"0.0.0.0:81\", \"[::]:81\"]\nworkers = { count = 2 }\n";
    fs::write(place.path().join("conf.d/api.toml"), other).unwrap();
    let said = run(place.path(), "check");
    let words: Vec<&str> = said.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        words.join(" "),
        "ok configuration /etc/steer/steer.toml and 1 of conf.d: groups 2, workers 6, addresses 3",
        "{said}"
    );
    assert!(said.lines().nth(2).unwrap().contains("  kernel  "), "{said}");
}

#[test]
fn a_user_that_there_is_not_is_told_before_anything_starts() {
    let place = configuration(
        "[daemon]\naccess = [\"no-such-user\"]\n\
         [[group]]\nname = \"web\"\nlisten = [\"127.0.0.1:0\"]\nworkers = { count = 1 }\n",
    );
    insta::assert_snapshot!(run(place.path(), "daemon"), @r#"
    [4]
    error: cannot let no-such-user make changes: there is no user "no-such-user" on this system
    hint: make it with `useradd --system no-such-user`, or give a number instead of a name
    "#);
    assert!(!place.path().join("steer.sock").exists());
}

#[test]
fn the_socket_is_the_options_then_the_configurations() {
    // Both are too long to be bound, which is how each is seen without a daemon that runs.
    let path = |name: &str| format!("/{name}{}.sock", "-".repeat(200));
    let (configured, given) = (path("configured"), path("given"));
    let group = "[[group]]\nname = \"web\"\nlisten = [\"127.0.0.1:0\"]\nworkers = { count = 1 }\n";
    let place = configuration(&format!("[daemon]\nsocket = \"{configured}\"\n{group}"));
    let mut command = steer(given.clone().into(), "daemon --config");
    command.arg(place.path().join("steer.toml"));
    let Output { status, stderr, .. } = command.output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(String::from_utf8(stderr).unwrap().contains(&given));
    let Output { status, stderr, .. } = command.env_remove("STEER_SOCKET").output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(String::from_utf8(stderr).unwrap().contains(&configured));
}
