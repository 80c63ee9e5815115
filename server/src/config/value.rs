//! From one value of a file to what is meant by it.

use std::{fmt::Display, path::PathBuf, str::FromStr, time::Duration};

use toml::{Spanned, de::DeValue};

use crate::{
    metrics::{MetricsAddress, MetricsAddressError},
    names::{GroupName, NameError},
    policy::{Policy, PolicyError},
    sockets::address::{AddressError, ListenAddress},
    values::{self, Seed, StopSignal, ValueError},
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

pub(super) fn address(value: &Value<'_>) -> Result<ListenAddress, Wrong> {
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
