//! TOML as a flat list of settings: dotted keys, each with its text and its line.

use std::path::Path;

use toml::{Table, Value};
use toml_edit::{Item, TableLike};

use crate::Error;
use crate::config::Override;

/// One key with one value.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// With its section: `optimizer.rho`.
    pub(super) key: String,
    /// As it is written, in TOML.
    pub(super) raw: String,
    pub(super) value: Value,
    /// File and line, or the argument.
    pub(super) place: String,
    /// The elements as they are written, if it is a list.
    elements: Option<Vec<String>>,
}

impl Setting {
    /// `key=value` as `--set` takes it; the value is TOML, or else a bare string.
    pub(super) fn from_argument(argument: &str) -> Result<Self, Error> {
        Override::parse(argument)?; // for its messages
        let (key, raw) = argument.split_once('=').expect("Override::parse looked for it");
        let key = key.split('.').map(str::trim).collect::<Vec<_>>().join(".");
        let raw = raw.trim();
        let (value, raw) = if let Ok(value) = raw.parse::<Value>() {
            (value, raw.to_owned())
        } else {
            let value = Value::String(raw.to_owned());
            (value.clone(), value.to_string())
        };
        Ok(Self { key, raw, value, place: format!("--set {argument}"), elements: None })
    }

    /// A list of whole numbers from the command line.
    pub(super) fn list(place: &str, key: &str, numbers: &[String]) -> Result<Self, Error> {
        let raw = format!("[{}]", numbers.join(", "));
        let value = raw.parse::<Value>();
        let value = value.map_err(|err| Error::argument(place, err.message().to_owned()))?;
        Ok(Self { key: key.to_owned(), raw, value, place: place.to_owned(), elements: None })
    }

    /// What a table shows: as it is written, strings without their quotes.
    pub(super) fn text(&self) -> String {
        self.value.as_str().map_or_else(|| self.raw.clone(), str::to_owned)
    }

    /// The setting as a change of a run's configuration; `of` says in messages what for.
    pub(super) fn as_override(&self, of: &str) -> Override {
        let place = format!("{}{of}: {} = {}", self.place, self.key, self.raw);
        Override::from_place(place, &self.key, self.value.clone())
    }

    /// An error about this setting; `message` is the rest of a sentence that starts with its key.
    pub(super) fn error(&self, message: impl AsRef<str>) -> Error {
        let message = format!("{} = {} {}", self.key, self.raw, message.as_ref());
        Error::Config { place: self.place.clone(), message }
    }

    /// The same value under another key.
    pub(super) fn renamed(mut self, key: &str) -> Self {
        key.clone_into(&mut self.key);
        self
    }

    /// The elements of a list, each as a setting of the list's key.
    pub(super) fn elements(&self) -> Option<Vec<Self>> {
        let values = self.value.as_array()?.iter();
        let element = |(i, value): (usize, &Value)| Self {
            key: self.key.clone(),
            raw: self.elements.as_ref().map_or_else(|| value.to_string(), |raw| raw[i].clone()),
            value: value.clone(),
            place: self.place.clone(),
            elements: None,
        };
        Some(values.enumerate().map(element).collect())
    }
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|err| Error::Config {
        place: path.display().to_string(),
        message: format!("cannot be read: {err}"),
    })
}

/// A parsed TOML file.
pub(super) struct Document<'a> {
    name: &'a str,
    text: &'a str,
    spans: toml_edit::Document<&'a str>,
    values: Table,
}

impl<'a> Document<'a> {
    /// Parses `text`, which messages call `name`.
    pub(super) fn parse(name: &'a str, text: &'a str) -> Result<Self, Error> {
        let values: Table = toml::from_str(text).map_err(|err| {
            let line = err.span().map_or(1, |span| line_of(text, span.start));
            Error::Config { place: format!("{name}:{line}"), message: err.message().to_owned() }
        })?;
        let spans = toml_edit::Document::parse(text).map_err(|err| Error::Config {
            place: name.to_owned(),
            message: err.message().to_owned(),
        })?;
        Ok(Self { name, text, spans, values })
    }

