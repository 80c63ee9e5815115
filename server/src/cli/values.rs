//! The values that options take: text to types, each with an error that names what is allowed.

use std::{net::SocketAddr, str::FromStr};

use serde_json::Value;

use crate::{
    names::{GroupName, NameError, WorkerName},
    policy::WEIGHT_MAX,
};

pub use crate::values::{Seed, StopSignal, ValueError, duration};

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

/// What is drained: `web/0`, or `web/*` for all workers of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// One worker.
    One(WorkerName),
    /// All of this group.
    All(GroupName),
}

impl FromStr for Drained {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_suffix("/*") {
            Some(group) => Ok(Self::All(group.parse()?)),
            None => Ok(Self::One(text.parse()?)),
        }
    }
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
    fn a_target_is_a_group_or_a_worker() {
        let target =
            |text: &str| text.parse::<Target>().map(|target| (target.group.to_string(), target.worker));
        assert_eq!(target("web"), Ok(("web".to_owned(), None)));
        assert_eq!(target("web/3"), Ok(("web".to_owned(), Some(3))));
        assert!(target("web/").is_err());
        assert!(target("").is_err());
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
