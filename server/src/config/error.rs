//! What is wrong with a configuration, and where: the line, a caret under it, and the way out.

use std::{error::Error, fmt};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::source::Place;

/// More than this are not printed: in a file that is no configuration at all, every line is wrong.
const PRINTED_MAX: usize = 50;

/// The longest message, in characters: a file can have a value of any length, and a message tells of it.
const MESSAGE_MAX: usize = 240;

/// Everything that is wrong, in the order of the files and of their lines. Displays as a whole, with a hint for each.
#[derive(Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

/// One thing that is wrong.
#[derive(Debug)]
pub struct ConfigError {
    message: String,
    /// None for a file that could not be read.
    place: Option<Place>,
    /// The other of two places that do not go together, and what is there.
    other: Option<(Place, String)>,
    hint: String,
}

impl ConfigErrors {
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        // What could not be read comes first.
        errors.sort_by_key(|error| {
            error.place.as_ref().map(|place| (place.source.order(), place.span.start, place.span.end))
        });
        Self(errors)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl Error for ConfigErrors {}

impl ConfigError {
    pub(super) fn new(message: impl Into<String>, place: Place, hint: impl Into<String>) -> Self {
        let (message, hint) = (shortened(message.into()), shortened(hint.into()));
        Self { message, place: Some(place), other: None, hint }
    }

    /// An error of a whole file, which the message names.
    pub(super) fn of_file(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, other: None, hint: hint.into() }
    }

    /// The same error, with the other place that has a part in it.
    pub(super) fn with_other(self, other: Place, what_is_there: impl Into<String>) -> Self {
        Self { other: Some((other, what_is_there.into())), ..self }
    }

    /// Where it is: the place, and the other one that has a part in it.
    #[cfg(any(test, fuzzing))]
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.place.iter().chain(self.other.iter().map(|(place, _)| place))
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The way out.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().take(PRINTED_MAX).enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        match self.0.len().checked_sub(PRINTED_MAX) {
            Some(more @ 1..) => {
                write!(f, "\nerror: {more} more\nhint: correct these {PRINTED_MAX} first, and check again\n")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, place, other, hint } = self;
        let Some(place) = place else {
            return writeln!(f, "error: {message}\nhint: {hint}");
        };
        let mut snippet = snippet(place).annotation(AnnotationKind::Primary.span(place.span.clone()));
        let mut elsewhere = None;
        if let Some((other, label)) = other {
            let annotation = AnnotationKind::Context.span(other.span.clone()).label(label);
            if other.source.order() == place.source.order() {
                snippet = snippet.annotation(annotation);
            } else {
                elsewhere = Some(self::snippet(other).annotation(annotation));
            }
        }
        let report: Group<'_> = Level::ERROR.primary_title(message).element(snippet).elements(elsewhere);
        writeln!(f, "{}\nhint: {hint}", Renderer::plain().render(&[report]))
    }
}

/// The text without its middle, where it is too long: values stand there, and what is said of them on both sides.
fn shortened(text: String) -> String {
    let count = text.chars().count();
    if count <= MESSAGE_MAX {
        return text;
    }
    let begin: String = text.chars().take(MESSAGE_MAX / 2).collect();
    let end: String = text.chars().skip(count - MESSAGE_MAX / 2).collect();
    format!("{begin} [...] {end}")
}

fn snippet(place: &Place) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
    Snippet::source(place.source.text()).path(place.source.path().to_string_lossy())
}
