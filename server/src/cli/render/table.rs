//! A steering table, by worker.

use comfy_table::Cell;

use super::{Style, grid, number, units};
use crate::{
    control::api::{Placed, Table},
    names::WorkerName,
};

const COLUMNS: [&str; 5] = ["WORKER", "SLOT", "WEIGHT", "BUCKETS", "SHARE"];

/// A header, then who has which part, then where each client goes that was asked for.
pub(super) fn text(table: &Table, style: Style) -> String {
    let mut text = format!(
        "{}  epoch {}  {} buckets  last resort {}\n",
        table.group, table.epoch, table.buckets, table.last_resort
    );
    let mut rows: Vec<Vec<Cell>> = table
        .shares
        .iter()
        .map(|share| {
            vec![
                Cell::new(&share.worker),
                number(share.slot),
                Cell::new(share.weight),
                Cell::new(share.buckets),
                Cell::new(units::share(share.share)),
            ]
        })
        .collect();
    if table.held_buckets > 0 {
        let share = f64::from(table.held_buckets) / f64::from(table.buckets.max(1));
        let none = || Cell::new("-");
        rows.push(vec![
            Cell::new("hold"),
            none(),
            none(),
            Cell::new(table.held_buckets),
            Cell::new(units::share(share)),
        ]);
    }
    text += &grid(style, &COLUMNS, &COLUMNS[1..], rows);
    for placed in &table.placed {
        text += "\n";
        text += &line(placed);
    }
    text
}

fn line(placed: &Placed) -> String {
    let Placed { client, local, bucket, slot, why, .. } = placed;
    let place = match slot {
        Some(slot) => format!("slot {slot}, bucket {bucket}"),
        None => format!("bucket {bucket}"),
    };
    // The slot is the worker's, not the others'.
    let whom = match (&placed.worker, placed.others.is_empty()) {
        (Some(worker), false) => format!("{worker} ({place}) or {}", names(&placed.others)),
        _ => format!("{} ({place})", whom(placed)),
    };
    format!("{client} -> {local}: {whom}: {why}")
}

/// The worker, and the others that it may be instead.
pub(super) fn whom(Placed { worker, others, .. }: &Placed) -> String {
    match (worker, others.is_empty()) {
        (Some(worker), true) => worker.to_string(),
        (Some(worker), false) => format!("{worker} or {}", names(others)),
        (None, true) => "no worker".to_owned(),
        (None, false) => format!("one of {}", names(others)),
    }
}

fn names(workers: &[WorkerName]) -> String {
    workers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures, *};

    #[test]
    fn who_has_which_part() {
        let style = Style { terminal: false, colour: false };
        insta::assert_snapshot!(text(&fixtures::table(), style), @r"
        web  epoch 12  1024 buckets  last resort hold
        WORKER  SLOT  WEIGHT  BUCKETS   SHARE
        web/0      5       1      512  50.0 %
        web/1      -       1        0   0.0 %
        hold       -       -      512  50.0 %
        ");
    }

    #[test]
    fn where_clients_go() {
        let style = Style { terminal: false, colour: false };
        let by_load = fixtures::placed("web/2", Some(5));
        let none = Placed { worker: None, slot: None, others: vec![], why: "held".into(), ..by_load.clone() };
        let by_cpu = Placed { worker: None, slot: None, why: "by CPU".into(), ..by_load.clone() };
        let alone = Placed { others: vec![], ..by_load.clone() };
        let table = Table { placed: vec![by_load, alone, by_cpu, none], ..fixtures::table() };
        insta::assert_snapshot!(text(&table, style), @r"
        web  epoch 12  1024 buckets  last resort hold
        WORKER  SLOT  WEIGHT  BUCKETS   SHARE
        web/0      5       1      512  50.0 %
        web/1      -       1        0   0.0 %
        hold       -       -      512  50.0 %
        203.0.113.7:4711 -> 10.0.0.1:443: web/2 (slot 5, bucket 12345) or web/0, web/3: the less loaded of two
        203.0.113.7:4711 -> 10.0.0.1:443: web/2 (slot 5, bucket 12345): the less loaded of two
        203.0.113.7:4711 -> 10.0.0.1:443: one of web/0, web/3 (bucket 12345): by CPU
        203.0.113.7:4711 -> 10.0.0.1:443: no worker (bucket 12345): held
        ");
    }

    #[test]
    fn on_a_terminal_it_has_lines() {
        let style = Style { terminal: true, colour: false };
        assert!(text(&fixtures::table(), style).contains('─'));
    }
}
