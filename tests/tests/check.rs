//! `steer check`: what it finds here, and what it says where it may not.

use std::path::Path;

use steer::host::{Probe, Verdict};
use steer_tests::{
    exact, netns,
    output::Output,
    process,
    scripts::{shell, steer_without},
    steer::binary,
};

#[derive(serde::Deserialize)]
struct Report {
    schema: u32,
    probes: Vec<Probe>,
}

fn check(binary: &Path, arguments: &[&str]) -> Output {
    let output = std::process::Command::new(binary).arg("check").args(arguments).output();
    let output = output.expect("the binary runs");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn report(binary: &Path) -> (Option<i32>, Report) {
    let output = check(binary, &["--json"]);
    assert_eq!(output.stderr, "", "{}", output.stdout);
    let report: Report = output.parse();
    assert_eq!(report.schema, 1);
    for probe in &report.probes {
        assert_eq!(probe.remedy.is_none(), probe.verdict == Verdict::Ok, "{probe:?}");
        assert!(!probe.detail.is_empty(), "{probe:?}");
    }
    (output.code, report)
}

impl Report {
    #[track_caller]
    fn is(&self, name: &str, verdict: Verdict, part: &str) {
        let probe = self.probes.iter().find(|probe| probe.name == name);
        let probe = probe.unwrap_or_else(|| panic!("no probe {name}: {:?}", self.probes));
        assert_eq!(probe.verdict, verdict, "{probe:?}");
        let text = format!("{} {}", probe.detail, probe.remedy.as_deref().unwrap_or_default());
        assert!(text.contains(part), "{part:?} is not in {probe:?}");
    }
}

#[test]
fn what_works_here_is_ok_and_leaves_nothing() {
    netns::run("check", |namespace| {
        let (code, report) = report(&binary());
        assert_eq!(code, Some(0));
        report.is("select-or-migrate", Verdict::Ok, "loads");
        report.is("select", Verdict::Ok, "loads");
        report.is("steering", Verdict::Ok, "8 of 8 connections");
        report.is("migration", Verdict::Ok, "8 of 8 unaccepted connections moved");
        if exact::looks().is_some() {
            report.is("looks", Verdict::Ok, "exact: 3 of 3 connections");
        }
        report.is("CAP_BPF", Verdict::Ok, "in effect");
        report.is("sock_diag", Verdict::Ok, "lists");
        let times = |name: &str| report.probes.iter().filter(|probe| probe.name == name).count();
        assert_eq!([times("wake-up"), times("grace period"), times("bpf jit")], [1, 1, 1]);
        let text = check(&binary(), &[]).succeeded();
        let lines = text.stdout.lines().filter(|line| !line.starts_with(' ')).count();
        assert_eq!(lines, report.probes.len(), "{}", text.stdout);
        assert!(process::describe(&namespace.processes()).is_empty());
        println!("check: probes: {lines}, failed: 0");
    });
}

#[test]
fn a_short_backlog_is_a_warning_with_its_remedy() {
    netns::run("check-backlog", |namespace| {
        namespace.sysctl("net.core.somaxconn", "128");
        let (code, report) = report(&binary());
        assert_eq!(code, Some(0), "a warning is no failure");
        report.is("net.core.somaxconn", Verdict::Warn, "128 connections");
        report.is("net.core.somaxconn", Verdict::Warn, "1024 are wanted");
    });
}

#[test]
fn each_probe_that_cannot_run_says_why() {
    let place = tempfile::tempdir().unwrap();
    let (code, no_bpf) = report(&steer_without(place.path(), "bpf,sys_admin"));
    assert_eq!(code, Some(1));
    no_bpf.is("CAP_BPF", Verdict::Fail, "AmbientCapabilities=CAP_BPF");
    no_bpf.is("select-or-migrate", Verdict::Fail, "Operation not permitted");
    no_bpf.is("looks", Verdict::Warn, "estimate: ");
    no_bpf.is("looks", Verdict::Warn, "CAP_BPF and CAP_PERFMON");
    no_bpf.is("bpf jit", Verdict::Warn, "not tried");
    no_bpf.is("steering", Verdict::Warn, "CAP_SYS_ADMIN");

    // The verifier wants more of who lacks it than there is a way to write.
    let (code, no_perfmon) = report(&steer_without(place.path(), "perfmon,sys_admin"));
    assert_eq!(code, Some(1));
    no_perfmon.is("CAP_PERFMON", Verdict::Fail, "AmbientCapabilities=CAP_PERFMON");
    no_perfmon.is("select-or-migrate", Verdict::Fail, "Permission denied");
    no_perfmon.is("looks", Verdict::Warn, "CAP_BPF and CAP_PERFMON");

    let (code, no_namespace) = report(&steer_without(place.path(), "sys_admin"));
    assert_eq!(code, Some(0));
    no_namespace.is("select-or-migrate", Verdict::Ok, "loads");
    no_namespace.is("steering", Verdict::Warn, "not tried");
    if exact::looks().is_some() {
        no_namespace.is("looks", Verdict::Ok, "exact");
    }
    no_namespace.is("CAP_SYS_ADMIN", Verdict::Warn, "missing");

    // The binary is where another user may not be: by its descriptor.
    let text = format!(
        "exec 9<{}; exec setpriv --reuid=65534 --clear-groups /proc/self/fd/9 \"$@\"",
        binary().display()
    );
    let (code, nobody) = report(&shell(place.path(), "as-nobody", &text));
    assert_eq!(code, Some(1));
    nobody.is("CAP_BPF", Verdict::Fail, "missing");
    nobody.is("sock_diag", Verdict::Ok, "lists");
    println!("check: without CAP_BPF exit 1, without CAP_SYS_ADMIN exit 0, as nobody exit 1");
}
