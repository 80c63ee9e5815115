//! What a command printed, with what changes from run to run taken out.

use std::{fs, path::PathBuf};

use steer::policy::WEIGHT_MAX;

use crate::output::Output;

/// Set, to anything, to write the transcripts anew instead of comparing them.
const REWRITE: &str = "STEER_REWRITE_TRANSCRIPTS";

/// Transcripts, by the name of their file, that are compared together: all that differ are told at the end.
#[derive(Debug, Default)]
pub struct Transcripts {
    differing: Vec<String>,
    compared: usize,
}

impl Transcripts {
    /// Compares what `steer ARGUMENTS` printed, and its exit code, with `tests/transcripts/NAME.txt`.
    #[track_caller]
    pub fn compare(&mut self, name: &str, arguments: &str, output: &Output, directory: &str) {
        let Output { code, stdout, stderr } = output;
        let code = code.expect("no signal ends a command");
        let text = format!("$ steer {arguments}\n{stdout}{stderr}exit code {code}\n");
        let found = normalised(&text.replace(directory, "DIRECTORY"));
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("transcripts").join(format!("{name}.txt"));
        if std::env::var_os(REWRITE).is_some() {
            fs::write(&path, found).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
            return;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        self.compared += 1;
        if found != expected {
            self.differing.push(format!("--- {name}, as it was\n{expected}--- as it is\n{found}"));
        }
    }

    /// Panics with every transcript that differs; returns how many were compared.
    #[track_caller]
    pub fn end(self) -> usize {
        let differing = self.differing;
        let hint = format!("hint: {REWRITE}=1 writes them anew, and `git diff` shows what has changed");
        assert!(differing.is_empty(), "{}\n{hint}", differing.join("\n"));
        self.compared
    }
}

/// The text with pids, times, durations and the numbers of tables replaced by words, and blanks of columns by one.
fn normalised(text: &str) -> String {
    // Where the kernel refuses exact looks, receipts say so.
    let text = text.replace(" (an estimate: this kernel does not tell whose they are)", "");
    let text = text.replace("\"handshakes_estimated\":true", "\"handshakes_estimated\":false");
    let mut normalised: String = text.lines().map(|line| line_normalised(line) + "\n").collect();
    // Columns are as wide as the pids in them.
    while normalised.contains("   ") {
        normalised = normalised.replace("   ", "  ");
    }
    normalised
}

fn line_normalised(line: &str) -> String {
    let characters: Vec<char> = line.chars().collect();
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let mut out = String::new();
    let mut at = 0;
    while at < characters.len() {
        let starts = characters[at].is_ascii_digit() && !out.ends_with(|c: char| c.is_ascii_alphanumeric());
        if !starts {
            out.push(characters[at]);
            at += 1;
            continue;
        }
        let length = characters[at..].iter().take_while(|c| is_part(**c)).count();
        let number: String = characters[at..at + length].iter().collect();
        let rest: String = characters[at + length..].iter().collect();
        let (word, taken) = word_for(&out, &number, &rest);
        out += &word;
        at += length + taken;
    }
    out
}

/// What stands for a number between these texts, and how much of what follows goes with it.
fn word_for(before: &str, number: &str, after: &str) -> (String, usize) {
    let ends = |endings: &[&str]| endings.iter().any(|ending| before.ends_with(ending));
    let unit = [" ms", " s", "ms", "s"].into_iter().find(|unit| {
        after.strip_prefix(unit).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
    });
    // 2026-01-31T12:34:56.789Z
    if number.len() == 4 && after.starts_with('-') && after.get(6..7) == Some("T") {
        return ("TIME".into(), after.find('Z').map_or(0, |end| end + 1));
    }
    if ends(&["pid ", "\"pid\":", "\"pid\": "]) {
        return ("PID".into(), 0);
    }
    if ends(&["ms\":", "ms\": ", "milliseconds\":", "milliseconds\": "]) {
        return ("N".into(), 0);
    }
    if ends(&["epoch ", "\"epoch\":", "\"epoch\": "]) {
        return ("EPOCH".into(), 0);
    }
    // A status line of a worker has its pid after its state.
    let states = ["working", "starting", "draining"];
    let is_column =
        before.starts_with("web/") && states.iter().any(|state| before.trim_end().ends_with(state));
    // In the same place `steer policy` has a weight.
    let is_weight = number.parse().is_ok_and(|weight: u32| weight <= WEIGHT_MAX);
    if is_column && before.ends_with(' ') && !is_weight {
        return ("PID".into(), 0);
    }
    match unit {
        // Of receipts; what the command line says of its defaults has no blank.
        Some(unit) if unit.starts_with(' ') => ("N ms".into(), unit.len()),
        _ => (number.to_owned(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_from_run_to_run_is_replaced_and_nothing_else() {
        let cases = [
            ("web/0  working  30746  1  2", "web/0  working  PID  1  2"),
            ("web/1  drained  -  2", "web/1  drained  -  2"),
            (
                "2026-11-21T03:34:30.506Z #1 started web/0 generation 1: pid 19036",
                "TIME #1 started web/0 generation 1: pid PID",
            ),
            (
                "web/0 generation 1: drained in 54 ms, generation 2",
                "web/0 generation 1: drained in N ms, generation 2",
            ),
            ("done in 1.2 s, 2 receipts", "done in N ms, 2 receipts"),
            (
                "{\"pid\":7,\"unix_ms\":8,\"milliseconds\":9,\"slot\":3}",
                "{\"pid\":PID,\"unix_ms\":N,\"milliseconds\":N,\"slot\":3}",
            ),
            (
                "[default: 30s] tcp://127.0.0.1:8080 epoch 3",
                "[default: 30s] tcp://127.0.0.1:8080 epoch EPOCH",
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(line_normalised(text), wanted);
        }
    }
}
