//! What is refused for what it says: values that are none, keys that are missing, settings that do not go together.

use super::{WEB, refused, understood};

#[test]
fn values_that_are_none_are_shown() {
    insta::assert_snapshot!(refused(&[
        "[daemon]\nsocket = \"steer.sock\"\naccess = [\"\"]\n[[group]]\nname = \"Web\"\nlisten = [\"somewhere:80\", \"sctp://1.2.3.4:5\"]\n\
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

    error: listen: "somewhere:80" is no listen address: what follows is not IP:PORT
     --> /etc/steer/steer.toml:6:11
      |
    6 | listen = ["somewhere:80", "sctp://1.2.3.4:5"]
      |           ^^^^^^^^^^^^^^
    hint: write tcp://127.0.0.1:8080, udp://[::]:443, or IP:PORT for tcp; :8080 is all addresses, localhost:8080 is loopback, and no other name is resolved

    error: listen: "sctp://1.2.3.4:5" is no listen address: the scheme is neither tcp nor udp
     --> /etc/steer/steer.toml:6:27
      |
    6 | listen = ["somewhere:80", "sctp://1.2.3.4:5"]
      |                           ^^^^^^^^^^^^^^^^^^
    hint: write tcp://127.0.0.1:8080, udp://[::]:443, or IP:PORT for tcp; :8080 is all addresses, localhost:8080 is loopback, and no other name is resolved

    error: policy: "random" is no policy
     --> /etc/steer/steer.toml:7:10
      |
    7 | policy = "random"
      |          ^^^^^^^^
    hint: policies are hash, source, least-loaded, cpu and quic-cid

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
    hint: it is one of auto, inherit, own

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
fn metrics_for_everybody_are_refused_where_they_are_written() {
    let daemon = |keys: &str| refused(&[&format!("[daemon]\n{keys}\n{WEB}")]);
    insta::assert_snapshot!(daemon("metrics = \"0.0.0.0:9464\"\nlog_format = \"xml\""), @r#"
    error: metrics: "0.0.0.0:9464" is no loopback address, and metrics are for everybody who can connect
     --> /etc/steer/steer.toml:2:11
      |
    2 | metrics = "0.0.0.0:9464"
      |           ^^^^^^^^^^^^^^
    hint: write 127.0.0.1:9464 or unix:/run/steer/metrics.sock, with a proxy before it that asks who comes

    error: log_format: "xml" is none of its words
     --> /etc/steer/steer.toml:3:14
      |
    3 | log_format = "xml"
      |              ^^^^^
    hint: it is one of text, json
    "#);
    insta::assert_snapshot!(daemon("metrics = \"unix:metrics.sock\""), @r#"
    error: metrics: "unix:metrics.sock" names no unix socket: what follows unix: does not begin with /
     --> /etc/steer/steer.toml:2:11
      |
    2 | metrics = "unix:metrics.sock"
      |           ^^^^^^^^^^^^^^^^^^^
    hint: write unix:/run/steer/metrics.sock
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
}

#[test]
fn what_udp_cannot_have_is_shown() {
    insta::assert_snapshot!(refused(&[
        "[[group]]\nname = \"dns\"\nlisten = [\"udp://0.0.0.0:53\"]\n[group.workers]\ncount = 2\nready = \"probe\"\n\
         [group.flows]\nmax = 1000000\nidle = \"1h\"\n",
    ]), @r#"
    error: ready probe is a connection, and all addresses are udp
     --> /etc/steer/steer.toml:6:9
      |
    6 | ready = "probe"
      |         ^^^^^^^
    hint: use ready notify with a program that says READY=1, or mode own

    error: max 1000000 is too many: each address has a table of 0 to 524288
     --> /etc/steer/steer.toml:8:7
      |
    8 | max = 1000000
      |       ^^^^^^^
    hint: a flow takes 48 bytes; 0 has every datagram go by the table

    error: idle 3600000ms is not from 1ms to 1099s
     --> /etc/steer/steer.toml:9:8
      |
    9 | idle = "1h"
      |        ^^^^
    hint: leave it out for 15s, or give max 0 to remember no flows
    "#);
}

#[test]
fn connection_ids_are_for_datagrams() {
    insta::assert_snapshot!(refused(&[
        "[[group]]\nname = \"web\"\nlisten = [\"0.0.0.0:80\"]\npolicy = \"quic-cid:host=0a\"\n[group.workers]\ncount = 2\n",
        "[[group]]\nname = \"h3\"\nlisten = [\"udp://0.0.0.0:443\"]\npolicy = \"quic-cid:host=0a1\"\n[group.workers]\ncount = 2\n",
    ]), @r#"
    error: policy quic-cid is for datagrams, and no address is udp
     --> /etc/steer/steer.toml:4:10
      |
    4 | policy = "quic-cid:host=0a"
      |          ^^^^^^^^^^^^^^^^^^
    hint: add listen udp://ADDRESS:PORT, or choose another policy

    error: policy: host="0a1" of the policy quic-cid is no host: 0 to 22 hexadecimal digits, an even number
     --> /etc/steer/conf.d/10-a.toml:4:10
      |
    4 | policy = "quic-cid:host=0a1"
      |          ^^^^^^^^^^^^^^^^^^^
    hint: write each octet of the host's part of connection IDs as two digits: host=0a01
    "#);
}

#[test]
fn what_does_not_go_together_is_shown() {
    insta::assert_snapshot!(refused(&[
        "[[group]]\nname = \"web\"\nlisten = [\"0.0.0.0:80\", \"tcp://0.0.0.0:80\", \"udp://0.0.0.0:80\"]\n\
         [group.workers]\ncount = 1025\nready = \"listener\"\ncommand = []\nmode = \"inherit\"\n[group.deadlines]\nstart = \"0s\"\n",
        "[[group]]\nname = \"api\"\nlisten = [\"0.0.0.0:0\"]\n[group.workers]\ncount = 0\nmode = \"own\"\ncommand = [\"\"]\n",
        "[[group]]\nname = \"dns\"\nlisten = [\"udp://0.0.0.0:53\"]\n[group.workers]\ncount = 1\nsockets = 4\n",
    ]), @r#"
    error: listen tcp://0.0.0.0:80 is given twice
     --> /etc/steer/steer.toml:3:25
      |
    3 | listen = ["0.0.0.0:80", "tcp://0.0.0.0:80", "udp://0.0.0.0:80"]
      |                         ^^^^^^^^^^^^^^^^^^
    hint: give each address once

    error: count 1025 is too many: a group has 1 to 1024
     --> /etc/steer/steer.toml:5:9
      |
    5 | count = 1025
      |         ^^^^
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
      --> /etc/steer/steer.toml:10:9
       |
    10 | start = "0s"
       |         ^^^^
    hint: leave it out for 30s, or give the time that a worker takes

    error: listen tcp://0.0.0.0:0 has port 0, and in mode own every worker would get another port
     --> /etc/steer/conf.d/10-a.toml:3:11
      |
    3 | listen = ["0.0.0.0:0"]
      |           ^^^^^^^^^^^
    hint: choose a port, or leave the listeners to the daemon with mode inherit

    error: count 0 is too few: a group has 1 to 1024
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

    error: sockets 4 is for workers that bind their sockets themselves, and the mode is inherit
     --> /etc/steer/conf.d/20-b.toml:6:11
      |
    6 | sockets = 4
      |           ^
    hint: leave it out, or have the program bind its sockets itself, with mode own
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
