//! From one value of a file to what is meant by it.

use std::{fmt::Display, path::PathBuf, str::FromStr, time::Duration};

use toml::{Spanned, de::DeValue};

use crate::{
    metrics::{MetricsAddress, MetricsAddressError},
    names::{GroupName, NameError},
    policy::{Policy, PolicyError, WEIGHT_MAX},
    sockets::address::{AddressError, Listen},
    values::{self, Seed, StopSignal, ValueError},
    workers::{
        limits::{Limit, Resource, UNLIMITED},
        user::ResolvedUser,
    },
};

/// A value with its place.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// Why a value is not one, and the way out; an example of the key where it is `None`.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Wrong {
    fn new(message: impl Display, hint: impl Into<String>) -> Self {
        Self { message: message.to_string(), hint: Some(hint.into()) }
    }

    /// It is of another kind.
    pub(super) fn kind(found: &DeValue<'_>, wanted: &str) -> Self {
        let article = if matches!(found, DeValue::Array(_) | DeValue::Integer(_)) { "an" } else { "a" };
        Self { message: format!("{article} {} stands where {wanted} belongs", found.type_str()), hint: None }
    }
}

impl From<ValueError> for Wrong {
    fn from(error: ValueError) -> Self {
        Self::new(&error, error.hint())
    }
}

impl From<AddressError> for Wrong {
    fn from(error: AddressError) -> Self {
        Self::new(&error, error.hint())
    }
}

impl From<PolicyError> for Wrong {
    fn from(error: PolicyError) -> Self {
        Self::new(&error, error.hint())
    }
}

impl From<MetricsAddressError> for Wrong {
    fn from(error: MetricsAddressError) -> Self {
        Self::new(&error, error.hint())
    }
}

impl From<NameError> for Wrong {
    fn from(error: NameError) -> Self {
        Self { message: error.to_string(), hint: None }
    }
}

/// A string as it can be handed to the system: without a zero byte.
pub(super) fn text(value: &Value<'_>) -> Result<String, Wrong> {
    match value.get_ref() {
        DeValue::String(text) if text.contains('\0') => Err(Wrong::new(
            "it contains a zero byte",
            "leave out \\u0000, which ends a string for the system",
        )),
        DeValue::String(text) => Ok(text.clone().into_owned()),
        other => Err(Wrong::kind(other, "a string")),
    }
}

/// A string that is not empty.
pub(super) fn word(value: &Value<'_>) -> Result<String, Wrong> {
    let text = text(value)?;
    if text.is_empty() { Err(Wrong { message: "it is empty".to_owned(), hint: None }) } else { Ok(text) }
}

/// A user of this host, by name or number: its number.
pub(super) fn user(value: &Value<'_>) -> Result<u32, Wrong> {
    let name = word(value)?;
    let resolved = ResolvedUser::resolve(&name);
    resolved.map(|user| user.uid).map_err(|error| Wrong { message: error.to_string(), hint: None })
}

/// A path from the root: a file has no working directory that others could start from.
pub(super) fn absolute(value: &Value<'_>) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(word(value)?);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Wrong { message: format!("{path:?} does not begin with /"), hint: None })
    }
}

/// What a variable of the environment can be called.
pub(super) fn variable(name: &str) -> Result<String, Wrong> {
    if name.is_empty() || name.contains(['=', '\0']) {
        Err(Wrong::new(format!("{name:?} is no name of a variable"), "a name is not empty and has no '='"))
    } else {
        Ok(name.to_owned())
    }
}

/// The index of a worker.
pub(super) fn index(name: &str) -> Result<u32, Wrong> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    name.parse().ok().filter(|_| is_plain).ok_or_else(|| {
        Wrong::new(
            format!("{name:?} is no worker's index"),
            "workers are counted from 0: weights = { 0 = 2 }",
        )
    })
}

