//! What the stages of a test run came to.

use std::{
    fmt,
    ops::AddAssign,
    time::{Duration, Instant},
};

use anyhow::Result;

/// Counted results: of tests, or of a stage that is one thing that passes or fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Did what they should.
    pub(crate) passed: u64,
    /// Did not.
    pub(crate) failed: u64,
    /// Were not run: ignored tests, and stages that cannot run here.
    pub(crate) skipped: u64,
}

impl Counts {
    /// A stage that is one check.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed), skipped: 0 }
    }

    /// A stage that was not run.
    pub(crate) fn one_skipped() -> Self {
        Self { skipped: 1, ..Self::default() }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// The stages so far.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    stages: Vec<(String, Counts, Duration)>,
}

impl Summary {
    /// Runs one stage under its heading. An error is printed and counts as one failure.
    pub(crate) fn stage(&mut self, name: &str, run: impl FnOnce() -> Result<Counts>) -> Counts {
        println!("\n== {name} ==");
        let began = Instant::now();
        let counts = run().unwrap_or_else(|error| {
            println!("error: {error:#}");
            Counts::one(false)
        });
        let time = began.elapsed();
        println!("-- {name}: {:.1} s", time.as_secs_f64());
        self.stages.push((name.to_owned(), counts, time));
        counts
    }

    /// The sum over all stages.
    pub(crate) fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.stages.iter().for_each(|(_, counts, _)| total += *counts);
        total
    }
}

impl fmt::Display for Summary {
    /// A line per stage; the very last line is the sum, in the words that CI reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.stages.iter().map(|(name, _, _)| name.len()).max().unwrap_or(0);
        writeln!(f, "{:width$}  {:>7} {:>7} {:>7} {:>9}", "stage", "passed", "failed", "skipped", "time")?;
        for (name, counts, time) in &self.stages {
            let Counts { passed, failed, skipped } = counts;
            writeln!(f, "{name:width$}  {passed:>7} {failed:>7} {skipped:>7} {:>7.1} s", time.as_secs_f64())?;
        }
        let Counts { passed, failed, skipped } = self.total();
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_sum_and_an_error_is_a_failure() {
        let mut summary = Summary::default();
        summary.stage("one", || Ok(Counts { passed: 40, failed: 0, skipped: 2 }));
        summary.stage("two", || anyhow::bail!("broken"));
        summary.stage("three", || Ok(Counts::one_skipped()));
        let text = summary.to_string();
        assert_eq!(text.lines().last(), Some("40 passed, 1 failed, 3 skipped"));
        assert_eq!(text.lines().count(), 5);
    }
}
