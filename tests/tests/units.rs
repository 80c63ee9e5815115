//! systemd's units by D-Bus, on a real systemd: what `steer adopt` asks of it and is told by it.
//!
//! `cargo xtask servers --adopted` runs these: they need a Debian tree.

use serde_json::{Value, json};
use steer_tests::{
    netns,
    units::{State, Units, Watch},
};

/// A server that ends at SIGTERM at once.
const PLAIN: &str = "[Service]\nExecStart=/bin/sleep infinity\n";

/// One that takes a moment, as servers do, so that a watch can look at it meanwhile.
const CALM: &str =
    "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 0.2\n";

/// One that comes back whatever ends it, half a second later, but not three times.
const STUBBORN: &str = "\
[Unit]
StartLimitIntervalSec=100
StartLimitBurst=3
[Service]
ExecStart=/bin/sleep infinity
Restart=always
RestartSec=500ms
";

fn boot(name: &str, body: impl FnOnce(&Units) + Send) {
    netns::run(name, |namespace| body(&Units::boot(namespace, env!("CARGO_BIN_EXE_steer-units"))));
}

fn systemctl(units: &Units, arguments: &[&str]) {
    units.machine.execute(&[&["systemctl"], arguments].concat());
}

#[track_caller]
fn assert_has(found: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&found[key], value, "{key} in {found}");
    }
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn services_are_found_by_name_and_by_process() {
    boot("units-find", |units| {
        units.write(&[
            ("app@.service", "[Service]\nExecStart=/bin/sleep infinity\nTimeoutStopSec=7\n"),
            ("alone@.service", PLAIN),
            ("alias.service", "[Service]\nExecStart=/bin/sleep infinity\nTimeoutStopSec=infinity\n[Install]\nAlias=other.service\n"),
            ("lazy.service", PLAIN),
            ("lazy.socket", "[Socket]\nListenStream=127.0.0.1:81\n"),
            ("broken.service", "[Service]\nType=simple\n"),
        ]);
        systemctl(units, &["enable", "--now", "alias"]);
        systemctl(units, &["start", "app@1", "app@2", "lazy.socket"]);
        systemctl(units, &["mask", "systemd-timesyncd"]);

        let nginx = units.ask(&["find", "nginx"]);
        println!("{nginx}");
        let group = "/system.slice/nginx.service";
        assert_has(
            &nginx,
            &json!({
                "name": "nginx.service", "load_state": "loaded", "active": "active", "sub_state": "running",
                "control_group": group, "has_job": false, "sockets": [], "can_reload": true, "stop_timeout": 5.0,
                "user": null,
            }),
        );
        assert!(units.machine.path(&format!("/sys/fs/cgroup{group}/cgroup.procs")).exists());
        let redis = units.ask(&["find", "redis-server.service"]);
        println!("{redis}");
        assert_has(&redis, &json!({ "active": "active", "user": "redis", "can_reload": false }));
        let alias = units.ask(&["find", "other"]);
        assert_has(&alias, &json!({ "name": "alias.service", "stop_timeout": null }));
        assert_has(&units.ask(&["find", "app@1"]), &json!({ "name": "app@1.service", "stop_timeout": 7.0 }));
        let lazy = units.ask(&["find", "lazy"]);
        println!("{lazy}");
        assert_has(
            &lazy,
            &json!({ "active": "inactive", "sockets": ["lazy.socket"], "control_group": null }),
        );

        let instances: Vec<Value> = units.run(&["instances", "app@"]).succeeded().parse_lines();
        let names: Vec<_> = instances.iter().map(|unit| unit["name"].clone()).collect();
        assert_eq!(names, ["app@1.service", "app@2.service"]);
        assert_eq!(units.run(&["instances", "alone@*"]).succeeded().stdout, "");

        let of = |pid: &Value| units.ask(&["unit-of", &pid.to_string()])["unit"].clone();
        assert_eq!(
            [of(&nginx["main_pid"]), of(&instances[1]["main_pid"])],
            ["nginx.service", "app@2.service"]
        );
        assert_eq!(of(&json!(1)), Value::Null);

        for (name, expected) in [
            ("none", "there is no unit none.service"),
            ("systemd-timesyncd", "systemd-timesyncd.service is masked: it cannot be started"),
            ("broken", "systemd cannot load broken.service: its load state is bad-setting"),
            ("app@", "app@.service is a template: it has instances and no processes of its own"),
            ("lazy.socket", "lazy.socket is no service"),
            ("a b", "\"a b\" is no unit name"),
        ] {
            let refusal = units.refusal(&["find", name]);
            assert!(refusal.starts_with(&format!("error: {expected}; hint: ")), "{refusal}");
            assert!(!refusal.ends_with("none"), "no hint: {refusal}");
        }
        assert!(units.refusal(&["instances", "none@"]).starts_with("error: there is no unit none@.service"));
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_watch_tells_a_restart_from_a_stop() {
    boot("units-restart", |units| {
        units.write(&[("calm.service", CALM)]);
        systemctl(units, &["start", "calm"]);
        let mut watch = units.watch("calm.service");
        let first = units.ask(&["find", "calm"])["main_pid"].clone();
        for round in 0..5 {
            systemctl(units, &["restart", "calm"]);
            let states = watch.until("restart", |state| state.rests_in("active"));
            assert!(states.iter().any(|state| state.has_job), "round {round}: no job was seen");
            assert!(states.iter().all(|state| state.is_coming_back), "round {round}");
            let last = &states[states.len() - 1];
            assert_ne!(json!(last.main_pid), first, "round {round}");
            assert_eq!(last.control_group.as_deref(), Some("/system.slice/calm.service"));
        }
        systemctl(units, &["stop", "calm"]);
        let states = watch.until("stop", |state| state.rests_in("inactive"));
        let last = &states[states.len() - 1];
        assert!(!last.is_coming_back);
        assert_eq!((last.main_pid, &last.control_group), (0, &None));
        // Nobody needs it now, so systemd drops it, and it is loaded again.
        systemctl(units, &["start", "calm"]);
        watch.until("start", |state| state.rests_in("active"));
        units.machine.execute(&["systemctl", "kill", "--signal=KILL", "calm"]);
        let states = watch.until("killed", |state| state.rests_in("failed"));
        assert!(!states[states.len() - 1].is_coming_back);
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_watch_tells_a_crash_that_is_repaired_from_one_that_is_not() {
    boot("units-crash", |units| {
        units.write(&[("stubborn.service", STUBBORN)]);
        systemctl(units, &["start", "stubborn"]);
        let mut watch = units.watch("stubborn.service");
        let kill = || systemctl(units, &["kill", "--signal=KILL", "stubborn"]);
        for _ in 0..2 {
            kill();
            let states =
                watch.until("killed", |state| state.rests_in("active") && state.sub_state == "running");
            assert!(states.iter().any(|state| state.sub_state == "auto-restart"), "{states:?}");
            assert!(states.iter().all(|state| state.is_coming_back), "{states:?}");
        }
        kill();
        let states = watch.until("killed once too often", |state| !state.is_coming_back);
        let last = &states[states.len() - 1];
        assert!(last.rests_in("failed"), "{last}");
        let refused = units.machine.run(&["systemctl", "restart", "stubborn"]);
        println!("a restart at the limit: {}", refused.stderr.trim());
        assert_eq!(refused.code, Some(1));
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_watch_outlives_systemd_and_the_bus() {
    boot("units-anew", |units| {
        units.write(&[("plain.service", PLAIN)]);
        systemctl(units, &["start", "plain"]);
        let mut watch = units.watch("plain.service");
        let goes_on = |watch: &mut Watch, what: &str| {
            systemctl(units, &["stop", "plain"]);
            watch.until(&format!("{what}, stop"), |state| state.rests_in("inactive"));
            systemctl(units, &["start", "plain"]);
            watch.until(&format!("{what}, start"), |state| state.rests_in("active"));
        };
        goes_on(&mut watch, "at first");
        systemctl(units, &["daemon-reload"]);
        goes_on(&mut watch, "after daemon-reload");
        systemctl(units, &["daemon-reexec"]);
        goes_on(&mut watch, "after daemon-reexec");
        systemctl(units, &["restart", "dbus"]);
        goes_on(&mut watch, "after a restart of dbus");
        systemctl(units, &["daemon-reexec"]);
        goes_on(&mut watch, "after daemon-reexec once more");
        // systemctl needs no bus.
        systemctl(units, &["stop", "dbus.socket", "dbus.service"]);
        let refusal = units.refusal(&["find", "plain"]);
        assert!(refusal.starts_with("error: cannot reach systemd by D-Bus; hint: "), "{refusal}");
        systemctl(units, &["stop", "plain"]);
        systemctl(units, &["start", "dbus.socket", "dbus.service"]);
        watch.until("stopped while there was no bus", |state| state.rests_in("inactive"));
        systemctl(units, &["start", "plain"]);
        watch.until("started after it", |state| state.rests_in("active"));
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_watch_at_rest_asks_for_nothing() {
    boot("units-rest", |units| {
        // Stopped and wanted by nobody: systemd has not even loaded it.
        units.write(&[("plain.service", PLAIN)]);
        let mut watch = units.watch("plain.service");
        let loaded = || {
            units.machine.execute(&[
                "systemctl",
                "list-units",
                "--all",
                "--plain",
                "--no-legend",
                "plain.service",
            ])
        };
        assert_eq!(loaded(), "", "the watch has loaded it");
        systemctl(units, &["start", "plain"]);
        watch.until("start", |state| state.rests_in("active"));
        systemctl(units, &["stop", "plain"]);
        watch.until("stop", |state| state.rests_in("inactive"));
        assert_eq!(loaded(), "", "the watch keeps it loaded");
    });
}

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_reload_or_restart_ends_with_its_result() {
    boot("units-job", |units| {
        let unit = |lines: &str| format!("[Service]\nExecStart=/bin/sleep infinity\n{lines}");
        units.write(&[
            ("plain.service", PLAIN),
            ("bad-reload.service", &unit("ExecReload=/bin/false\n")),
            ("bad-start.service", &unit("ExecStartPre=/bin/sh -c '! test -e /run/broken'\n")),
            (
                "slow.service",
                &unit(
                    "ExecStartPre=/bin/sh -c 'test -e /run/broken && sleep 100; true'\nTimeoutStartSec=1s\n",
                ),
            ),
        ]);
        systemctl(units, &["start", "plain", "bad-reload", "bad-start", "slow"]);
        units.machine.write("/run/broken", "");
        let pid = |name: &str| units.ask(&["find", name])["main_pid"].clone();
        let ask = |name: &str| units.ask(&["reload-or-restart", name, "60"]);

        let before = [pid("nginx"), pid("plain")];
        ask("nginx.service");
        ask("plain.service");
        let after = [pid("nginx"), pid("plain")];
        assert_eq!(after[0], before[0], "nginx reloads");
        assert_ne!(after[1], before[1], "the other cannot");
        for (name, expected) in [
            ("bad-reload.service", "the job of bad-reload.service ended with the result failed"),
            ("bad-start.service", "the job of bad-start.service ended with the result failed"),
            ("slow.service", "the job of slow.service ended with the result failed"),
            ("none.service", "there is no unit none.service"),
        ] {
            let refusal = units.refusal(&["reload-or-restart", name, "60"]);
            assert!(refusal.starts_with(&format!("error: {expected}; hint: ")), "{refusal}");
        }
        // Not waited for any longer.
        units.write(&[("slow.service", &unit("ExecStartPre=/bin/sleep 100\n"))]);
        let refusal = units.refusal(&["reload-or-restart", "slow.service", "1"]);
        assert!(
            refusal.starts_with("error: the job of slow.service has not ended within 1s; it goes on; hint: "),
            "{refusal}"
        );
    });
}

/// A server with an ExecStop= of its own, which says when it is told to end.
const TELLING: &str = "\
[Service]
ExecStart=/bin/sh -c 'trap \"echo SIGTERM >> /run/order; exit 0\" TERM; while :; do sleep 0.1; done'
ExecStop=/bin/sh -c 'echo own >> /run/order'
";

#[test]
#[ignore = "needs a Debian tree; cargo xtask servers --adopted runs it"]
fn a_drop_in_drains_before_sigterm_and_leaves_no_trace() {
    boot("units-drop-in", |units| {
        let stopped = || {
            units.machine.write("/run/order", "");
            systemctl(units, &["start", "telling"]);
            // Until its trap is set a signal just ends it.
            units.machine.execute(&[
                "sh",
                "-c",
                "until pgrep -f 'sleep 0.1' > /dev/null; do sleep 0.05; done",
            ]);
            systemctl(units, &["stop", "telling"]);
            let order = units.machine.execute(&["cat", "/run/order"]);
            println!("order: {order:?}");
            order
        };
        let paths = || units.machine.property("telling", "DropInPaths");
        let path = "/run/systemd/system/telling.service.d/50-steer.conf";
        let drain = [
            "install",
            "telling.service",
            "--",
            "/bin/sh",
            "-c",
            "echo \"drain by $(id -un), 100%n\" >> /run/order; exit 1",
        ];
        let change = |arguments: &[&str]| units.ask(arguments)["changed"].clone();

        units.write(&[("telling.service", &format!("{TELLING}User=www-data\n"))]);
        units.machine.execute(&["sh", "-c", "touch /run/order; chmod 666 /run/order"]);
        assert_eq!(stopped(), "own\nSIGTERM");
        let before = paths();
        // While it runs: that is when a server is adopted.
        systemctl(units, &["start", "telling"]);
        let pid = units.machine.property("telling", "MainPID");
        assert_eq!(change(&drain), true);
        assert_eq!(change(&drain), false);
        assert_eq!(paths(), path);
        assert_eq!(units.machine.property("telling", "MainPID"), pid);
        println!("{}", units.machine.execute(&["cat", path]));
        assert_eq!(stopped(), "own\ndrain by root, 100%n\nSIGTERM");
        assert_eq!(units.machine.property("telling", "Result"), "success");

        // Written while it runs, and systemd could not be told: the next time it is.
        systemctl(units, &["start", "telling"]);
        units.machine.execute(&["rm", path]);
        systemctl(units, &["daemon-reload"]);
        assert_eq!(change(&drain), true);
        units.machine.execute(&["sh", "-c", &format!("cp {path} /run/aside; rm {path}")]);
        systemctl(units, &["daemon-reload"]);
        units.machine.execute(&[
            "sh",
            "-c",
            &format!("mkdir -p /run/systemd/system/telling.service.d; cp /run/aside {path}"),
        ]);
        assert_eq!(change(&drain), true);
        assert_eq!(paths(), path);

        assert_eq!(change(&["remove", "telling.service"]), true);
        assert_eq!(change(&["remove", "telling.service"]), false);
        assert_eq!(paths(), before);
        assert!(!units.machine.path("/run/systemd/system/telling.service.d").exists());
        assert_eq!(units.machine.property("telling", "NeedDaemonReload"), "no");
        assert_eq!(stopped(), "own\nSIGTERM");
        // And for a unit that is not there.
        assert_eq!(change(&["remove", "none.service"]), false);
    });
}

/// A message names states as systemd does.
#[test]
fn a_state_reads_as_systemd_says_it() {
    let state = State {
        active: "activating".into(),
        sub_state: "auto-restart".into(),
        has_job: false,
        control_group: None,
        main_pid: 0,
        is_coming_back: true,
    };
    assert_eq!(state.to_string(), "activating (auto-restart)");
}
