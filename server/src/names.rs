//! The names by which users know groups and workers: `web` and `web/0`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest group name, in bytes: it becomes a directory under bpffs and a part of metric labels.
pub const GROUP_NAME_MAX: usize = 32;

/// A group's name: 1 to [`GROUP_NAME_MAX`] of `a-z`, `0-9`, `-` and `_`, starting with a letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

/// A worker's name, `web/0`: its group and its index in it. It outlives the worker's processes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerName {
    /// The group that the worker is a member of.
    pub group: GroupName,
    /// The worker's index, counted from 0.
    pub index: u32,
}

/// A name that is not of the form that users are promised.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The group's name has a character or a length that is not allowed.
    #[error("{0:?} is no group name: 1 to {GROUP_NAME_MAX} of a-z, 0-9, '-' and '_', starting with a letter")]
    Group(String),
    /// The text is not `GROUP/INDEX`.
    #[error("{0:?} is no worker name: it has the form GROUP/INDEX, for example web/0")]
    Worker(String),
}

impl GroupName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of this group's worker `index`.
    pub fn worker(&self, index: u32) -> WorkerName {
        WorkerName { group: self.clone(), index }
    }
}

impl FromStr for GroupName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let well_formed = text.len() <= GROUP_NAME_MAX
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(allowed);
        if well_formed { Ok(Self(text.to_owned())) } else { Err(NameError::Group(text.to_owned())) }
    }
}

impl FromStr for WorkerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let malformed = || NameError::Worker(text.to_owned());
        let (group, index) = text.split_once('/').ok_or_else(malformed)?;
        // `parse` alone would take "+1" and "007": two spellings of one worker.
        let index =
            index.parse::<u32>().ok().filter(|parsed| parsed.to_string() == index).ok_or_else(malformed)?;
        Ok(Self { group: group.parse()?, index })
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.index)
    }
}

impl TryFrom<String> for GroupName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl TryFrom<String> for WorkerName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<GroupName> for String {
    fn from(name: GroupName) -> Self {
        name.0
    }
}

impl From<WorkerName> for String {
    fn from(name: WorkerName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_name_reads_back_as_written() {
        let name: WorkerName = "web-2/17".parse().unwrap();
        assert_eq!((name.group.as_str(), name.index), ("web-2", 17));
        assert_eq!(name.to_string(), "web-2/17");
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in ["", "Web", "2web", "we b", "web/", "a/b", "../x", &"w".repeat(33)] {
            assert_eq!(text.parse::<GroupName>(), Err(NameError::Group(text.to_owned())));
        }
        for text in ["web", "web/", "web/-1", "web/+1", "web/007", "web/1/2", "web/4294967296"] {
            assert_eq!(text.parse::<WorkerName>(), Err(NameError::Worker(text.to_owned())));
        }
    }
}
