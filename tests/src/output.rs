//! What a command printed, and what a test wants of it.

use serde_json::Value;

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit code; nothing where a signal ended it.
    pub code: Option<i32>,
    /// Data.
    pub stdout: String,
    /// Messages.
    pub stderr: String,
}

impl Output {
    /// Panics, with all that was printed, unless the exit code is 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.exited(0)
    }

    /// Panics, with all that was printed, unless this is the exit code.
    #[track_caller]
    pub fn exited(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// All of stdout as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        self.parse()
    }

    /// All of stdout as one JSON value of this type.
    #[track_caller]
    pub fn parse<T: for<'de> serde::Deserialize<'de>>(&self) -> T {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not as expected: {error}\n{}", self.stdout))
    }

    /// Each line of stdout as a JSON value of this type.
    #[track_caller]
    pub fn parse_lines<T: for<'de> serde::Deserialize<'de>>(&self) -> Vec<T> {
        let parse = |line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("not as expected: {error}\n{line}"))
        };
        self.stdout.lines().map(parse).collect()
    }
}
