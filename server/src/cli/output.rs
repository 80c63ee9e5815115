//! stdout: data, as text or as JSON.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use thiserror::Error;

use super::{exit::Exit, render::Style};

/// stdout does not take what is to be printed.
#[derive(Debug, Error)]
#[error("cannot write to stdout")]
pub(super) struct PrintError(#[from] io::Error);

/// Whether colour is welcome: <https://no-color.org>.
pub(crate) fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How text looks on this stdout.
pub(super) fn style() -> Style {
    let terminal = io::stdout().is_terminal();
    Style { terminal, colour: terminal && colour_wanted() }
}

/// Prints `text`, with a line's end where it has none, and lets it go at once: a reader may wait for each line.
pub(super) fn print(text: &str) -> Result<(), PrintError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        stdout.write_all(b"\n")?;
    }
    Ok(stdout.flush()?)
}

/// Prints one JSON object over several lines.
pub(super) fn print_pretty(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(print(&serde_json::to_string_pretty(value)?)?)
}

/// Prints what comes bit by bit, from where an error cannot be returned; it is kept for the end.
#[derive(Debug, Default)]
pub(super) struct Stream {
    failed: Option<PrintError>,
}

impl Stream {
    /// Prints `text`, unless printing has failed before.
    pub(super) fn print(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = print(text).err();
        }
    }

    /// Whether printing has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// The command's exit, or the failure to print. A reader that has gone does not change how the command went.
    pub(super) fn finish(self, exit: Exit) -> Result<Exit, PrintError> {
        match self.failed {
            Some(error) if error.0.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(exit),
        }
    }
}
