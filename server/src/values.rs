//! Values as users write them, in options and in files: seeds, signals, durations.

use std::{str::FromStr, time::Duration};

use thiserror::Error;

/// A value that is not of the form that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no {what}")]
pub struct ValueError {
    text: String,
    what: &'static str,
    hint: &'static str,
}

impl ValueError {
    pub(crate) fn new(text: &str, what: &'static str, hint: &'static str) -> Self {
        Self { text: text.to_owned(), what, hint }
    }

    /// The way out.
    pub fn hint(&self) -> &'static str {
        self.hint
    }
}

/// A seed of 128 bits, written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u64; 2]);

impl FromStr for Seed {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || {
            ValueError::new(
                text,
                "seed",
                "a seed has 32 hexadecimal digits; `openssl rand -hex 16` draws one",
            )
        };
        // `from_str_radix` alone would take a sign as well.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error());
        }
        let half = |digits| u64::from_str_radix(digits, 16).map_err(|_| error());
        Ok(Self([half(&text[..16])?, half(&text[16..])?]))
    }
}

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// A line of text for people.
    #[default]
    Text,
    /// A JSON object on each line.
    Json,
}

/// A signal, by name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(pub i32);

/// The signals that programs take as a word to stop or to hand over.
const SIGNALS: [(&str, i32); 8] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("TERM", libc::SIGTERM),
    ("WINCH", libc::SIGWINCH),
];

impl FromStr for StopSignal {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let by_name = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        // 64 is the last of Linux's real-time signals.
        let number = by_name.or_else(|| text.parse().ok().filter(|number| (1..=64).contains(number)));
        number.map(Self).ok_or_else(|| {
            let hint = "signals are HUP, INT, QUIT, KILL, USR1, USR2, TERM, WINCH, or a number from 1 to 64";
            ValueError::new(text, "signal", hint)
        })
    }
}

/// A duration with its unit: `500ms`, `30s`, `2m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, ValueError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds: Option<u64> = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    milliseconds
        .and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            ValueError::new(text, "duration", "write a whole number and its unit: 500ms, 30s, 2m or 1h")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        let milliseconds = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(milliseconds("500ms"), Ok(500));
        assert_eq!(milliseconds("30s"), Ok(30_000));
        assert_eq!(milliseconds("2m"), Ok(120_000));
        assert_eq!(milliseconds("1h"), Ok(3_600_000));
        assert_eq!(milliseconds("0s"), Ok(0));
        for text in
            ["", "5", "s", "-5s", "1.5s", "5 s", "5min", "99999999999999999999s", "18446744073709551615h"]
        {
            let error = duration(text).unwrap_err();
            assert_eq!(error.to_string(), format!("{text:?} is no duration"));
            assert!(error.hint().contains("500ms"));
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(text.parse(), Ok(StopSignal(libc::SIGTERM)));
        }
        for text in ["", "SIG", "0", "65", "-15", "NOPE"] {
            assert!(text.parse::<StopSignal>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_seed_has_32_digits() {
        let seed: Seed = "000102030405060708090a0b0c0d0eFF".parse().unwrap();
        assert_eq!(seed, Seed([0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0eff]));
        for text in ["", "12", "+00102030405060708090a0b0c0d0e0f", "é00102030405060708090a0b0c0d0e0"] {
            assert!(text.parse::<Seed>().is_err(), "{text}");
        }
    }
}
