//! What is refused for what it is: no file, no TOML, no key, no value of the kind; each as it is printed, with its caret.

use std::{fs, io, path::Path};

use proptest::prelude::*;

use super::{EXAMPLE, refused, understood};
use crate::config::{files, load};

proptest! {
    /// Whatever is cut out of the example and put in its place: it is read or refused, each error with its place.
    #[test]
    fn no_text_is_too_much(from in 0..EXAMPLE.len(), length in 0..40_usize, put in "[\\[\\]{}\"'=.,#a-z0-9é\u{0}\r\n \u{202e}]{0,12}") {
        let characters: Vec<char> = EXAMPLE.chars().collect();
        let from = from.min(characters.len());
        let rest = &characters[(from + length).min(characters.len())..];
        let text: String = characters[..from].iter().copied().chain(put.chars()).chain(rest.iter().copied()).collect();
        if let Err(errors) = understood(&[&text]) {
            let printed = errors.to_string();
            let places = printed.lines().filter(|line| line.trim_start().starts_with("--> /etc/steer/steer.toml:"));
            // A text that has no group left has no place where it is missing.
            let expected = errors.iter().filter(|error| !error.message().starts_with("no group")).count();
            prop_assert_eq!(places.count(), expected.min(50), "{}", printed);
        }
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let place = tempfile::tempdir().unwrap();
    let further = place.path().join("conf.d");
    fs::create_dir_all(further.join("40.toml")).unwrap();
    fs::write(further.join("10.toml"), b"# one\n# \xff two\n").unwrap();
    fs::write(further.join("20.toml"), vec![b'#'; files::FILE_MAX as usize + 1]).unwrap();
    // At the bound, it is read.
    fs::write(further.join("30.toml"), vec![b'#'; files::FILE_MAX as usize]).unwrap();
    let errors = load(&place.path().join("steer.toml")).unwrap_err().to_string();
    insta::assert_snapshot!(errors.replace(place.path().to_str().unwrap(), "/etc/steer"), @r#"
    error: cannot read /etc/steer/steer.toml: No such file or directory (os error 2)
    hint: write it, or name another with --config; README.md has an example

    error: cannot read /etc/steer/conf.d/10.toml: line 2 is not UTF-8
    hint: TOML is UTF-8: save the file as that

    error: cannot read /etc/steer/conf.d/20.toml: it has more than the 1048576 bytes that are read
    hint: see whether it is the right file, or part it over conf.d

    error: cannot read /etc/steer/conf.d/40.toml: it is not a regular file
    hint: the configuration is a file and the files of conf.d beside it; name the file
    "#);
}

#[test]
fn who_may_not_read_is_told_how_to() {
    // Root may read everything, so that the error cannot be had from the system.
    let error =
        files::unreadable(Path::new("/etc/steer/steer.toml"), &io::Error::from_raw_os_error(libc::EACCES));
    insta::assert_snapshot!(error, @r#"
    error: cannot read /etc/steer/steer.toml: Permission denied (os error 13)
    hint: run it as root, or let this user read the file and enter its directories
    "#);
}

#[test]
fn what_is_no_toml_is_shown() {
    insta::assert_snapshot!(refused(&["[[group]]\nname = web\n", "[[group]\n", "a = 1\na = 2\n"]), @r#"
    error: string values must be quoted, expected literal string
     --> /etc/steer/steer.toml:2:8
      |
    2 | name = web
      |        ^^^
    hint: it is not TOML as it stands: see https://toml.io; text stands in quotes, lists in brackets

    error: unclosed array table, expected `]`
     --> /etc/steer/conf.d/10-a.toml:1:9
      |
    1 | [[group]
      |         ^
    hint: it is not TOML as it stands: see https://toml.io; text stands in quotes, lists in brackets

    error: duplicate key
     --> /etc/steer/conf.d/20-b.toml:2:1
      |
    2 | a = 2
      | ^
    hint: it is there already: keep one of the two
    "#);
    insta::assert_snapshot!(refused(&["[[group]]\nname = \"wéb\nlisten = []\n"]), @r#"
    error: invalid basic string, expected `"`
     --> /etc/steer/steer.toml:2:12
      |
    2 | name = "wéb
      |            ^
    hint: it is not TOML as it stands: see https://toml.io; text stands in quotes, lists in brackets
    "#);
}

#[test]
fn unknown_keys_are_shown_with_what_there_is() {
    insta::assert_snapshot!(refused(&[
        "verbose = 1\n[daemon]\nlisten = 5\n[[group]]\nname = \"web\"\nport = 80\ncount = 3\nlisten = [\"0.0.0.0:80\"]\n\
         workers = { count = 1, threads = 2 }\n"
    ]), @r#"
    error: the file has no key "verbose"
     --> /etc/steer/steer.toml:1:1
      |
    1 | verbose = 1
      | ^^^^^^^
    hint: the file has daemon, group

    error: [daemon] has no key "listen"
     --> /etc/steer/steer.toml:3:1
      |
    3 | listen = 5
      | ^^^^^^
    hint: it belongs to [[group]]

    error: [[group]] has no key "port"
     --> /etc/steer/steer.toml:6:1
      |
    6 | port = 80
      | ^^^^
    hint: [[group]] has name, listen, policy, seed, when_empty, workers, adopt, flows, deadlines

    error: [[group]] has no key "count"
     --> /etc/steer/steer.toml:7:1
      |
    7 | count = 3
      | ^^^^^
    hint: it belongs to [group.workers]

    error: [group.workers] has no key "threads"
     --> /etc/steer/steer.toml:9:24
      |
    9 | workers = { count = 1, threads = 2 }
      |                        ^^^^^^^
    hint: [group.workers] has count, weights, command, user, directory, environment, limits, mode, sockets, ready, restart, stop_signal
    "#);
}

#[test]
fn values_of_the_wrong_kind_are_shown() {
    insta::assert_snapshot!(refused(&[
        "[daemon]\nsocket = 5\naccess = \"alice\"\n[[group]]\nname = [\"web\"]\nlisten = \"0.0.0.0:80\"\nworkers = 4\n"
    ]), @r#"
    error: socket: an integer stands where a string belongs
     --> /etc/steer/steer.toml:2:10
      |
    2 | socket = 5
      |          ^
    hint: write it like socket = "/run/steer/steer.sock"

    error: access: a string stands where an array of strings belongs
     --> /etc/steer/steer.toml:3:10
      |
    3 | access = "alice"
      |          ^^^^^^^
    hint: write it like access = ["alice"]

    error: name: an array stands where a string belongs
     --> /etc/steer/steer.toml:5:8
      |
    5 | name = ["web"]
      |        ^^^^^^^
    hint: write it like name = "web"

    error: listen: a string stands where an array of strings belongs
     --> /etc/steer/steer.toml:6:10
      |
    6 | listen = "0.0.0.0:80"
      |          ^^^^^^^^^^^^
    hint: write it like listen = ["tcp://0.0.0.0:80"]

    error: workers: an integer stands where a table belongs
     --> /etc/steer/steer.toml:7:11
      |
    7 | workers = 4
      |           ^
    hint: write it like [group.workers]
    "#);
    insta::assert_snapshot!(refused(&[
        "[[group]]\nname = \"web\"\nlisten = [80, \"0.0.0.0:80\"]\n[group.workers]\ncount = \"4\"\nenvironment = { A = 1 }\n\
         [group.deadlines]\nstart = 30\n"
    ]), @r#"
    error: listen: an integer stands where a string belongs
     --> /etc/steer/steer.toml:3:11
      |
    3 | listen = [80, "0.0.0.0:80"]
      |           ^^
    hint: write it like listen = ["tcp://0.0.0.0:80"]

    error: count: a string stands where a whole number belongs
     --> /etc/steer/steer.toml:5:9
      |
    5 | count = "4"
      |         ^^^
    hint: write it like count = 4

    error: environment: an integer stands where a string belongs
     --> /etc/steer/steer.toml:6:21
      |
    6 | environment = { A = 1 }
      |                     ^
    hint: write it like environment = { LANG = "C.UTF-8" }

    error: start: an integer stands where a string belongs
     --> /etc/steer/steer.toml:8:9
      |
    8 | start = 30
      |         ^^
    hint: write it like start = "30s"
    "#);
    insta::assert_snapshot!(refused(&["daemon = 1\ngroup = \"web\"\n"]), @r#"
    error: daemon: an integer stands where a table belongs
     --> /etc/steer/steer.toml:1:10
      |
    1 | daemon = 1
      |          ^
    hint: write it like [daemon]

    error: group: a string stands where an array of tables belongs
     --> /etc/steer/steer.toml:2:9
      |
    2 | group = "web"
      |         ^^^^^
    hint: write it like [[group]]
    "#);
    insta::assert_snapshot!(refused(&["[group]\nname = \"web\"\n"]), @r#"
    error: group: a table stands where an array of tables belongs
     --> /etc/steer/steer.toml:1:1
      |
    1 | [group]
      | ^^^^^^^
    hint: write it like [[group]]
    "#);
}
