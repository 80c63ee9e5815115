//! Tests that cannot be made here.

use std::{
    io::{self, Write as _},
    thread,
};

/// Prints that the calling test, or a part of it, is skipped, and why: past the capture of a passing test's output, on a line of its own, where
/// `cargo xtask test` counts it.
pub fn skip(reason: &str) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("a test");
    let line = format!("\nskipped: {name}: {}\n", reason.replace('\n', "; "));
    io::stdout().lock().write_all(line.as_bytes()).expect("stdout can be written");
}