/// What a limit can be of.
pub(super) fn resource(name: &str) -> Result<Resource, Wrong> {
    Resource::named(name).ok_or_else(|| {
        Wrong::new(format!("{name:?} is no resource"), format!("resources are {}", Resource::names()))
    })
}

/// A limit: one value for both, or the soft and the hard one.
pub(super) fn limit(value: &Value<'_>) -> Result<Limit, Wrong> {
    let DeValue::Array(values) = value.get_ref() else {
        return bound(value).map(|both| Limit { soft: both, hard: both });
    };
    let [soft, hard] = &values[..] else {
        let message = format!("{} values stand where the soft and the hard limit belong", values.len());
        return Err(Wrong { message, hint: None });
    };
    let (soft_value, hard_value) = (bound(soft)?, bound(hard)?);
    if soft_value <= hard_value {
        return Ok(Limit { soft: soft_value, hard: hard_value });
    }
    let limit = Limit { soft: soft_value, hard: hard_value };
    Err(Wrong::new(
        format!("in {limit} the soft limit is above the hard one"),
        "write the soft limit first, then the hard one, which it may not exceed",
    ))
}

fn bound(value: &Value<'_>) -> Result<u64, Wrong> {
    match value.get_ref() {
        DeValue::String(text) if text == "unlimited" => Ok(UNLIMITED),
        DeValue::Integer(integer) => match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if number < UNLIMITED => Ok(number),
            _ => Err(Wrong::new(
                format!("{integer} is not from 0 to {}", UNLIMITED - 1),
                "write \"unlimited\" for no limit",
            )),
        },
        other => Err(Wrong::kind(other, "a whole number, \"unlimited\" or [SOFT, HARD]")),
    }
}

/// A weight of a worker.
pub(super) fn weight(value: &Value<'_>) -> Result<u32, Wrong> {
    let DeValue::Integer(integer) = value.get_ref() else {
        return Err(Wrong::kind(value.get_ref(), "a whole number"));
    };
    let weight = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
    weight.filter(|weight| *weight <= WEIGHT_MAX).ok_or_else(|| {
        Wrong::new(
            format!("{integer} is not from 0 to {WEIGHT_MAX}"),
            "weights are relative to each other; with 0 a worker gets nothing new",
        )
    })
}

/// A whole number.
pub(super) fn number(value: &Value<'_>) -> Result<u32, Wrong> {
    match value.get_ref() {
        DeValue::Integer(integer) => u32::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| Wrong { message: format!("{integer} is not from 0 to {}", u32::MAX), hint: None }),
        other => Err(Wrong::kind(other, "a whole number")),
    }
}

pub(super) fn name(value: &Value<'_>) -> Result<GroupName, Wrong> {
    parsed(value)
}

pub(super) fn listen(value: &Value<'_>) -> Result<Listen, Wrong> {
    parsed(value)
}

pub(super) fn metrics(value: &Value<'_>) -> Result<MetricsAddress, Wrong> {
    parsed(value)
}

pub(super) fn policy(value: &Value<'_>) -> Result<Policy, Wrong> {
    parsed(value)
}

pub(super) fn seed(value: &Value<'_>) -> Result<[u64; 2], Wrong> {
    parsed::<Seed>(value).map(|seed| seed.0)
}

pub(super) fn signal(value: &Value<'_>) -> Result<i32, Wrong> {
    parsed::<StopSignal>(value).map(|signal| signal.0)
}

pub(super) fn duration(value: &Value<'_>) -> Result<Duration, Wrong> {
    Ok(values::duration(&text(value)?)?)
}

fn parsed<T: FromStr>(value: &Value<'_>) -> Result<T, Wrong>
where
    Wrong: From<T::Err>,
{
    Ok(text(value)?.parse()?)
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&Value<'_>) -> Result<T, Wrong> {
    move |value| {
        let text = text(value)?;
        let choice = choices.iter().find(|(word, _)| *word == text);
        choice.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            Wrong::new(format!("{text:?} is none of its words"), format!("it is one of {}", words.join(", ")))
        })
    }
}
