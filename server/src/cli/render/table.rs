//! A steering table, by worker.

use comfy_table::Cell;

use super::{Style, grid, number, units};
use crate::control::api::Table;

const COLUMNS: [&str; 5] = ["WORKER", "SLOT", "WEIGHT", "BUCKETS", "SHARE"];

/// A header, then who has which part.
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
    text
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
    fn on_a_terminal_it_has_lines() {
        let style = Style { terminal: true, colour: false };
        assert!(text(&fixtures::table(), style).contains('─'));
    }
}
