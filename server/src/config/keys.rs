//! The keys that there are, once: what unknown ones are told from, and an example of each for the hints.

/// A key of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// The table: "" is the file itself.
    pub(super) table: &'static str,
    pub(super) name: &'static str,
    /// A line as it can be written.
    pub(super) example: &'static str,
}

const fn key(table: &'static str, name: &'static str, example: &'static str) -> Key {
    Key { table, name, example }
}

pub(super) const KEYS: [Key; 42] = [
    key("", "daemon", "[daemon]"),
    key("", "group", "[[group]]"),
    key("daemon", "socket", "socket = \"/run/steer/steer.sock\""),
    key("daemon", "access", "access = [\"alice\"]"),
    key("daemon", "metrics", "metrics = \"127.0.0.1:9464\""),
    key("daemon", "log_format", "log_format = \"text\""),
    key("group", "name", "name = \"web\""),
    key("group", "listen", "listen = [\"tcp://0.0.0.0:80\"]"),
    key("group", "policy", "policy = \"hash\""),
    key("group", "seed", "seed = \"000102030405060708090a0b0c0d0e0f\""),
    key("group", "when_empty", "when_empty = \"hold\""),
    key("group", "workers", "[group.workers]"),
    key("group", "adopt", "[group.adopt]"),
    key("group", "flows", "[group.flows]"),
    key("group", "deadlines", "[group.deadlines]"),
    key("group.workers", "count", "count = 4"),
    key("group.workers", "weights", "weights = { 0 = 2, 1 = 0 }"),
    key("group.workers", "command", "command = [\"/usr/bin/my-server\", \"--its-options\"]"),
    key("group.workers", "user", "user = \"www-data\""),
    key("group.workers", "directory", "directory = \"/srv/web\""),
    key("group.workers", "environment", "environment = { LANG = \"C.UTF-8\" }"),
    key("group.workers", "limits", "limits = { nofile = 65536, core = [0, \"unlimited\"] }"),
    key("group.workers", "mode", "mode = \"auto\""),
    key("group.workers", "sockets", "sockets = 16"),
    key("group.workers", "ready", "ready = \"probe\""),
    key("group.workers", "restart", "restart = \"surge\""),
    key("group.workers", "stop_signal", "stop_signal = \"TERM\""),
    key("group.adopt", "unit", "unit = \"nginx.service\""),
    key("group.adopt", "cgroup", "cgroup = \"/system.slice/nginx.service\""),
    key("group.adopt", "container", "container = \"web\""),
    key("group.adopt", "user", "user = \"www-data\""),
    key("group.adopt", "restart", "restart = [\"/usr/sbin/nginx\", \"-s\", \"reload\"]"),
    key("group.flows", "max", "max = 65536"),
    key("group.flows", "idle", "idle = \"15s\""),
    key("group.deadlines", "start", "start = \"30s\""),
    key("group.deadlines", "drain", "drain = \"30s\""),
    key("group.deadlines", "settle", "settle = \"1s\""),
    key("group.deadlines", "stop", "stop = \"5s\""),
    key("group.deadlines", "hold", "hold = \"30s\""),
    // What is in it is the user's.
    key("group.workers.environment", "*", "LANG = \"C.UTF-8\""),
    key("group.workers.weights", "*", "0 = 2"),
    key("group.workers.limits", "*", "nofile = 65536"),
];

/// The keys of a table.
pub(super) fn of(table: &str) -> impl Iterator<Item = Key> {
    KEYS.into_iter().filter(move |key| key.table == table)
}

/// How the key is written: the line for the hints.
pub(super) fn example(table: &str, name: &str) -> &'static str {
    of(table).find(|key| key.name == name || key.name == "*").map_or("", |key| key.example)
}

/// The table as its header is written.
pub(super) fn header(table: &str) -> String {
    match table {
        "" => "the file".to_owned(),
        "group" => "[[group]]".to_owned(),
        _ => format!("[{table}]"),
    }
}

/// What to write instead of `name`, which `table` does not have.
pub(super) fn instead(table: &str, name: &str) -> String {
    let elsewhere: Vec<String> = KEYS
        .iter()
        .filter(|key| key.name == name && key.table != table)
        .map(|key| header(key.table))
        .collect();
    if elsewhere.is_empty() {
        let known: Vec<&str> = of(table).map(|key| key.name).collect();
        format!("{} has {}", header(table), known.join(", "))
    } else {
        format!("it belongs to {}", elsewhere.join(" or "))
    }
}
