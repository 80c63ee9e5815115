//! DNS servers: over UDP and TCP at the same address, by the same workers.

use super::{PLAIN, Server, Speaks};

/// A question and its answer are no flow: a worker that drains waits for no port of a client's.
const BY_THE_TABLE: &[&str] = &["--flows", "0"];

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "unbound",
        needs: &["unbound"],
        line: "unbound -d -c DIR/unbound.conf",
        files: &[(
            "unbound.conf",
            "server:\n  num-threads: 2\n  interface: BARE@PORT\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  directory: \"DIR\"\n  \
             pidfile: \"\"\n  use-syslog: no\n  module-config: \"iterator\"\n  access-control: ::/0 allow\n  local-zone: \"example.\" static\n  \
             local-data: 'www.example. 300 IN TXT \"pong\"'\n",
        )],
        options: BY_THE_TABLE,
        speaks: Speaks::Dns,
        ..PLAIN
    },
    // Each in a directory of its own: it does not start where it finds another's pid file.
    Server {
        name: "knot",
        needs: &["knotd"],
        line: "sh -c 'mkdir -p DIR/{worker}-{generation} && cd DIR/{worker}-{generation} && exec knotd -c DIR/knot.conf'",
        files: &[
            (
                "knot.conf",
                "server:\n  rundir: .\n  listen: BARE@PORT\ndatabase:\n  storage: .\n\
                 log:\n  - target: stderr\n    any: warning\n\
                 zone:\n  - domain: example\n    file: DIR/example.zone\n",
            ),
            (
                "example.zone",
                "example. 300 SOA a.example. b.example. 1 300 300 300 300\nexample. 300 NS a.example.\n\
                 a.example. 300 A 192.0.2.1\nwww.example. 300 TXT \"pong\"\n",
            ),
        ],
        options: BY_THE_TABLE,
        speaks: Speaks::Dns,
        ..PLAIN
    },
];
