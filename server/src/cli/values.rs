//! The values that options take: text to types, each with an error that names what is allowed.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use serde_json::Value;
use thiserror::Error;

use crate::{
    names::{GroupName, NameError, WorkerName},
    policy::WEIGHT_MAX,
};

/// A value that is not of the form its option takes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no {what}")]
pub struct ValueError {
    text: String,
    what: &'static str,
    hint: &'static str,
}

impl ValueError {
    fn new(text: &str, what: &'static str, hint: &'static str) -> Self {
        Self { text: text.to_owned(), what, hint }
    }

    /// The way out.
    pub fn hint(&self) -> &'static str {
        self.hint
    }
}

/// A group, or one worker of it: `web` or `web/0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The group.
    pub group: GroupName,
    /// The worker's index; without it, all of the group's.
    pub worker: Option<u32>,
}

impl FromStr for Target {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains('/') {
            let WorkerName { group, index } = text.parse()?;
            Ok(Self { group, worker: Some(index) })
        } else {
            Ok(Self { group: text.parse()?, worker: None })
        }
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

/// A worker's weight.
pub fn weight(text: &str) -> Result<u32, ValueError> {
    // `parse` alone would take "+1" as well.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|weight| digits && *weight <= WEIGHT_MAX).ok_or_else(|| {
        let hint =
            "weights are relative to each other; with 0 a worker gets nothing new and keeps what it has";
        ValueError::new(text, "weight: it is a whole number from 0 to 100", hint)
    })
}

/// A part of a worker's buckets, `5%` or `0.5%`, in thousandths: 1 to 999.
pub fn part(text: &str) -> Result<u32, ValueError> {
    let permille = || {
        let (whole, tenths) = match text.strip_suffix('%')?.split_once('.') {
            Some((whole, tenths)) if tenths.len() == 1 => (whole, tenths),
            Some(_) => return None,
            None => (text.strip_suffix('%')?, "0"),
        };
        let all_digits = whole.bytes().chain(tenths.bytes()).all(|byte| byte.is_ascii_digit());
        let permille = whole.parse::<u32>().ok()?.checked_mul(10)? + tenths.parse::<u32>().ok()?;
        (all_digits && (1..=999).contains(&permille)).then_some(permille)
    };
    permille().ok_or_else(|| {
        let hint =
            "write a percentage with one decimal at most, so that both generations get some: 5% or 0.5%";
        ValueError::new(text, "part of a worker's buckets: it is from 0.1% to 99.9%", hint)
    })
}

/// A client of which the worker is wanted.
pub fn client(text: &str) -> Result<SocketAddr, ValueError> {
    let hint = "write the client's address and its source port: 203.0.113.7:4711 or [2001:db8::7]:4711";
    text.parse().map_err(|_| ValueError::new(text, "client", hint))
}

/// Where clients connect to.
pub fn local(text: &str) -> Result<SocketAddr, ValueError> {
    let hint = "write an address and a port that the group listens on: 10.0.0.1:443 or [2001:db8::1]:443";
    text.parse().map_err(|_| ValueError::new(text, "address with a port", hint))
}

/// The parameters of a call.
pub fn json_object(text: &str) -> Result<Value, ValueError> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => {
            let hint = "write it as one word of the shell, in single quotes: '{\"group\":\"web\"}'";
            Err(ValueError::new(text, "JSON object", hint))
        }
    }
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
    fn a_target_is_a_group_or_a_worker() {
        let target =
            |text: &str| text.parse::<Target>().map(|target| (target.group.to_string(), target.worker));
        assert_eq!(target("web"), Ok(("web".to_owned(), None)));
        assert_eq!(target("web/3"), Ok(("web".to_owned(), Some(3))));
        assert!(target("web/").is_err());
        assert!(target("").is_err());
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

    #[test]
    fn a_weight_is_within_its_range() {
        assert_eq!([weight("0"), weight("7"), weight("100")], [Ok(0), Ok(7), Ok(WEIGHT_MAX)]);
        for text in ["", "101", "-1", "+1", "1.5", "many", "4294967297"] {
            let error = weight(text).unwrap_err();
            assert!(error.to_string().ends_with(&format!("from 0 to {WEIGHT_MAX}")), "{error}");
            assert!(error.hint().contains("with 0 a worker gets nothing new"));
        }
    }

    #[test]
    fn a_part_is_a_percentage_with_something_left_on_both_sides() {
        let parts = ["5%", "0.5%", "0.1%", "99.9%", "50.0%", "05%"].map(|text| part(text).unwrap());
        assert_eq!(parts, [50, 5, 1, 999, 500, 50]);
        for text in [
            "",
            "%",
            "5",
            "0%",
            "0.0%",
            "100%",
            "100.0%",
            "0.05%",
            "5.%",
            ".5%",
            "-5%",
            "+5%",
            "5 %",
            "5%%",
            "1e1%",
            "4294967295%",
        ] {
            let error = part(text).unwrap_err();
            assert!(error.to_string().contains("0.1% to 99.9%"), "{error}");
            assert!(error.hint().contains("5% or 0.5%"));
        }
    }

    #[test]
    fn clients_have_an_address_and_a_port() {
        assert_eq!(client("203.0.113.7:4711"), Ok(([203, 0, 113, 7], 4711).into()));
        assert!(client("[2001:db8::7]:4711").unwrap().is_ipv6());
        for text in ["", "nonsense", "203.0.113.7", "2001:db8::7", "localhost:80", "1.2.3.4:65536"] {
            assert!(client(text).unwrap_err().hint().contains("203.0.113.7:4711"), "{text}");
            assert!(local(text).unwrap_err().hint().contains("listens"), "{text}");
        }
    }

    #[test]
    fn parameters_are_an_object() {
        assert!(json_object("{\"a\": [1]}").is_ok());
        for text in ["", "[]", "5", "{"] {
            assert!(json_object(text).is_err(), "{text}");
        }
    }
}
