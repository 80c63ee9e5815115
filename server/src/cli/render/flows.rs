//! UDP flows, by generation and one by one.

use comfy_table::Cell;

use super::{Style, grid, units};
use crate::control::api::Flows;

const COUNTS: [&str; 5] = ["WORKER", "GENERATION", "STATE", "FLOWS", "ESTABLISHED"];
const FLOWS: [&str; 5] = ["CLIENT", "TO", "WORKER", "GENERATION", "IDLE"];

/// A header, how many each generation has, and those that were asked for.
pub(super) fn text(flows: &Flows, style: Style) -> String {
    let Flows { group, room, idle_ms, found, by_generation, flows: listed, .. } = flows;
    let mut text = format!(
        "{group}  {found} flows  room for {room}  forgotten when idle for {}",
        units::duration(*idle_ms)
    );
    if !by_generation.is_empty() {
        let rows = by_generation.iter().map(|one| {
            let state = if one.draining { "draining" } else { "working" };
            vec![
                Cell::new(&one.worker),
                Cell::new(one.generation),
                super::coloured(state, style),
                Cell::new(one.flows),
                Cell::new(one.established),
            ]
        });
        text += "\n";
        text += &grid(style, &COUNTS, &["GENERATION", "FLOWS", "ESTABLISHED"], rows.collect());
    }
    if !listed.is_empty() {
        let rows = listed.iter().map(|flow| {
            let state = if flow.established { "" } else { " (one datagram)" };
            vec![
                Cell::new(flow.client),
                Cell::new(flow.local),
                Cell::new(&flow.worker),
                Cell::new(flow.generation),
                Cell::new(format!("{}{state}", units::duration(flow.idle_ms))),
            ]
        });
        text += "\n\n";
        text += &grid(style, &FLOWS, &["GENERATION"], rows.collect());
        let more = found.saturating_sub(listed.len() as u64);
        if more > 0 {
            text += &format!("\nand {more} more: --limit shows more of them, --client only some");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures, *};

    const PLAIN: Style = Style { terminal: false, colour: false };

    #[test]
    fn flows_are_counted_and_listed() {
        insta::assert_snapshot!(text(&fixtures::flows(), PLAIN), @r"
        dns  7 flows  room for 65536  forgotten when idle for 30.0 s
        WORKER  GENERATION  STATE     FLOWS  ESTABLISHED
        dns/1            3  draining      2            2
        dns/1            4  working       5            1

        CLIENT            TO             WORKER  GENERATION  IDLE
        203.0.113.7:4711  192.0.2.53:53  dns/1            3  1.3 s
        198.51.100.4:53   192.0.2.53:53  dns/1            4  1.3 s (one datagram)
        and 5 more: --limit shows more of them, --client only some
        ");
    }

    #[test]
    fn without_flows_there_is_only_the_header() {
        let none = Flows { found: 0, by_generation: vec![], flows: vec![], ..fixtures::flows() };
        assert_eq!(text(&none, PLAIN), "dns  0 flows  room for 65536  forgotten when idle for 30.0 s");
    }
}
