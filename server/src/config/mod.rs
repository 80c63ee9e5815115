//! The daemon's configuration as an operator writes it: `steer.toml`, and `conf.d/*.toml` beside it.
//!
//! [`files`] reads; all else is a function of the files' texts. Whether the users, programs and addresses that are named exist
//! is not asked here: the daemon finds out when it opens the groups. Reading goes on after an error, so that one run tells
//! of all: a table is walked key by key, where deriving `Deserialize` would stop at the first wrong one.

mod between;
mod error;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod group;
mod keys;
mod section;
mod source;
#[cfg(test)]
mod tests;
mod value;

use std::path::{Path, PathBuf};

use toml::{Spanned, de::DeTable};

use crate::{daemon::settings::GroupSettings, metrics::MetricsAddress, values::LogFormat};

pub use self::error::{ConfigError, ConfigErrors};
use self::{group::FoundGroup, section::Section, source::Source};

/// Where the configuration is, unless said otherwise.
pub const DEFAULT_PATH: &str = "/etc/steer/steer.toml";

/// The words for [`LogFormat`].
const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

/// A configuration without errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What is for the daemon itself.
    pub daemon: DaemonSettings,
    /// The groups, in the order in which they are written. There may be none: servers can be adopted at any time.
    pub groups: Vec<GroupSettings>,
    /// The files that were read, in that order.
    pub files: Vec<PathBuf>,
}

/// What is for the daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DaemonSettings {
    /// The control socket; the command line's where it is `None`.
    pub socket: Option<PathBuf>,
    /// The users that may change things, by name or number, beside root and the daemon's own.
    pub access: Vec<String>,
    /// Where metrics are served, if they are.
    pub metrics: Option<MetricsAddress>,
    /// How the log is written.
    pub log_format: LogFormat,
}

/// Reads the configuration at `path`, and `conf.d/*.toml` in the same directory, in order of name.
///
/// Reads files and does nothing else. Fails with every error of every file, each with its place and a hint.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let (sources, unread) = files::read(path);
    understand(&sources, unread)
}

/// The configuration that the texts are, if nothing is wrong with them, and nothing was before.
fn understand(sources: &[Source], mut errors: Vec<ConfigError>) -> Result<Config, ConfigErrors> {
    let mut daemon = DaemonSettings::default();
    let mut found = Vec::new();
    for source in sources {
        let (document, broken) = DeTable::parse_recoverable(source.text());
        if !broken.is_empty() {
            // What follows from half a document would be about what is missing from it.
            errors.extend(broken.iter().map(|error| source.syntax_error(error)));
            continue;
        }
        let mut top = Section::new(source, "", document.get_ref(), document.span(), &mut errors);
        if source.is_main() {
            if let Some(section) = top.table("daemon", "daemon") {
                daemon = read_daemon(section);
            }
        } else {
            top.refuse("daemon", "a file of conf.d holds groups only", "write [daemon] in the main file");
        }
        for (table, span) in top.tables("group") {
            found.push(group::read(top.inner("group", table, span)));
        }
    }
    between::check(&found, &mut errors);
    if !errors.is_empty() {
        return Err(ConfigErrors::new(errors));
    }
    Ok(Config {
        daemon,
        groups: found.into_iter().filter_map(|FoundGroup { settings, .. }| settings).collect(),
        files: sources.iter().map(|source| source.path().to_owned()).collect(),
    })
}

fn read_daemon(mut section: Section<'_>) -> DaemonSettings {
    let access = section.list("access", value::word).map_or_else(Vec::new, Spanned::into_inner);
    DaemonSettings {
        socket: section.get("socket", value::absolute).map(Spanned::into_inner),
        access: access.into_iter().map(Spanned::into_inner).collect(),
        metrics: section.get("metrics", value::metrics).map(Spanned::into_inner),
        log_format: section
            .get("log_format", value::one_of(&LOG_FORMATS))
            .map_or(LogFormat::default(), Spanned::into_inner),
    }
}
