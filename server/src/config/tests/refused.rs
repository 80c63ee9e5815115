//! What is refused: each kind of error as it is printed, with its caret.

use std::{fs, io, path::Path};

use proptest::prelude::*;

use super::{EXAMPLE, WEB, refused, understood};
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
        "metrics = 1\n[daemon]\nlisten = 5\n[[group]]\nname = \"web\"\nport = 80\ncount = 3\nlisten = [\"0.0.0.0:80\"]\n\
         workers = { count = 1, threads = 2 }\n"
    ]), @r#"
    error: the file has no key "metrics"
     --> /etc/steer/steer.toml:1:1
      |
    1 | metrics = 1
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
    hint: [[group]] has name, listen, policy, seed, when_empty, workers, deadlines

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
    hint: [group.workers] has count, command, user, directory, environment, mode, ready, restart, stop_signal
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

#[test]
fn values_that_are_none_are_shown() {
    insta::assert_snapshot!(refused(&[
        "[daemon]\nsocket = \"steer.sock\"\naccess = [\"\"]\n[[group]]\nname = \"Web\"\nlisten = [\"localhost:80\", \"sctp://1.2.3.4:5\"]\n\
         policy = \"random\"\nseed = \"5\"\nwhen_empty = \"wait\"\n"
    ]), @r#"
    error: socket: "steer.sock" does not begin with /
     --> /etc/steer/steer.toml:2:10
      |
    2 | socket = "steer.sock"
      |          ^^^^^^^^^^^^
    hint: write it like socket = "/run/steer/steer.sock"

    error: access: it is empty
     --> /etc/steer/steer.toml:3:11
      |
    3 | access = [""]
      |           ^^
    hint: write it like access = ["alice"]

    error: [[group]] has no workers
     --> /etc/steer/steer.toml:4:1
      |
    4 | [[group]]
      | ^^^^^^^^^
    hint: add [group.workers]

    error: name: "Web" is no group name: 1 to 32 of a-z, 0-9, '-' and '_', starting with a letter
     --> /etc/steer/steer.toml:5:8
      |
    5 | name = "Web"
      |        ^^^^^
    hint: write it like name = "web"

    error: listen: "localhost:80" is no listen address: what follows is not IP:PORT
     --> /etc/steer/steer.toml:6:11
      |
    6 | listen = ["localhost:80", "sctp://1.2.3.4:5"]
      |           ^^^^^^^^^^^^^^
    hint: write tcp://127.0.0.1:8080, udp://[::]:443, or HOST:PORT for tcp; names are not resolved

    error: listen: "sctp://1.2.3.4:5" is no listen address: the scheme is neither tcp nor udp
     --> /etc/steer/steer.toml:6:27
      |
    6 | listen = ["localhost:80", "sctp://1.2.3.4:5"]
      |                           ^^^^^^^^^^^^^^^^^^
    hint: write tcp://127.0.0.1:8080, udp://[::]:443, or HOST:PORT for tcp; names are not resolved

    error: policy: "random" is no policy
     --> /etc/steer/steer.toml:7:10
      |
    7 | policy = "random"
      |          ^^^^^^^^
    hint: policies are hash, source, least-loaded and cpu

    error: seed: "5" is no seed
     --> /etc/steer/steer.toml:8:8
      |
    8 | seed = "5"
      |        ^^^
    hint: a seed has 32 hexadecimal digits; `openssl rand -hex 16` draws one

    error: when_empty: "wait" is none of its words
     --> /etc/steer/steer.toml:9:14
      |
    9 | when_empty = "wait"
      |              ^^^^^^
    hint: it is one of hold, refuse
    "#);
    insta::assert_snapshot!(refused(&[
        "[[group]]\nname = \"web\"\nlisten = []\n[group.workers]\ncount = -1\nuser = \"a\\u0000\"\ndirectory = \"srv\"\n\
         environment = { \"A=B\" = \"\" }\nmode = \"Own\"\nstop_signal = \"NOPE\"\n[group.deadlines]\ndrain = \"5\"\n"
    ]), @r#"
    error: listen: it is empty, and needs one at least
     --> /etc/steer/steer.toml:3:10
      |
    3 | listen = []
      |          ^^
    hint: write it like listen = ["tcp://0.0.0.0:80"]

    error: count: -1 is not from 0 to 4294967295
     --> /etc/steer/steer.toml:5:9
      |
    5 | count = -1
      |         ^^
    hint: write it like count = 4

    error: user: it contains a zero byte
     --> /etc/steer/steer.toml:6:8
      |
    6 | user = "a\u0000"
      |        ^^^^^^^^^
    hint: leave out \u0000, which ends a string for the system

    error: directory: "srv" does not begin with /
     --> /etc/steer/steer.toml:7:13
      |
    7 | directory = "srv"
      |             ^^^^^
    hint: write it like directory = "/srv/web"

    error: environment: "A=B" is no name of a variable
     --> /etc/steer/steer.toml:8:17
      |
    8 | environment = { "A=B" = "" }
      |                 ^^^^^
    hint: a name is not empty and has no '='

    error: mode: "Own" is none of its words
     --> /etc/steer/steer.toml:9:8
      |
    9 | mode = "Own"
      |        ^^^^^
    hint: it is one of inherit, own

    error: stop_signal: "NOPE" is no signal
      --> /etc/steer/steer.toml:10:15
       |
    10 | stop_signal = "NOPE"
       |               ^^^^^^
    hint: signals are HUP, INT, QUIT, KILL, USR1, USR2, TERM, WINCH, or a number from 1 to 64

    error: drain: "5" is no duration
      --> /etc/steer/steer.toml:12:9
       |
    12 | drain = "5"
       |         ^^^
    hint: write a whole number and its unit: 500ms, 30s, 2m or 1h
    "#);
}

#[test]
fn what_is_missing_is_shown_at_the_header() {
    insta::assert_snapshot!(refused(&["# nothing\n\n[[group]]\n\n[[group]]\nname = \"b\"\n[group.workers]\n"]), @r#"
    error: [[group]] has no name
     --> /etc/steer/steer.toml:3:1
      |
    3 | [[group]]
      | ^^^^^^^^^
    hint: add name = "web"

    error: [[group]] has no listen
     --> /etc/steer/steer.toml:3:1
      |
    3 | [[group]]
      | ^^^^^^^^^
    hint: add listen = ["tcp://0.0.0.0:80"]

    error: [[group]] has no workers
     --> /etc/steer/steer.toml:3:1
      |
    3 | [[group]]
      | ^^^^^^^^^
    hint: add [group.workers]

    error: [[group]] has no listen
     --> /etc/steer/steer.toml:5:1
      |
    5 | [[group]]
      | ^^^^^^^^^
    hint: add listen = ["tcp://0.0.0.0:80"]

    error: [group.workers] has no count
     --> /etc/steer/steer.toml:7:1
      |
    7 | [group.workers]
      | ^^^^^^^^^^^^^^^
    hint: add count = 4
    "#);
    insta::assert_snapshot!(refused(&["", "# nothing\n"]), @r#"
    error: no group is configured: neither /etc/steer/steer.toml nor /etc/steer/conf.d/*.toml has one
    hint: write a [[group]] with name, listen and workers, or use `steer run` for a group without a file
    "#);
}

#[test]
fn what_does_not_go_together_is_shown() {
    insta::assert_snapshot!(refused(&[
        "[[group]]\nname = \"web\"\nlisten = [\"0.0.0.0:80\", \"tcp://0.0.0.0:80\", \"udp://0.0.0.0:80\"]\n\
         [group.workers]\ncount = 255\nready = \"listener\"\ncommand = []\n[group.deadlines]\nstart = \"0s\"\n",
        "[[group]]\nname = \"api\"\nlisten = [\"0.0.0.0:0\"]\n[group.workers]\ncount = 0\nmode = \"own\"\ncommand = [\"\"]\n",
    ]), @r#"
    error: listen tcp://0.0.0.0:80 is given twice
     --> /etc/steer/steer.toml:3:25
      |
    3 | listen = ["0.0.0.0:80", "tcp://0.0.0.0:80", "udp://0.0.0.0:80"]
      |                         ^^^^^^^^^^^^^^^^^^
    hint: give each address once

    error: listen udp://0.0.0.0:80 is udp, and this version steers tcp only
     --> /etc/steer/steer.toml:3:45
      |
    3 | listen = ["0.0.0.0:80", "tcp://0.0.0.0:80", "udp://0.0.0.0:80"]
      |                                             ^^^^^^^^^^^^^^^^^^
    hint: give tcp:// addresses, or IP:PORT, which is tcp

    error: count 255 is too many: a group has 1 to 254
     --> /etc/steer/steer.toml:5:9
      |
    5 | count = 255
      |         ^^^
    hint: a worker for each processor is plenty; run two groups for more

    error: ready listener is for mode own, and the mode is inherit
     --> /etc/steer/steer.toml:6:9
      |
    6 | ready = "listener"
      |         ^^^^^^^^^^
    hint: use ready notify or ready probe, or mode own

    error: command names no program
     --> /etc/steer/steer.toml:7:11
      |
    7 | command = []
      |           ^^
    hint: write the program's name first, or leave the key out for the sample worker

    error: start is 0, so no worker can become ready
     --> /etc/steer/steer.toml:9:9
      |
    9 | start = "0s"
      |         ^^^^
    hint: leave it out for 30s, or give the time that a worker takes

    error: listen tcp://0.0.0.0:0 has port 0, and in mode own every worker would get another port
     --> /etc/steer/conf.d/10-a.toml:3:11
      |
    3 | listen = ["0.0.0.0:0"]
      |           ^^^^^^^^^^^
    hint: choose a port, or leave the listeners to the daemon with mode inherit

    error: count 0 is too few: a group has 1 to 254
     --> /etc/steer/conf.d/10-a.toml:5:9
      |
    5 | count = 0
      |         ^
    hint: give 1 at least; to have no worker, leave the group out

    error: command names no program
     --> /etc/steer/conf.d/10-a.toml:7:11
      |
    7 | command = [""]
      |           ^^^^
    hint: write the program's name first, or leave the key out for the sample worker
    "#);
}

#[test]
fn what_two_groups_share_is_shown_at_both() {
    insta::assert_snapshot!(refused(&[WEB, WEB]), @r#"
    error: the name web is given to two groups
     --> /etc/steer/conf.d/10-a.toml:2:8
      |
    2 | name = "web"
      |        ^^^^^
      |
     ::: /etc/steer/steer.toml:2:8
      |
    2 | name = "web"
      |        ----- it is given here first
    hint: give one of them another name

    error: two groups listen on tcp://0.0.0.0:80
     --> /etc/steer/conf.d/10-a.toml:3:11
      |
    3 | listen = ["0.0.0.0:80"]
      |           ^^^^^^^^^^^^
      |
     ::: /etc/steer/steer.toml:3:11
      |
    3 | listen = ["0.0.0.0:80"]
      |           ------------ the other listens here
    hint: an address belongs to one group: choose another address, or make one group of the two
    "#);
    let twice = format!("{WEB}{}", WEB.replace("0.0.0.0", "[::]"));
    insta::assert_snapshot!(refused(&[&twice]), @r#"
    error: the name web is given to two groups
     --> /etc/steer/steer.toml:7:8
      |
    2 | name = "web"
      |        ----- it is given here first
    ...
    7 | name = "web"
      |        ^^^^^
    hint: give one of them another name
    "#);
    // Neither the wildcard and one address, nor port 0 twice, is one address for the kernel.
    let other = WEB.replace("web", "api");
    for address in ["127.0.0.1:80", "[::]:80", "0.0.0.0:81"] {
        assert!(understood(&[WEB, &other.replace("0.0.0.0:80", address)]).is_ok(), "{address}");
    }
    let any = [WEB, &other].map(|text| text.replace(":80", ":0"));
    assert!(understood(&[&any[0], &any[1]]).is_ok());
}

#[test]
fn a_further_file_holds_groups_only() {
    insta::assert_snapshot!(refused(&[WEB, "[daemon]\nsocket = \"/run/other.sock\"\n"]), @r#"
    error: a file of conf.d holds groups only
     --> /etc/steer/conf.d/10-a.toml:1:1
      |
    1 | [daemon]
      | ^^^^^^^^
    hint: write [daemon] in the main file
    "#);
}

#[test]
fn errors_of_all_files_come_in_order_and_not_without_end() {
    let many = "x = 1\n".replace('x', "[[group]]\nx");
    let errors = refused(&[&many.repeat(20), WEB, "name = 1\n"]);
    let places: Vec<&str> = errors.lines().filter_map(|line| line.trim().strip_prefix("--> ")).collect();
    assert_eq!(places.len(), 50);
    assert_eq!(places[..2], ["/etc/steer/steer.toml:1:1"; 2]);
    assert!(
        errors.ends_with("\nerror: 31 more\nhint: correct these 50 first, and check again\n"),
        "{errors}"
    );
}
