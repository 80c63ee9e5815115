//! The daemon and the tests as a guest runs them: statically linked, so that it needs no library of this host.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::Workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The same for cargo, as part of a variable's name: flags for the target alone, not for build scripts.
const FLAGS: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS";

/// Asked first, always: what it prints tells whether tests that need migration can run.
const FIRST: &str = "matrix::check_says_what_this_kernel_gives";

/// Tests of a target that run in guests.
struct Selected {
    target: &'static str,
    /// All of them where it is empty.
    tests: &'static [&'static str],
    needs_migration: bool,
}

/// What tells kernels apart. The other targets' tests count in tens of thousands of connections, which takes hours
/// under emulation.
const SELECTED: [Selected; 10] = [
    Selected { target: "matrix", tests: &[], needs_migration: false },
    Selected {
        target: "looks",
        tests: &[
            "frozen_handshakes_are_counted_at_the_listener_that_they_are_of",
            "clients_that_a_deferring_listener_waits_for_are_half_open",
            "unread_datagrams_are_counted_in_both_of_a_sockets_queues",
            "a_closed_listener_is_seen_while_handshakes_of_it_are_half_open_and_then_no_more",
        ],
        needs_migration: false,
    },
    Selected {
        target: "looks_processes",
        tests: &["a_look_has_what_proc_says_of_each_process"],
        needs_migration: false,
    },
    Selected {
        target: "handshakes_exact",
        tests: &["a_receipt_counts_what_is_half_open_at_its_own_listeners_under_each_policy"],
        needs_migration: false,
    },
    Selected {
        target: "own_mode",
        tests: &["an_ipv4_server_serves_through_changes"],
        needs_migration: false,
    },
    Selected {
        target: "sharing",
        tests: &["an_unaware_program_is_restarted_and_nothing_is_lost"],
        needs_migration: false,
    },
    Selected {
        target: "bind_hook",
        tests: &[
            "a_server_in_any_cgroup_shares_the_address_until_the_hook_is_detached",
            "another_network_namespace_is_left_alone",
        ],
        needs_migration: false,
    },
    Selected {
        target: "adopted",
        tests: &["a_server_that_knows_nothing_of_it_is_adopted_restarted_and_released"],
        needs_migration: true,
    },
    Selected {
        target: "rebinding",
        tests: &["the_only_worker_may_close_all_before_it_binds_others"],
        needs_migration: true,
    },
    Selected {
        target: "migration",
        tests: &[
            "a_receiver_that_sleeps_is_woken_without_any_other_traffic",
            "the_matrix_passes_where_a_handovers_deadline_stops_the_listener",
        ],
        needs_migration: true,
    },
];

/// A test that every guest is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// `target::test`.
    pub(crate) name: String,
    /// It is not run where the kernel cannot migrate.
    pub(crate) needs_migration: bool,
}

/// What goes into each guest.
#[derive(Debug)]
pub(crate) struct Build {
    /// The daemon.
    pub(crate) steer: PathBuf,
    /// The tests' binaries, by target.
    pub(crate) tests: BTreeMap<String, PathBuf>,
    /// What is to run, in this order.
    pub(crate) plan: Vec<Planned>,
}

impl Build {
    /// Builds them, and plans the tests whose name contains `wanted`.
    pub(crate) fn make(workspace: &Workspace, wanted: Option<&str>) -> Result<Self> {
        println!("building the daemon and the tests, statically linked");
        let daemon = executables(workspace, &["build", "--package", "steer", "--bin", "steer"])?;
        let steer = daemon.get("steer").context("cargo has built no steer")?.clone();
        let mut arguments = vec!["test", "--no-run", "--package", "steer-tests"];
        SELECTED.iter().for_each(|selected| arguments.extend(["--test", selected.target]));
        let tests = executables(workspace, &arguments)?;
        let mut plan = Vec::new();
        for selected in &SELECTED {
            let binary = tests.get(selected.target).context("cargo has not built a test target")?;
            plan.extend(planned(selected, &list(binary)?, wanted)?);
        }
        ensure!(plan.len() > 1 || wanted.is_none_or(|wanted| FIRST.contains(wanted)), "no such test");
        Ok(Self { steer, tests, plan })
    }
}

/// Runs cargo and gives what it has linked, by target.
fn executables(workspace: &Workspace, arguments: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let output = workspace
        .cargo()
        .args(arguments)
        .args(["--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .env(FLAGS, "-C target-feature=+crt-static")
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("running cargo")?;
    ensure!(output.status.success(), "cargo {}: {}", arguments[0], output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect())
}

/// One of cargo's messages, where it is of something that was linked.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message["executable"].as_str()?;
    Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
}

/// The names of a binary's tests, told by itself: it runs here as it does in a guest.
fn list(binary: &Path) -> Result<Vec<String>> {
    let output = Command::new(binary).args(["--list", "--format", "terse"]).output();
    let output = output.with_context(|| format!("running {}", binary.display()))?;
    ensure!(output.status.success(), "{} --list: {}", binary.display(), output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// The plan of one target. A name that is selected and not there is an error: it must not go unnoticed.
fn planned(selected: &Selected, names: &[String], wanted: Option<&str>) -> Result<Vec<Planned>> {
    let target = selected.target;
    let known = |test: &&str| names.iter().any(|name| name == test);
    if let Some(unknown) = selected.tests.iter().find(|test| !known(test)) {
        anyhow::bail!("the test target {target} has no test {unknown}");
    }
    let is_selected = |name: &&String| selected.tests.is_empty() || selected.tests.contains(&name.as_str());
    let plan = names
        .iter()
        .filter(is_selected)
        .map(|name| Planned { name: format!("{target}::{name}"), needs_migration: selected.needs_migration });
    let is_wanted =
        |one: &Planned| one.name == FIRST || wanted.is_none_or(|wanted| one.name.contains(wanted));
    let (first, others): (Vec<_>, Vec<_>) = plan.filter(is_wanted).partition(|one| one.name == FIRST);
    Ok(first.into_iter().chain(others).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_has_linked_is_found() {
        let message =
            r#"{"reason":"compiler-artifact","target":{"name":"matrix"},"executable":"/t/matrix-1"}"#;
        assert_eq!(executable(message), Some(("matrix".into(), "/t/matrix-1".into())));
        assert_eq!(executable(r#"{"reason":"compiler-artifact","executable":null}"#), None);
        assert_eq!(executable("not JSON"), None);
    }

    #[test]
    fn the_first_test_is_always_planned_and_an_unknown_one_is_an_error() {
        let names = ["b_is_a_test".to_owned(), "check_says_what_this_kernel_gives".to_owned()];
        let plan = |tests, wanted| planned(&Selected { tests, ..SELECTED[0] }, &names, wanted);
        let names_of = |plan: Vec<Planned>| plan.into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names_of(plan(&[], None).unwrap()), [FIRST, "matrix::b_is_a_test"]);
        assert_eq!(names_of(plan(&[], Some("nothing")).unwrap()), [FIRST]);
        assert!(plan(&["gone"], None).unwrap_err().to_string().contains("no test gone"));
    }
}
