//! The state of groups: a header, a table of workers, and what the program counted.

use comfy_table::Cell;

use super::{Style, coloured, grid, number, units};
use crate::control::api::{
    Asked, CanaryStatus, Counters, GroupStatus, IdEvents, Outcomes, Status, WorkerStatus,
};

const COLUMNS: [&str; 14] = [
    "WORKER",
    "STATE",
    "PID",
    "GENERATION",
    "SLOT",
    "WEIGHT",
    "SHARE",
    "QUEUE",
    "OPEN",
    FLOWS,
    "SELECTED",
    "IN",
    "OUT",
    "RESTARTS",
];

/// A column that only groups with a UDP address have.
const FLOWS: &str = "FLOWS";

/// Every group, with an empty line between two.
pub(super) fn text(status: &Status, style: Style) -> String {
    let parts: Vec<String> = status.groups.iter().map(|status| group(status, style)).collect();
    let parts = [parts, status.unattended.clone()].concat();
    if parts.is_empty() { "no groups".to_owned() } else { parts.join("\n\n") }
}

fn group(group: &GroupStatus, style: Style) -> String {
    let mut lines = vec![format!(
        "{}  {}  policy {}  mode {}  restart {}  when-empty {}  epoch {}",
        group.name,
        group.listen.join(" "),
        group.policy,
        group.mode,
        group.restart,
        group.when_empty,
        group.epoch,
    )];
    let has_udp = group.listen.iter().any(|address| address.starts_with("udp://"));
    let columns: Vec<&str> = COLUMNS.into_iter().filter(|column| has_udp || *column != FLOWS).collect();
    let rows = group.workers.iter().map(|status| worker(status, has_udp, style)).collect();
    lines.push(grid(style, &columns, &columns[2..], rows));
    for worker in &group.workers {
        if let Some(message) = &worker.message {
            lines.push(format!("{}: {message}", worker.name));
        }
        if worker.stalled {
            let name = &worker.name;
            lines.push(format!("{name}: stalled: nothing was taken from its queue; it gets nothing new"));
        }
        if let Some(status) = &worker.canary {
            lines.push(canary(worker, status));
        }
    }
    if group.holding {
        lines.push(format!("holding: {} connections wait for a worker", group.held));
    }
    if group.strangers > 0 {
        lines.push(format!("strangers: {} sockets have joined unasked, and get nothing", group.strangers));
    }
    let Counters { runs, asked, outcome, flows: _, ids } = group.counters;
    let Asked { connection, segment, datagram, migration } = asked;
    let Outcomes { first_choice, further_choice, held, dropped, less_loaded, own_cpu, kept, by_id } = outcome;
    lines.push(format!(
        "runs {runs}: {connection} connections, {segment} segments, {datagram} datagrams, {migration} migrations"
    ));
    lines.push(format!(
        "outcomes: {first_choice} first choice, {further_choice} further choice, {held} held, {dropped} dropped"
    ));
    if kept > 0 {
        lines.push(format!("by flow: {kept} to where their flows went before"));
    }
    let IdEvents { opening, gone, unknown } = ids;
    if by_id + opening + gone + unknown > 0 {
        lines.push(format!(
            "by connection ID: {by_id}; by the hash: {opening} that open a connection, {gone} of generations that are gone, \
             {unknown} without a known ID"
        ));
    }
    if less_loaded + own_cpu > 0 {
        lines.push(format!("by policy: {less_loaded} to the less loaded, {own_cpu} to the packet's own CPU"));
    }
    lines.join("\n")
}

/// The counters by which a canary is judged, and what becomes of it.
fn canary(worker: &WorkerStatus, canary: &CanaryStatus) -> String {
    let WorkerStatus { name, share, .. } = worker;
    let CanaryStatus { generation, slot, queue, connections, selected, .. } = canary;
    let part = units::share(if *share > 0.0 { canary.share / share } else { 0.0 });
    let next = match canary.remaining_ms {
        Some(remaining) => format!("takes over in {}", units::duration(remaining)),
        None => format!("waits for steer restart {} --proceed or --abort", name.group),
    };
    format!(
        "{name}: canary generation {generation} (slot {slot}): {part} of its buckets, selected {selected}, queue {queue}, \
         connections {connections}; {next}"
    )
}

fn worker(worker: &WorkerStatus, has_udp: bool, style: Style) -> Vec<Cell> {
    let cells = [
        Cell::new(&worker.name),
        coloured(&worker.state, style),
        number(worker.pid),
        Cell::new(worker.generation),
        number(worker.slot),
        Cell::new(worker.weight),
        Cell::new(units::share(worker.share)),
        Cell::new(worker.queue),
        Cell::new(worker.connections),
        Cell::new(worker.flows),
        Cell::new(worker.selected),
        Cell::new(worker.migrated_in),
        Cell::new(worker.migrated_out),
        Cell::new(worker.restarts),
    ];
    let columns = COLUMNS.into_iter().zip(cells);
    columns.filter(|(column, _)| has_udp || *column != FLOWS).map(|(_, cell)| cell).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures, *};

    const PLAIN: Style = Style { terminal: false, colour: false };

    #[test]
    fn a_group_is_a_header_its_workers_and_its_counters() {
        insta::assert_snapshot!(text(&fixtures::status(), PLAIN));
    }

    #[test]
    fn a_canary_and_a_stalled_worker_have_lines_of_their_own() {
        let mut status = fixtures::status();
        let workers = &mut status.groups[0].workers;
        workers[0].share = 0.5;
        workers[0].canary = Some(fixtures::canary());
        workers[1].stalled = true;
        workers[1].message = None;
        workers[1].canary = Some(CanaryStatus { remaining_ms: None, ..fixtures::canary() });
        let text = text(&status, PLAIN);
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(": ")).take(3).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        web/0: canary generation 4 (slot 9): 5.0 % of its buckets, selected 120, queue 0, connections 3; takes over in 12.3 s
        web/1: stalled: nothing was taken from its queue; it gets nothing new
        web/1: canary generation 4 (slot 9): 0.0 % of its buckets, selected 120, queue 0, connections 3; waits for steer restart web --proceed or --abort
        ");
    }

    #[test]
    fn without_groups_it_says_so() {
        assert_eq!(text(&Status { schema: 1, groups: vec![], unattended: vec![] }, PLAIN), "no groups");
        let unattended = vec!["nobody looks after web".to_owned()];
        let status = Status { schema: 1, groups: vec![], unattended };
        assert_eq!(text(&status, PLAIN), "nobody looks after web");
    }

    #[test]
    fn a_state_has_a_colour_only_where_colour_is_wanted() {
        let status = fixtures::status();
        assert!(!text(&status, Style { terminal: true, colour: false }).contains('\u{1b}'));
        let coloured = text(&status, Style { terminal: true, colour: true });
        assert!(coloured.contains("\u{1b}[38;5;10m"), "{coloured:?}");
    }
}
