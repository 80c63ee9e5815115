//! How lines look: as text, or as an object each with the same names whoever says them.

use std::fmt;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::{RecordFields, VisitOutput},
    fmt::{
        FormatFields,
        format::{DefaultVisitor, Writer},
        time::{FormatTime, SystemTime},
    },
};

use crate::values::LogFormat;

/// A line that no event of `tracing` is behind.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) level: tracing::Level,
    pub(crate) target: &'a str,
    pub(crate) message: &'a str,
    /// What an object has beside its message.
    pub(crate) fields: Map<String, Value>,
}

impl Line<'_> {
    /// The line in this form, with its end; as `tracing_subscriber` writes an event.
    pub(crate) fn format(self, format: LogFormat) -> String {
        let Self { level, target, message, mut fields } = self;
        let mut timestamp = String::new();
        // Writing to a string cannot fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        match format {
            LogFormat::Text => format!("{timestamp} {level:>5} {target}: {message}\n"),
            LogFormat::Json => {
                fields.insert("message".to_owned(), message.into());
                let level = level.as_str();
                let object =
                    json!({ "timestamp": timestamp, "level": level, "fields": fields, "target": target });
                format!("{object}\n")
            }
        }
    }
}

/// The fields of an event as text: of what happens to groups the message alone, which says what the fields say.
#[derive(Debug)]
pub(super) struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = TextVisitor { rest: DefaultVisitor::new(writer, true), says_all: false };
        fields.record(&mut visitor);
        visitor.rest.finish()
    }
}

struct TextVisitor<'writer> {
    rest: DefaultVisitor<'writer>,
    /// The message says what the fields after this one say.
    says_all: bool,
}

impl TextVisitor<'_> {
    /// Whether this field is to be written. The message comes first in every event, and `event` before all other fields of those
    /// that have one: see [`super::events`].
    fn takes(&mut self, field: &Field) -> bool {
        self.says_all |= field.name() == super::events::FIELD;
        !self.says_all
    }
}

impl Visit for TextVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.takes(field) {
            self.rest.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        if self.takes(field) {
            self.rest.record_error(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.takes(field) {
            self.rest.record_debug(field, value);
        }
    }
}
