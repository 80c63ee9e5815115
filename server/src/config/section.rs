//! One table of a file: its keys are taken one by one, and what is wrong with them is gathered.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::ConfigError,
    keys,
    source::Source,
    value::{Value, Wrong},
};

/// A table of which the unknown keys have been told.
#[derive(Debug)]
pub(super) struct Section<'a> {
    source: &'a Source,
    name: &'static str,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    errors: &'a mut Vec<ConfigError>,
    before: usize,
}

impl<'a> Section<'a> {
    /// The table `name` of [`keys::KEYS`]. `span` is its header's.
    pub(super) fn new(
        source: &'a Source,
        name: &'static str,
        table: &'a DeTable<'a>,
        span: Range<usize>,
        errors: &'a mut Vec<ConfigError>,
    ) -> Self {
        let before = errors.len();
        for key in table.keys().filter(|key| !keys::of(name).any(|known| known.name == key.get_ref())) {
            let message = format!("{} has no key {:?}", keys::header(name), key.get_ref());
            let place = source.place(key.span());
            errors.push(ConfigError::new(message, place, keys::instead(name, key.get_ref())));
        }
        Self { source, name, table, span, errors, before }
    }

    pub(super) fn source(&self) -> &'a Source {
        self.source
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Whether something was wrong in it.
    pub(super) fn is_wrong(&self) -> bool {
        self.errors.len() > self.before
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where the key's value is, if it is there.
    pub(super) fn place_of(&self, key: &str) -> Option<Range<usize>> {
        self.table.get(key).map(Spanned::span)
    }

    /// Tells that the key is missing, if it is.
    pub(super) fn require(&mut self, key: &'static str) {
        if !self.has(key) {
            let message = format!("{} has no {key}", keys::header(self.name));
            self.error(message, self.span(), format!("add {}", keys::example(self.name, key)));
        }
    }

    /// Tells that the key's array is empty, if it is.
    pub(super) fn require_some(&mut self, key: &'static str) {
        if let Some(value) = self.table.get(key)
            && value.get_ref().as_array().is_some_and(|values| values.is_empty())
        {
            let message = "it is empty, and needs one at least".to_owned();
            self.wrong(key, value.span(), Wrong { message, hint: None });
        }
    }

    /// Refuses a key that is known, but not in this file.
    pub(super) fn refuse(&mut self, key: &str, message: &str, hint: &str) {
        if let Some(value) = self.table.get(key) {
            self.error(message, value.span(), hint);
        }
    }

    /// The key's value; `None` where it is not there, or is wrong, which is told.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        let value = self.table.get(key)?;
        self.read(key, value, read)
    }

    /// What the key's array holds, without what is wrong in it, which is told.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&Value<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<Vec<Spanned<T>>>> {
        let value = self.table.get(key)?;
        let DeValue::Array(values) = value.get_ref() else {
            self.wrong(key, value.span(), Wrong::kind(value.get_ref(), "an array of strings"));
            return None;
        };
        let values = values.iter().filter_map(|value| self.read(key, value, &read)).collect();
        Some(Spanned::new(value.span(), values))
    }

    /// The table under a key, which [`keys::KEYS`] calls `name`.
    pub(super) fn table(&mut self, key: &'static str, name: &'static str) -> Option<Section<'_>> {
        let value = self.table.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.inner(name, table, value.span())),
            other => {
                self.wrong(key, value.span(), Wrong::kind(other, "a table"));
                None
            }
        }
    }

    /// A table within this one, which [`keys::KEYS`] calls `name`.
    pub(super) fn inner(
        &mut self,
        name: &'static str,
        table: &'a DeTable<'a>,
        span: Range<usize>,
    ) -> Section<'_> {
        Section::new(self.source, name, table, span, self.errors)
    }

    /// The tables of the array under a key, each with its header's place.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<(&'a DeTable<'a>, Range<usize>)> {
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let DeValue::Array(values) = value.get_ref() else {
            self.wrong(key, value.span(), Wrong::kind(value.get_ref(), "an array of tables"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for value in values.iter() {
            match value.get_ref() {
                DeValue::Table(table) => tables.push((table, value.span())),
                other => self.wrong(key, value.span(), Wrong::kind(other, "a table")),
            }
        }
        tables
    }

    /// The names and values of the table under a key, in the order of the names.
    pub(super) fn pairs<N, T>(
        &mut self,
        key: &'static str,
        read_name: impl Fn(&str) -> Result<N, Wrong>,
        read: impl Fn(&Value<'_>) -> Result<T, Wrong>,
    ) -> Vec<(N, T)> {
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong(key, value.span(), Wrong::kind(value.get_ref(), "a table"));
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, value) in table {
            let read_name = read_name(name.get_ref()).map_err(|wrong| self.wrong(key, name.span(), wrong));
            let value = self.read(key, value, &read);
            if let (Ok(name), Some(value)) = (read_name, value) {
                pairs.push((name, value.into_inner()));
            }
        }
        pairs
    }

    /// Tells of something that is wrong at `span`.
    pub(super) fn error(&mut self, message: impl Into<String>, span: Range<usize>, hint: impl Into<String>) {
        self.errors.push(ConfigError::new(message, self.source.place(span), hint));
    }

    fn read<T>(
        &mut self,
        key: &'static str,
        value: &Value<'_>,
        read: impl FnOnce(&Value<'_>) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        match read(value) {
            Ok(read) => Some(Spanned::new(value.span(), read)),
            Err(wrong) => {
                self.wrong(key, value.span(), wrong);
                None
            }
        }
    }

    fn wrong(&mut self, key: &'static str, span: Range<usize>, Wrong { message, hint }: Wrong) {
        let hint = hint.unwrap_or_else(|| format!("write it like {}", keys::example(self.name, key)));
        self.error(format!("{key}: {message}"), span, hint);
    }
}
