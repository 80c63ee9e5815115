//! How lines look, as text and as objects.

use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::engine::effect::AboutProcess;

/// What was written.
#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Written {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What is written, in this form, of what is logged meanwhile.
fn written(format: LogFormat, log: impl FnOnce()) -> String {
    let written = Written::default();
    let builder = tracing_subscriber::fmt().with_writer(written.clone()).with_ansi(false);
    match format {
        LogFormat::Text => {
            tracing::subscriber::with_default(builder.fmt_fields(TextFields).finish(), log);
        }
        LogFormat::Json => tracing::subscriber::with_default(builder.json().finish(), log),
    }
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Without its time.
fn text(log: impl FnOnce()) -> String {
    let line = written(LogFormat::Text, log);
    line.split_once(' ').unwrap().1.to_owned()
}

fn object(log: impl FnOnce()) -> serde_json::Value {
    let mut object: serde_json::Value = serde_json::from_str(&written(LogFormat::Json, log)).unwrap();
    assert!(object["timestamp"].take().as_str().unwrap().ends_with('Z'));
    object
}

fn started() {
    events::log(&events::Happened {
        kind: "started",
        group: &"web".parse().unwrap(),
        worker: Some(&"web/0".parse().unwrap()),
        generation: Some(2),
        process: &AboutProcess { pid: Some(123), ..AboutProcess::default() },
        detail: "pid 123",
    });
}

fn unsaved() {
    events::log(&events::Happened {
        kind: "state-unsaved",
        group: &"web".parse().unwrap(),
        worker: None,
        generation: None,
        process: &AboutProcess::default(),
        detail: "no \"room\"",
    });
}

#[test]
fn an_event_is_one_sentence_for_people() {
    assert_eq!(text(started), " INFO steer::events: web/0 generation 2 started: pid 123\n");
    assert_eq!(text(unsaved), " WARN steer::events: web state-unsaved: no \"room\"\n");
}

#[test]
fn an_event_is_fields_for_programs() {
    let expected = json!({
        "timestamp": null, "level": "INFO", "target": "steer::events",
        "fields": {
            "message": "web/0 generation 2 started: pid 123", "event": "started", "group": "web", "worker": "web/0",
            "generation": 2, "pid": 123, "detail": "pid 123",
        },
    });
    assert_eq!(object(started), expected);
    let expected = json!({
        "timestamp": null, "level": "WARN", "target": "steer::events",
        "fields": {
            "message": "web state-unsaved: no \"room\"", "event": "state-unsaved", "group": "web", "detail": "no \"room\"",
        },
    });
    assert_eq!(object(unsaved), expected);
}

#[test]
fn what_others_log_has_its_fields_as_ever() {
    let other = || tracing::info!(number = 7, name = "x", "text");
    assert!(text(other).ends_with(": text number=7 name=\"x\"\n"), "{}", text(other));
}

#[test]
fn a_line_that_tells_of_dropped_ones_is_as_all_others() {
    let line = dropped_line(2, LogFormat::Text);
    let (time, rest) = line.split_once(' ').unwrap();
    assert!(time.ends_with('Z'));
    assert_eq!(rest, " WARN steer::log: 2 lines were dropped: stderr was not read\n");
    assert!(dropped_line(1, LogFormat::Text).ends_with(": 1 line was dropped: stderr was not read\n"));
    let mut object: serde_json::Value = serde_json::from_str(&dropped_line(2, LogFormat::Json)).unwrap();
    object["timestamp"].take();
    let fields = json!({ "message": "2 lines were dropped: stderr was not read", "dropped": 2 });
    let expected = json!({ "timestamp": null, "level": "WARN", "target": "steer::log", "fields": fields });
    assert_eq!(object, expected);
}
