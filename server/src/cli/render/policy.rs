//! A group's policy, and why each worker has the share that it has.

use comfy_table::Cell;

use super::{Style, coloured, grid, units};
use crate::{
    control::api::{PolicyReport, Ramp, WorkerPolicy},
    policy::Policy,
};

/// What the policy means, then each worker's part and the reason; what only one policy looks at stands only under it.
pub(super) fn text(report: &PolicyReport, style: Style) -> String {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| (column.is_of)(&report.policy)).collect();
    let header: Vec<&str> = columns.iter().map(|column| column.name).collect();
    let rows = report.members.iter();
    let rows = rows.map(|member| columns.iter().map(|column| (column.cell)(member, style)).collect());
    let table = grid(style, &header, &["WEIGHT", "SHARE", "LOAD"], rows.collect());
    format!("{}: {}: {}\n{table}", report.group, report.policy, report.meaning)
}

struct Column {
    name: &'static str,
    is_of: fn(&Policy) -> bool,
    cell: fn(&WorkerPolicy, Style) -> Cell,
}

const COLUMNS: [Column; 9] = [
    Column { name: "WORKER", is_of: any, cell: |member, _| Cell::new(&member.worker) },
    Column { name: "STATE", is_of: any, cell: |member, style| coloured(&member.state, style) },
    Column { name: "WEIGHT", is_of: any, cell: |member, _| Cell::new(weight(member)) },
    Column { name: "SHARE", is_of: any, cell: |member, _| Cell::new(units::share(member.share)) },
    Column { name: "LOAD", is_of: by_load, cell: |member, _| super::number(member.load) },
    Column { name: "STALLED", is_of: by_load, cell: |member, _| yes_or_no(member.stalled) },
    Column { name: "PUBLISHES", is_of: by_load, cell: |member, _| yes_or_no(member.publishes) },
    Column { name: "CPUS", is_of: by_cpu, cell: |member, _| cpus(member) },
    Column { name: "WHY", is_of: any, cell: |member, _| Cell::new(&member.why) },
];

fn any(_: &Policy) -> bool {
    true
}

fn by_load(policy: &Policy) -> bool {
    matches!(policy, Policy::LeastLoaded { .. })
}

fn by_cpu(policy: &Policy) -> bool {
    matches!(policy, Policy::Cpu)
}

fn weight(member: &WorkerPolicy) -> String {
    match member.ramp {
        None => member.weight.to_string(),
        Some(Ramp { from, now, to, remaining_ms }) => format!(
            "{} -> {} ({} now, {} left)",
            units::weight(from),
            units::weight(to),
            units::weight(now),
            units::duration(remaining_ms)
        ),
    }
}

fn yes_or_no(is_so: bool) -> Cell {
    Cell::new(if is_so { "yes" } else { "no" })
}

fn cpus(member: &WorkerPolicy) -> Cell {
    Cell::new(if member.cpus.is_empty() { "any".to_owned() } else { units::cpus(&member.cpus) })
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures, *};

    const PLAIN: Style = Style { terminal: false, colour: false };

    #[test]
    fn by_the_table_alone_there_are_weights_and_shares() {
        let report = PolicyReport {
            policy: Policy::Hash,
            meaning: "the hash of a flow's 4-tuple finds its worker".into(),
            ..fixtures::policy()
        };
        insta::assert_snapshot!(text(&report, PLAIN), @r"
        web: hash: the hash of a flow's 4-tuple finds its worker
        WORKER  STATE                           WEIGHT   SHARE  WHY
        web/0   working                              1  25.0 %  1 of 4 by weight
        web/1   working  1 -> 5 (2.4 now, 36.0 s left)  75.0 %  2.4 of 3.4 by weight
        ");
    }

    #[test]
    fn by_load_there_are_loads_too() {
        insta::assert_snapshot!(text(&fixtures::policy(), PLAIN), @r"
        web: least-loaded:tie=4: the less loaded of two workers
        WORKER  STATE                           WEIGHT   SHARE  LOAD  STALLED  PUBLISHES  WHY
        web/0   working                              1  25.0 %    40  no       yes        1 of 4 by weight
        web/1   working  1 -> 5 (2.4 now, 36.0 s left)  75.0 %     -  yes      no         2.4 of 3.4 by weight
        ");
    }

    #[test]
    fn by_cpu_there_are_cpus_too() {
        let report = PolicyReport {
            policy: Policy::Cpu,
            meaning: "the worker on the CPU that takes the packet".into(),
            ..fixtures::policy()
        };
        insta::assert_snapshot!(text(&report, PLAIN), @r"
        web: cpu: the worker on the CPU that takes the packet
        WORKER  STATE                           WEIGHT   SHARE  CPUS   WHY
        web/0   working                              1  25.0 %  0-1,3  1 of 4 by weight
        web/1   working  1 -> 5 (2.4 now, 36.0 s left)  75.0 %  any    2.4 of 3.4 by weight
        ");
    }
}