    /// An error about the whole file.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::Config { place: self.name.to_owned(), message: message.into() }
    }

    /// Refuses other sections than these.
    pub(super) fn only(&self, sections: &[&str]) -> Result<(), Error> {
        for (name, item) in self.spans.iter() {
            if !sections.contains(&name) {
                let place = self.place(self.spans.as_table(), name, item);
                let message =
                    format!("unknown key {name:?}, expected one of {}", sections.join(", "));
                return Err(Error::Config { place, message });
            }
        }
        Ok(())
    }

    /// Everything.
    pub(super) fn all(&self) -> Result<Vec<Setting>, Error> {
        self.flatten("", self.spans.as_table(), &self.values)
    }

    /// The settings of a section, without its name; none if there is no such section.
    pub(super) fn section(&self, name: &str) -> Result<Vec<Setting>, Error> {
        let Some(item) = self.spans.get(name) else {
            return Ok(Vec::new());
        };
        match (item.as_table_like(), self.values[name].as_table()) {
            (Some(table), Some(values)) => self.flatten("", table, values),
            _ => Err(self.wrong(name, item, "must be a section")),
        }
    }

    /// The tables of `[[name]]`, each with its place.
    pub(super) fn tables(&self, name: &str) -> Result<Vec<(String, Vec<Setting>)>, Error> {
        let Some(item) = self.spans.get(name) else {
            return Ok(Vec::new());
        };
        let wrong = || self.wrong(name, item, "must be a list of sections, [[…]]");
        let values = self.values[name].as_array().ok_or_else(wrong)?;
        let tables: Vec<&dyn TableLike> = match item {
            Item::ArrayOfTables(tables) => tables.iter().map(|t| t as &dyn TableLike).collect(),
            Item::Value(toml_edit::Value::Array(list)) => list
                .iter()
                .filter_map(|v| v.as_inline_table())
                .map(|t| t as &dyn TableLike)
                .collect(),
            _ => return Err(wrong()),
        };
        if tables.len() != values.len() {
            return Err(wrong());
        }
        let each = tables.into_iter().zip(values).map(|(table, values)| {
            let first = table.iter().next();
            let place =
                first.map_or(self.name.to_owned(), |(key, item)| self.place(table, key, item));
            let values = values.as_table().ok_or_else(wrong)?;
            Ok((place, self.flatten("", table, values)?))
        });
        each.collect()
    }

    fn wrong(&self, name: &str, item: &Item, message: &str) -> Error {
        let place = self.place(self.spans.as_table(), name, item);
        Error::Config { place, message: format!("{name} {message}") }
    }

    fn flatten(
        &self,
        prefix: &str,
        table: &dyn TableLike,
        values: &Table,
    ) -> Result<Vec<Setting>, Error> {
        let mut settings: Vec<Setting> = Vec::new();
        for (name, item) in table.iter() {
            let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            let value = &values[name];
            let found = match (item.as_table_like(), value.as_table()) {
                (Some(inner), Some(values)) => self.flatten(&key, inner, values)?,
                _ => vec![self.setting(key, self.place(table, name, item), item, value)],
            };
            for setting in found {
                if settings.iter().any(|earlier| earlier.key == setting.key) {
                    return Err(setting.error("is written twice"));
                }
                settings.push(setting);
            }
        }
        Ok(settings)
    }

    fn setting(&self, key: String, place: String, item: &Item, value: &Value) -> Setting {
        let written = |span: Option<std::ops::Range<usize>>, value: &Value| match span {
            Some(span) => self.text[span].to_owned(),
            None => value.to_string(),
        };
        let list = item.as_array().zip(value.as_array());
        let elements = list.map(|(list, values)| {
            list.iter().zip(values).map(|(item, value)| written(item.span(), value)).collect()
        });
        // Of [[…]] the span is that of several lines which are no value.
        let span = item.as_value().and_then(toml_edit::Value::span);
        Setting { key, raw: written(span, value), value: value.clone(), place, elements }
    }

    /// File and line of a key.
    fn place(&self, table: &dyn TableLike, name: &str, item: &Item) -> String {
        let key = table.get_key_value(name).and_then(|(key, _)| key.span());
        match key.or_else(|| item.span()) {
            Some(span) => format!("{}:{}", self.name, line_of(self.text, span.start)),
            None => self.name.to_owned(),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}
