//! Runs a command that prints libtest's lines, passes its output through, and counts.

use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::summary::Counts;

/// Runs the command. Its output appears as it comes; its results are the counts.
///
/// A command that fails with no test failed (a test that does not compile, a test process that was killed) counts as
/// one failure: the sum must not look better than the exit code.
pub(crate) fn run(command: &mut Command) -> Result<Counts> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("running {command:?}"))?;
    let mut output = child.stdout.take().context("the child has no stdout")?;
    let mut reader = Reader::default();
    let mut buffer = [0; 8192];
    loop {
        let length = output.read(&mut buffer).context("reading the tests' output")?;
        if length == 0 {
            break;
        }
        io::stdout().write_all(&buffer[..length]).context("passing the tests' output on")?;
        io::stdout().flush().context("passing the tests' output on")?;
        reader.take(&buffer[..length]);
    }
    let mut counts = reader.finish();
    let status = child.wait().context("waiting for the tests")?;
    if !status.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

/// Sums result lines of output that comes in pieces.
#[derive(Debug, Default)]
struct Reader {
    line: Vec<u8>,
    counts: Counts,
    /// Tests of the running binary that have said that they are skipped: libtest counts them as passed.
    said_skipped: u64,
}

impl Reader {
    fn take(&mut self, piece: &[u8]) {
        for byte in piece {
            if *byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        self.said_skipped += u64::from(line.starts_with("skipped: "));
        if let Some(mut counts) = result_line(&line) {
            let skipped = self.said_skipped.min(counts.passed);
            counts.passed -= skipped;
            counts.skipped += skipped;
            self.counts += counts;
            self.said_skipped = 0;
        }
        self.line.clear();
    }

    fn finish(mut self) -> Counts {
        self.end_line();
        self.counts
    }
}

/// Reads `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s`.
fn result_line(line: &str) -> Option<Counts> {
    let (_verdict, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in rest.split("; ") {
        match part.split_once(' ') {
            Some((number, "passed")) => counts.passed = number.parse().ok()?,
            Some((number, "failed")) => counts.failed = number.parse().ok()?,
            Some((number, "ignored")) => counts.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str =
        "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.02s";
    const FAILED: &str =
        "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";

    #[test]
    fn result_lines_are_read_and_others_are_not() {
        assert_eq!(result_line(OK), Some(Counts { passed: 5, failed: 0, skipped: 1 }));
        assert_eq!(result_line(FAILED), Some(Counts { passed: 3, failed: 2, skipped: 0 }));
        for line in
            ["", "test a ... ok", "running 5 tests", "test result: ok", "note: test result: ok. 5 passed"]
        {
            assert_eq!(result_line(line), None, "{line}");
        }
    }

    #[test]
    fn pieces_of_any_length_add_up() {
        let output = format!("running\n{OK}\ntest x ... ok\n{FAILED}");
        for length in 1..output.len() {
            let mut reader = Reader::default();
            output.as_bytes().chunks(length).for_each(|piece| reader.take(piece));
            assert_eq!(reader.finish(), Counts { passed: 8, failed: 2, skipped: 1 });
        }
    }

    #[test]
    fn tests_that_say_that_they_are_skipped_have_not_passed() {
        let mut reader = Reader::default();
        reader.take(format!("test a ... \nskipped: a: no BTF\nok\n{OK}\n{FAILED}\n").as_bytes());
        assert_eq!(reader.finish(), Counts { passed: 7, failed: 2, skipped: 2 });
    }

    #[test]
    fn a_command_that_fails_without_a_failed_test_counts_as_one() {
        let mut command = Command::new("sh");
        assert_eq!(run(command.args(["-c", "exit 1"])).unwrap().failed, 1);
    }
}
