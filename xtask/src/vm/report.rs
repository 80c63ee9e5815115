//! Reads what a guest reports: the lines of `init.sh`, with the tests' own output between them.

use std::collections::BTreeMap;

/// How a test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// It passed, and what it held steer to is what is promised where the kernel lacks something; or it was not run for that.
    NotSupported(String),
    Failed(String),
    Skipped(String),
}

/// What a guest reported.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The kernel's release; none where it did not come as far.
    pub(crate) kernel: Option<String>,
    /// By the tests' names.
    pub(crate) tests: BTreeMap<String, (Outcome, u64)>,
}

/// Reads a report, whole or cut off.
pub(crate) fn read(lines: &[String]) -> Report {
    let mut report = Report::default();
    let mut output: Vec<&str> = Vec::new();
    for line in lines {
        let Some(said) = line.strip_prefix("@steer ") else {
            output.push(line);
            continue;
        };
        let words: Vec<&str> = said.splitn(3, ' ').collect();
        match words[..] {
            ["kernel", release] => report.kernel = Some(release.to_owned()),
            ["begin", _] => output.clear(),
            ["end", name, how] => {
                let (status, seconds) = how.split_once(' ').unwrap_or((how, ""));
                let ended = (outcome(status, &output), seconds.parse().unwrap_or_default());
                report.tests.insert(name.to_owned(), ended);
            }
            ["unsupported", name, why] => {
                report.tests.insert(name.to_owned(), (Outcome::NotSupported(why.to_owned()), 0));
            }
            _ => {}
        }
    }
    report
}

/// libtest's exit status, and what was printed. A test prints on the line that libtest has begun with its name.
fn outcome(status: &str, output: &[&str]) -> Outcome {
    let ran_none = output.iter().any(|line| line.starts_with("running 0 tests"));
    let ignored = output.iter().find_map(|line| line.split_once(" ... ignored"));
    match status {
        "0" if ran_none => Outcome::Failed("the test is not in its binary".into()),
        "0" if ignored.is_some() => {
            let why = ignored.map_or("", |(_, why)| why.trim_start_matches([',', ' ']));
            Outcome::Skipped(if why.is_empty() { "ignored".into() } else { why.into() })
        }
        "0" => match output.iter().find_map(|line| line.split_once("not supported: ")) {
            Some((_, why)) => Outcome::NotSupported(why.to_owned()),
            None => Outcome::Passed,
        },
        "137" | "143" => Outcome::Failed("it took too long, or was killed".into()),
        _ => {
            // The message is on the line after the place.
            let place = output.iter().position(|line| line.contains("panicked at "));
            let message = place.and_then(|place| output.get(place + 1)).copied().unwrap_or("no panic");
            Outcome::Failed(format!("status {status}: {message}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Report {
        read(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn each_test_has_its_own_outcome() {
        let report = of(
            "boot\n@steer kernel 5.10.0-46\n@steer begin m::a\nrunning 1 test\ntest a ... ok\n@steer end m::a 0 7\n\
                         @steer begin m::b\ntest b ... not supported: migration: none\nok\n@steer end m::b 0 1\n\
                         @steer unsupported x::c migration: none\n\
                         @steer begin m::d\ntest d ... thread 'd' panicked at d.rs:1:2:\nleft: 1\n@steer end m::d 101 2\n",
        );
        assert_eq!(report.kernel.as_deref(), Some("5.10.0-46"));
        assert_eq!(report.tests["m::a"], (Outcome::Passed, 7));
        assert_eq!(report.tests["m::b"].0, Outcome::NotSupported("migration: none".into()));
        assert_eq!(report.tests["x::c"].0, Outcome::NotSupported("migration: none".into()));
        assert_eq!(report.tests["m::d"].0, Outcome::Failed("status 101: left: 1".into()));
    }

    #[test]
    fn a_test_that_did_not_run_has_not_passed() {
        let report = of("@steer begin m::a\nrunning 0 tests\n@steer end m::a 0 0\n@steer begin m::b\nhangs");
        assert!(matches!(report.tests["m::a"].0, Outcome::Failed(_)));
        assert!(!report.tests.contains_key("m::b"));
        let ignored = of("@steer begin m::a\ntest a ... ignored, no nft\n@steer end m::a 0 0\n");
        assert_eq!(ignored.tests["m::a"].0, Outcome::Skipped("no nft".into()));
    }
}
