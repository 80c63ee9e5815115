//! An event, on one line.

use super::units;
use crate::control::api::Event;

/// Time, number, kind, whom it happened to, and the rest.
pub(super) fn text(event: &Event) -> String {
    let Event { sequence, unix_ms, kind, group, worker, generation, detail } = event;
    let whom = match (worker, group) {
        (Some(worker), _) => worker.to_string(),
        (None, Some(group)) => group.to_string(),
        (None, None) => "daemon".to_owned(),
    };
    let mut text = format!("{} #{sequence} {kind:<9} {whom}", units::utc(*unix_ms));
    if let Some(generation) = generation {
        text += &format!(" generation {generation}");
    }
    // The rest may come from a worker's own words: it stays on this line, and does not speak to the terminal.
    let detail: String = detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if !detail.is_empty() {
        text += &format!(": {detail}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures, *};

    #[test]
    fn an_event_is_one_line() {
        let mut event = fixtures::event();
        insta::assert_snapshot!(text(&event), @"2026-08-01T12:00:00.123Z #17 working   web/0 generation 3: listener 127.0.0.1:8080 in slot 5");
        event.detail = "first\nsecond\u{1b}[2J".into();
        (event.worker, event.generation) = (None, None);
        insta::assert_snapshot!(text(&event), @"2026-08-01T12:00:00.123Z #17 working   web: first second [2J");
        event.group = None;
        event.detail.clear();
        insta::assert_snapshot!(text(&event), @"2026-08-01T12:00:00.123Z #17 working   daemon");
    }
}
