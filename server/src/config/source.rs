//! A file's text, and places in it.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::error::ConfigError;

/// One file's text. Cheap to clone: every error holds the text that it points into.
#[derive(Debug, Clone)]
pub(super) struct Source(Arc<File>);

#[derive(Debug)]
struct File {
    path: PathBuf,
    text: String,
    order: usize,
}

/// Some bytes of a file.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) source: Source,
    pub(super) span: Range<usize>,
}

impl Source {
    /// The text of the file that is `order`-th to be read, counted from 0: that is the main one.
    pub(super) fn new(path: PathBuf, text: String, order: usize) -> Self {
        Self(Arc::new(File { path, text, order }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn text(&self) -> &str {
        &self.0.text
    }

    pub(super) fn order(&self) -> usize {
        self.0.order
    }

    pub(super) fn is_main(&self) -> bool {
        self.0.order == 0
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place { source: self.clone(), span }
    }

    /// What the parser has to say of this text.
    pub(super) fn syntax_error(&self, error: &toml::de::Error) -> ConfigError {
        let end = self.0.text.len();
        let place = self.place(error.span().unwrap_or(end..end));
        let hint = if error.message().starts_with("duplicate key") {
            "it is there already: keep one of the two"
        } else {
            "it is not TOML as it stands: see https://toml.io; text stands in quotes, lists in brackets"
        };
        ConfigError::new(error.message().trim_end(), place, hint)
    }
}
