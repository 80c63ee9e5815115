//! What scrapes get, read as strictly as the format is written.

mod openmetrics;
mod packaging;
mod scrapes;

use std::time::Duration;

use super::{kernel::KernelCounters, usage::Usage, *};
use crate::cli::render::fixtures;

use openmetrics::{Exposition, Kind};

/// A daemon with the group of the fixtures, which has two workers.
fn snapshot() -> Snapshot {
    let groups = fixtures::status().groups;
    Snapshot {
        version: "0.1.0",
        program: "select-or-migrate",
        started: Duration::from_millis(1_785_585_600_123),
        took: Duration::from_micros(1500),
        log_lines_dropped: 8,
        groups: groups.into_iter().map(|group| (group.name.clone(), Some(group))).collect(),
        kernel: Some(KernelCounters { migrated: 4, not_migrated: 5, listen_overflows: 6, listen_drops: 7 }),
        usage: Some(Usage {
            cpu: Duration::from_millis(2500),
            resident: 8 << 20,
            virtual_memory: 64 << 20,
            threads: 3,
            descriptors: 40,
            descriptors_max: Some(1024),
        }),
    }
}

fn exposed(snapshot: Snapshot) -> Exposition {
    Exposition::read(&render(snapshot).unwrap())
}

#[test]
fn each_number_is_there_once_under_its_name_and_labels() {
    let exposed = exposed(snapshot());
    let worker = [("group", "web"), ("worker", "web/0")];
    let with = |label, value| [worker[0], worker[1], (label, value)];
    for (name, labels, value) in [
        ("steer_build_info", &[("version", "0.1.0"), ("program", "select-or-migrate")][..], 1.0),
        ("steer_scrape_duration_seconds", &[], 0.0015),
        ("steer_log_lines_dropped_total", &[], 8.0),
        ("steer_kernel_migrations_total", &[("result", "failure")], 5.0),
        ("steer_kernel_listen_overflows_total", &[], 6.0),
        ("steer_kernel_listen_drops_total", &[], 7.0),
        ("process_start_time_seconds", &[], 1_785_585_600.123),
        ("process_cpu_seconds_total", &[], 2.5),
        ("process_resident_memory_bytes", &[], 8_388_608.0),
        ("process_open_fds", &[], 40.0),
        ("process_max_fds", &[], 1024.0),
        ("steer_group_up", &worker[..1], 1.0),
        ("steer_group_table_epoch", &worker[..1], 12.0),
        ("steer_group_holding", &worker[..1], 1.0),
        ("steer_group_held_connections", &worker[..1], 4.0),
        ("steer_group_workers", &worker[..1], 2.0),
        ("steer_group_strangers", &worker[..1], 1.0),
        ("steer_group_strangers_seen_total", &worker[..1], 3.0),
        ("steer_group_drains_total", &[worker[0], ("outcome", "drained")], 5.0),
        ("steer_group_drains_total", &[worker[0], ("outcome", "lost")], 1.0),
        ("steer_group_program_asked_total", &[worker[0], ("asked", "migration")], 4.0),
        ("steer_group_program_outcomes_total", &[worker[0], ("outcome", "first_choice")], 123_460.0),
        ("steer_group_program_outcomes_total", &[worker[0], ("outcome", "dropped")], 1.0),
        ("steer_worker_selected_connections_total", &worker, 123_456.0),
        ("steer_worker_migrated_in_connections_total", &worker, 3.0),
        ("steer_worker_migrated_out_connections_total", &worker, 0.0),
        ("steer_worker_restarts_total", &worker, 2.0),
        ("steer_worker_unaccepted_connections", &worker, 2.0),
        ("steer_worker_open_connections", &worker, 40.0),
        ("steer_worker_table_share_ratio", &worker, 1.0),
        ("steer_worker_canary_share_ratio", &worker, 0.0),
        ("steer_worker_weight", &worker, 1.0),
        ("steer_worker_generation", &worker, 3.0),
        ("steer_worker_stalled", &worker, 0.0),
        ("steer_worker_state", &with("state", "working"), 1.0),
        ("steer_worker_state", &with("state", "lost"), 0.0),
        ("steer_worker_drains_total", &with("outcome", "drained"), 2.0),
        ("steer_worker_drains_total", &with("outcome", "deadline"), 1.0),
    ] {
        assert_eq!(exposed.value(name, labels), Some(value), "{name} {labels:?}");
    }
    let states: f64 = exposed.samples_of("steer_worker_state").map(|sample| sample.value).sum();
    assert_eq!(states, 2.0, "each worker is in one state");
}

#[test]
fn names_are_as_prometheus_has_them() {
    for family in &exposed(snapshot()).families {
        let name = &family.name;
        assert!(name.starts_with("steer_") || name.starts_with("process_"), "{name}");
        assert!(
            !["_total", "_count", "_sum", "_bucket", "_info"].iter().any(|end| name.ends_with(end)),
            "{name}"
        );
        assert!(!["milli", "micro", "percent", "kib"].iter().any(|unit| name.contains(unit)), "{name}");
        assert!(family.help.ends_with('.') && family.help.len() > 20, "{name}: {}", family.help);
        assert!(!family.samples.is_empty(), "{name} has no sample");
        for sample in &family.samples {
            let is_whole = sample.value.fract() == 0.0;
            let has_unit = ["_seconds", "_ratio"].iter().any(|unit| name.ends_with(unit));
            assert!(is_whole || has_unit, "{name} {}", sample.value);
            assert!(family.kind != Kind::Counter || sample.value >= 0.0, "{name} {}", sample.value);
        }
    }
}

#[test]
fn label_values_arrive_whatever_they_hold() {
    let mut snapshot = snapshot();
    let hostile = "a\"b\\c\nd{e=\"f\"} 1\\n";
    snapshot.groups[0].1.as_mut().unwrap().policy = hostile.to_owned();
    let exposed = exposed(snapshot);
    let info = exposed.samples_of("steer_group_info").next().unwrap();
    assert_eq!(info.labels["policy"], hostile);
    assert_eq!(exposed.families.len(), self::exposed(self::snapshot()).families.len());
}

#[test]
fn a_group_that_gives_no_numbers_has_none_and_is_said_to_be_down() {
    let mut snapshot = snapshot();
    snapshot.groups.push(("api".parse().unwrap(), None));
    let exposed = exposed(snapshot);
    assert_eq!(exposed.value("steer_group_up", &[("group", "api")]), Some(0.0));
    let of_api = exposed.families.iter().flat_map(|family| &family.samples);
    let of_api = of_api.filter(|sample| sample.labels.get("group").is_some_and(|group| group == "api"));
    assert_eq!(of_api.count(), 1);
}

#[test]
fn what_cannot_be_read_is_left_out_and_not_0() {
    let exposed = exposed(Snapshot { kernel: None, usage: None, ..snapshot() });
    let samples = |prefix: &str| {
        let families = exposed.families.iter().filter(|family| family.name.starts_with(prefix));
        families.map(|family| family.samples.len()).sum::<usize>()
    };
    assert_eq!(samples("steer_kernel_"), 0);
    assert_eq!(samples("process_"), 1, "the start");
}

#[test]
fn labels_are_few_and_none_is_of_a_connection() {
    let exposed = exposed(snapshot());
    let known = [
        "asked",
        "event",
        "group",
        "mode",
        "outcome",
        "policy",
        "program",
        "restart",
        "result",
        "state",
        "version",
        "when_empty",
        "worker",
    ];
    assert_eq!(exposed.label_names().into_iter().collect::<Vec<_>>(), known);
}
