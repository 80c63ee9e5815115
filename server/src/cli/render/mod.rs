//! Answers as text for people and as JSON for programs.

mod adopted;
mod change;
mod event;
#[cfg(test)]
pub(crate) mod fixtures;
mod flows;
pub mod json;
mod policy;
mod receipt;
mod reload;
mod status;
mod table;
mod units;

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use crate::control::api::{Done, Info, Metrics, Response};

/// How text looks where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Tables have lines and fit the width; otherwise they are aligned text, for other programs to cut.
    pub terminal: bool,
    /// States have colours.
    pub colour: bool,
}

/// An answer as text, without a line's end.
pub fn text(answer: &Response, style: Style) -> String {
    match answer {
        Response::Info(Info { version, pid, uptime_ms, program }) => {
            format!("steer {version}, pid {pid}, up {}, program {program}", units::duration(*uptime_ms))
        }
        Response::Status(status) => status::text(status, style),
        Response::Metrics(Metrics { exposition, .. }) => exposition.trim_end_matches('\n').to_owned(),
        Response::Table(table) => table::text(table, style),
        Response::Flows(flows) => flows::text(flows, style),
        Response::Policy(report) => policy::text(report, style),
        Response::Change(change) => change::text(change, style),
        Response::Adopted(adopted) => adopted::text(adopted),
        Response::Reload(reload) => reload::text(reload),
        Response::Event(event) => event::text(event),
        Response::Receipt(receipt) => receipt::text(receipt),
        Response::Done(Done { answers, milliseconds }) => {
            let what = match answers {
                0 => String::new(),
                1 => ", 1 receipt".to_owned(),
                many => format!(", {many} receipts"),
            };
            format!("done in {}{what}", units::duration(*milliseconds))
        }
    }
}

/// A table with a header; columns whose header is in `right` have numbers.
fn grid(style: Style, header: &[&str], right: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    if style.terminal {
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    } else {
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    }
    if style.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(header);
    table.add_rows(rows);
    for (index, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            if right.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if !style.terminal {
                column.set_padding((0, 2));
            }
        }
    }
    // Padding at a line's end is no content.
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A slot or a process, where there is one.
fn number<N: ToString>(number: Option<N>) -> Cell {
    Cell::new(number.map_or_else(|| "-".to_owned(), |number| number.to_string()))
}

/// A worker's state, in its colour where colour is wanted.
fn coloured(state: &str, style: Style) -> Cell {
    let cell = Cell::new(state);
    if !style.colour {
        return cell;
    }
    cell.fg(match state {
        "working" => Color::Green,
        "starting" | "draining" => Color::Yellow,
        "lost" => Color::Red,
        _ => Color::Reset,
    })
}
