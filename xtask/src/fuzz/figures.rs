//! What libFuzzer's last lines say of a run.

use std::fmt;

/// What came of fuzzing one target.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// How many inputs were run.
    pub(super) runs: u64,
    /// Runs in a second, on average.
    pub(super) rate: u64,
    /// How many inputs are kept because each reaches something that no other does; the seeds not included.
    pub(super) corpus: usize,
    /// Whether an input crashed it, or took too long.
    pub(super) has_crashed: bool,
    /// Where that input is.
    pub(super) input: Option<String>,
}

impl Figures {
    /// Takes from one line what it says.
    pub(super) fn take(&mut self, line: &str) {
        let number = |rest: &str| rest.trim().parse().unwrap_or_default();
        if let Some(rest) = line.strip_prefix("stat::number_of_executed_units:") {
            self.runs = number(rest);
        } else if let Some(rest) = line.strip_prefix("stat::average_exec_per_sec:") {
            self.rate = number(rest);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(path.trim().to_owned());
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, rate, corpus, has_crashed, input } = self;
        write!(f, "{runs} runs, {rate} runs/s, corpus {corpus}, ")?;
        match (has_crashed, input) {
            (false, _) => write!(f, "no crash"),
            (true, None) => write!(f, "FAILED: see what it said above"),
            (true, Some(input)) => write!(f, "CRASHED by {input}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_read() {
        let mut figures = Figures { corpus: 7, ..Figures::default() };
        let said = "#9\tDONE   cov: 5 ft: 7 corp: 3/9b exec/s: 4\nDone 123 runs in 4 second(s)\n\
                    stat::number_of_executed_units: 123\nstat::average_exec_per_sec:     30\nstat::peak_rss_mb: 9";
        said.lines().for_each(|line| figures.take(line));
        assert_eq!(figures.to_string(), "123 runs, 30 runs/s, corpus 7, no crash");
    }

    #[test]
    fn a_crash_is_told_with_its_input() {
        let mut figures = Figures { has_crashed: true, ..Figures::default() };
        assert!(figures.to_string().ends_with("FAILED: see what it said above"));
        figures.take("artifact_prefix='x/'; Test unit written to x/crash-1");
        assert!(figures.to_string().ends_with("CRASHED by x/crash-1"), "{figures}");
    }
}
